"""OpenEMR's rows of an entity as they are now, for telling which columns a write would change or has changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import sqlalchemy as sa

from connectors.events import EntityKey
from consumer.openemr import encounter, order, patient, prescription
from consumer.openemr.statements import chunks
from consumer.ports import Mapped

Columns: TypeAlias = Mapping[str, Any]
"""Values by table and column, such as patient_data.lname."""

# They change with every write, whatever it says.
_OF_THE_WRITE: Final = frozenset(
    {
        "patient_data.date",
        "patient_data.updated_by",
        "patient_data.last_updated",
        "form_encounter.last_update",
        "prescriptions.date_modified",
        "prescriptions.updated_by",
    }
)

# Per kind: table, the column that the mapped number is in, whether that is row_id, and a condition.
_TABLES: Final = {
    patient.KIND: (("patient_data", "pid", False, ""),),
    encounter.KIND: (
        ("form_encounter", "id", True, ""),
        ("forms", "form_id", True, "AND formdir = 'newpatient'"),
    ),
    order.KIND: (
        ("procedure_order", "procedure_order_id", False, ""),
        ("procedure_order_code", "procedure_order_id", False, "AND procedure_order_seq = 1"),
        ("forms", "form_id", False, "AND formdir = 'procedure_order'"),
    ),
    prescription.KIND: (("prescriptions", "id", False, ""),),
}


def rows(connection: sa.Connection, mapped: Mapping[EntityKey, Mapped]) -> Mapping[EntityKey, Columns]:
    """Read the rows of entities, without times and authors of the last write; an entity without row has no columns."""
    found: dict[EntityKey, dict[str, Any]] = {key: {} for key in mapped}
    for kind, tables in _TABLES.items():
        of_kind = {key: one for key, one in mapped.items() if one.kind == kind}
        for table, id_column, by_row, condition in tables:
            keys = {number: key for key, one in of_kind.items() if (number := one.row_id if by_row else one.local_id)}
            sql = f"SELECT * FROM {table} WHERE {id_column} IN %s {condition}"  # noqa: S608 - names are ours
            for row in _named(connection, sql, list(keys)):
                values = {f"{table}.{name}": value for name, value in row.items()}
                found[keys[row[id_column]]] |= {
                    name: value for name, value in values.items() if name not in _OF_THE_WRITE
                }
    return found


def _named(connection: sa.Connection, sql: str, ids: Sequence[int]) -> Iterator[sa.RowMapping]:
    """Run a SELECT for so many ids, and give each row by the names of its columns."""
    for chunk in chunks(ids):
        yield from connection.exec_driver_sql(sql, (tuple(chunk),)).mappings()


def differing(before: Columns, after: Columns) -> tuple[str, ...]:
    """Name the columns that are not alike, in order; their values are nobody's business here."""
    return tuple(sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)))
