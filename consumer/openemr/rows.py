"""What all kinds of OpenEMR rows have in common: the uuid registry, and the check that a mapped row is still there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import sqlalchemy as sa

from consumer.openemr.drafts import RowDraft
from consumer.openemr.statements import insert_rows, select_in


@dataclasses.dataclass(frozen=True, slots=True)
class RowPlan:
    """One entity's row to insert, update or delete.

    draft is None for a delete; pid and visit are the parents' numbers (visit 0: none); local_id and row_id are the
    numbers of the row that is there (see ports.Mapped), None for one to insert.
    """

    draft: RowDraft | None
    uuid: bytes
    pid: int = 0
    visit: int = 0
    local_id: int | None = None
    row_id: int | None = None

    @property
    def columns(self) -> RowDraft:
        """The draft of a row to insert or update."""
        assert self.draft is not None  # noqa: S101 - a plan without draft goes to delete only
        return self.draft

    @property
    def number(self) -> int:
        """The local_id of a row that is there."""
        assert self.local_id is not None  # noqa: S101 - as above
        return self.local_id


@dataclasses.dataclass(frozen=True, slots=True)
class Written:
    """The numbers OpenEMR knows a new row by."""

    local_id: int
    row_id: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """A deleted entity whose row stays in OpenEMR; detail tells how."""

    detail: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """An entity that is not deleted, since what hangs on it would be orphaned; reason names it."""

    reason: str


def register(connection: sa.Connection, table: str, uuids: Sequence[bytes]) -> None:
    """Give each new uuid its registry row; table_id is the name of the id column, as OpenEMR writes it."""
    id_column = "procedure_order_id" if table == "procedure_order" else "id"
    constants = {"table_name": f"'{table}'", "table_id": f"'{id_column}'", "created": "NOW()"}
    insert_rows(connection, "uuid_registry", ("uuid",), [(uuid,) for uuid in uuids], constants=constants)


def live_rows(
    connection: sa.Connection, table: str, id_column: str, rows: Sequence[tuple[int, bytes | None]], *, lock: bool
) -> frozenset[int]:
    """Return the ids whose row still carries our uuid; with lock, hold those rows, taken in id order.

    A clerk's merge or deletion removes a row without any event; what is gone is a conflict, not a reason to create.
    """
    expected = dict(rows)
    suffix = f"ORDER BY {id_column} FOR UPDATE" if lock else ""
    # By the index even of a small table: reading all rows would wait for those that clerks hold.
    index = "pid" if table == "patient_data" else "PRIMARY"
    sql = f"SELECT {id_column}, uuid FROM {table} FORCE INDEX ({index}) WHERE {id_column} IN %s {suffix}"  # noqa: S608 - names are ours
    found = select_in(connection, sql, expected)
    return frozenset(int(key) for key, uuid in found if uuid == expected[int(key)])


def ids_by_uuid(connection: sa.Connection, table: str, id_column: str, uuids: Sequence[bytes]) -> Sequence[int]:
    """Return the generated ids of rows just inserted, in the order of their uuids.

    LAST_INSERT_ID of a multi-row INSERT tells the first only, and the others' distance depends on the server.
    """
    found = select_in(connection, f"SELECT uuid, {id_column} FROM {table} WHERE uuid IN %s", uuids)  # noqa: S608
    by_uuid = {uuid: int(key) for uuid, key in found}
    return [by_uuid[uuid] for uuid in uuids]
