"""What all kinds of OpenEMR rows have in common: the uuid registry, and the check that a mapped row is still there."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from consumer.openemr.drafts import RowDraft
from consumer.openemr.statements import Query, insert_rows, select_each, select_in


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


@dataclasses.dataclass(frozen=True, slots=True)
class Expected:
    """Rows of a table by id, each with the uuid that it must carry if it is still ours."""

    table: str
    id_column: str
    rows: Mapping[int, bytes | None]

    def query(self, columns: Sequence[str] = (), suffix: str = "") -> Query:
        """Ask for id, uuid and columns of all rows that are there."""
        names = ", ".join((self.id_column, "uuid", *(f"`{name}`" for name in columns)))
        # By the index even of a small table: reading all rows would wait for those that clerks hold.
        index = "pid" if self.table == "patient_data" else "PRIMARY"
        place = f"{self.table} FORCE INDEX ({index})"
        return f"SELECT {names} FROM {place} WHERE {self.id_column} IN %s {suffix}", self.rows, ()  # noqa: S608 - ours

    def ours(self, found: Sequence[Sequence[Any]]) -> Mapping[int, Sequence[Any]]:
        """Keep of what the query gave the rows that carry our uuid, their columns by id.

        A clerk's merge or deletion removes a row without any event; what is gone is a conflict, not a reason to create.
        """
        return {int(row[0]): row[2:] for row in found if row[1] == self.rows[int(row[0])]}


def live_rows(connection: sa.Connection, asked: Sequence[Expected]) -> Sequence[Collection[int]]:
    """Return for each table the ids of the rows that are still ours; nothing is held."""
    answers = select_each(connection, [one.query() for one in asked])
    return [one.ours(found).keys() for one, found in zip(asked, answers, strict=True)]


def held_rows(connection: sa.Connection, asked: Expected, columns: Sequence[str]) -> Mapping[int, Sequence[Any]]:
    """Hold the rows that are still ours, taken in id order, and return their columns' values by id."""
    query = asked.query(columns, f"ORDER BY {asked.id_column} FOR UPDATE")
    return asked.ours(select_each(connection, [query])[0])


def ids_by_uuid(connection: sa.Connection, table: str, id_column: str, uuids: Sequence[bytes]) -> Sequence[int]:
    """Return the generated ids of rows just inserted, in the order of their uuids.

    LAST_INSERT_ID of a multi-row INSERT tells the first only, and the others' distance depends on the server.
    """
    found = select_in(connection, f"SELECT uuid, {id_column} FROM {table} WHERE uuid IN %s", uuids)  # noqa: S608
    by_uuid = {uuid: int(key) for uuid, key in found}
    return [by_uuid[uuid] for uuid in uuids]
