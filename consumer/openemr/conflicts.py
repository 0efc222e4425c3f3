"""What a clerk's merge or deletion leaves behind in the ledger's map, and the three ways to settle it."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import sqlalchemy as sa

from connectors.events import EntityKey
from connectors.outbox import EntityType
from consumer.openemr.ledger_schema import checked_schema
from consumer.openemr.trail import Action, TrailEntry, write_trail
from consumer.openemr.writing import GONE

# By kind: table, column of the number that the map holds, column that must be the patient's.
_TABLES: Final = {
    "patient": ("patient_data", "pid", None),
    "encounter": ("form_encounter", "encounter", "pid"),
    "order": ("procedure_order", "procedure_order_id", "patient_id"),
    "medication": ("prescriptions", "id", "patient_id"),
}
_MAPPED: Final = """
    SELECT kind, local_id, uuid, parent_id, last_seq, content_hash, deleted_at FROM {ledger}.entity_map
    WHERE entity_type = %s AND entity_id = %s {lock}
"""
# Where the visits of a patient whose row is gone stand now: a merge repoints them, a deletion removes them.
_VISITS_NOW: Final = """
    SELECT DISTINCT e.pid FROM {ledger}.entity_map AS m JOIN form_encounter AS e ON e.uuid = m.uuid
    WHERE m.entity_type = 'encounter' AND m.parent_id = %s LIMIT 10
"""
_BORNE_BY: Final = """
    SELECT entity_id FROM {ledger}.entity_map
    WHERE uuid = %s AND local_id IS NOT NULL AND deleted_at IS NULL AND NOT (entity_type = %s AND entity_id = %s)
"""


class ConflictError(Exception):
    """A conflict cannot be settled in the way asked for; the message says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Conflict:
    """An entity whose row in OpenEMR is gone or is no longer ours.

    candidates: of a patient, the numbers of the charts that hold his visits now, which is where a merge put them.
    """

    entity_type: EntityType
    entity_id: str
    kind: str
    local_id: int
    candidates: tuple[int, ...]


def parent_gone(key: EntityKey) -> str:
    """Give the message of events that failed because the row of this parent of theirs was gone."""
    return f"{key.entity_type}_id: {GONE}"


def find_conflict(connection: sa.Connection, ledger_schema: str, key: EntityKey) -> Conflict | None:
    """Return the entity's conflict; None when its row is there, it is not mapped, or it was deleted."""
    ledger = checked_schema(ledger_schema)
    row = _mapped(connection, ledger, key, lock=False)
    if row is None or row.local_id is None or row.deleted_at is not None or _is_there(connection, row):
        return None
    candidates: tuple[int, ...] = ()
    if row.kind == "patient":
        found = connection.exec_driver_sql(_VISITS_NOW.format(ledger=ledger), (key.entity_id,))
        candidates = tuple(int(one[0]) for one in found if one[0] is not None)
    return Conflict(key.entity_type, key.entity_id, row.kind, int(row.local_id), candidates)


def adopt(connection: sa.Connection, ledger_schema: str, key: EntityKey, number: int, author: str) -> None:
    """Let the entity be the row that bears this number in OpenEMR; its next event writes into that row.

    Raises:
        ConflictError: there is no conflict, no such row, or the row is another entity's or another patient's.
    """
    ledger = checked_schema(ledger_schema)
    row = _conflicting(connection, ledger, key)
    table, id_column, owner = _TABLES[row.kind]
    columns = f"id, uuid, {owner or id_column}" if row.kind == "encounter" else f"NULL, uuid, {owner or id_column}"
    rows = connection.exec_driver_sql(
        f"SELECT {columns} FROM {table} WHERE {id_column} = %s FOR UPDATE",  # noqa: S608 - names are ours
        (number,),
    ).all()
    if len(rows) != 1 or rows[0][1] is None:
        raise ConflictError(f"OpenEMR has not one {row.kind} {number} with a uuid")
    found = rows[0]
    borne = connection.exec_driver_sql(_BORNE_BY.format(ledger=ledger), (found[1], key.entity_type, key.entity_id))
    if other := borne.scalar():
        raise ConflictError(f"{row.kind} {number} is {other} already")
    if owner is not None:
        patient = _mapped(connection, ledger, EntityKey(EntityType.PATIENT, row.parent_id), lock=False)
        if patient is None or patient.local_id != found[2]:
            raise ConflictError(f"{row.kind} {number} is of another patient than {row.parent_id}")
    _set(connection, ledger, key, "local_id = %s, row_id = %s, uuid = %s", (number, found[0], found[1]))
    write_trail(connection, ledger, [_entry(key, Action.ADOPT, row)], author)


def recreate(connection: sa.Connection, ledger_schema: str, key: EntityKey, author: str) -> None:
    """Let the entity's next event insert a new row, under a new number and the same uuid.

    Raises:
        ConflictError: there is no conflict.
    """
    ledger = checked_schema(ledger_schema)
    row = _conflicting(connection, ledger, key)
    _set(connection, ledger, key, "local_id = NULL, row_id = NULL", ())
    write_trail(connection, ledger, [_entry(key, Action.RECREATE, row)], author)


def drop(connection: sa.Connection, ledger_schema: str, key: EntityKey, through_seq: int, author: str) -> None:
    """Take OpenEMR's side: the entity counts as deleted, and its events up to this seq as stale.

    Raises:
        ConflictError: there is no conflict.
    """
    ledger = checked_schema(ledger_schema)
    row = _conflicting(connection, ledger, key)
    sets = "local_id = NULL, row_id = NULL, deleted_at = UTC_TIMESTAMP(6), last_seq = GREATEST(last_seq, %s)"
    _set(connection, ledger, key, sets, (through_seq,))
    write_trail(connection, ledger, [_entry(key, Action.DROP, row)], author)


def _mapped(connection: sa.Connection, ledger: str, key: EntityKey, *, lock: bool) -> Any:
    sql = _MAPPED.format(ledger=ledger, lock="FOR UPDATE" if lock else "")
    return connection.exec_driver_sql(sql, (key.entity_type.value, key.entity_id)).one_or_none()


def _conflicting(connection: sa.Connection, ledger: str, key: EntityKey) -> Any:
    row = _mapped(connection, ledger, key, lock=True)
    if row is None or row.local_id is None or row.deleted_at is not None:
        raise ConflictError(f"{key.entity_type} {key.entity_id} is mapped to no live row")
    if _is_there(connection, row):
        raise ConflictError(f"{key.entity_type} {key.entity_id} has its row in OpenEMR: there is no conflict")
    return row


def _is_there(connection: sa.Connection, row: Any) -> bool:
    table, id_column, _ = _TABLES[row.kind]
    sql = f"SELECT COUNT(*) FROM {table} WHERE {id_column} = %s AND uuid = %s"  # noqa: S608 - names are ours
    return bool(connection.exec_driver_sql(sql, (row.local_id, row.uuid)).scalar())


def _set(connection: sa.Connection, ledger: str, key: EntityKey, sets: str, values: tuple[Any, ...]) -> None:
    connection.exec_driver_sql(
        f"UPDATE {ledger}.entity_map SET {sets}, content_hash = NULL, updated_at = UTC_TIMESTAMP(6) "  # noqa: S608
        "WHERE entity_type = %s AND entity_id = %s",
        (*values, key.entity_type.value, key.entity_id),
    )


def _entry(key: EntityKey, action: Action, row: Any) -> TrailEntry:
    return TrailEntry(None, key, action, row.content_hash, None)
