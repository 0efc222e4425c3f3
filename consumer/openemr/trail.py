"""Our own audit, as OpenEMR's log sees none of it: for each row written the event, what changed by name, and who."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from connectors.events import EntityKey
from consumer.openemr.rows import RowPlan
from consumer.openemr.statements import insert_rows, select_in

AUTHOR_CHARACTERS_MAX: Final = 255


class Action(enum.StrEnum):
    """What was done to an entity's row in OpenEMR, or to its place in the map."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    ADOPT = "adopt"
    RECREATE = "recreate"
    DROP = "drop"


@dataclasses.dataclass(frozen=True, slots=True)
class TrailEntry:
    """One row written; hashes are of its content before and after, None where there was or is none.

    changed: names of the columns that changed; None for an insert, which writes all of them, and a delete.
    """

    outbox_id: uuid.UUID | None
    key: EntityKey
    action: Action
    hash_before: bytes | None
    hash_after: bytes | None
    changed: Sequence[str] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Compared:
    """A table whose columns an update may change: how to find a plan's row in it, and the plan's new values.

    condition: SQL that leaves one row per number.
    """

    table: str
    id_column: str
    columns: Sequence[str]
    number: Callable[[RowPlan], int | None]
    values: Callable[[RowPlan], Sequence[Any]]
    condition: str = "TRUE"


def changed_columns(
    connection: sa.Connection,
    compared: Sequence[Compared],
    plans: Sequence[RowPlan],
    own: Mapping[int, Sequence[Any]],
) -> Sequence[Sequence[str]]:
    """Return, for each row that is about to be updated, the names of the columns that will change.

    By what the rows say, which the transaction holds, so that a clerk's edit that is overwritten shows too. own: the
    values in the first table of compared by id, as they were read when they were locked; the others are read here.
    """
    changed: list[list[str]] = [[] for _ in plans]
    for one in compared:
        before = own if one is compared[0] else _read(connection, one, plans)
        for plan, names_changed in zip(plans, changed, strict=True):
            old = before.get(one.number(plan) or 0)
            if old is None:
                continue
            differing = zip(one.columns, old, one.values(plan), strict=True)
            names_changed += [name for name, was, becomes in differing if was != becomes and not _same(was, becomes)]
    return changed


def _read(connection: sa.Connection, one: Compared, plans: Sequence[RowPlan]) -> Mapping[int, Sequence[Any]]:
    names = ", ".join(f"`{name}`" for name in (one.id_column, *one.columns))
    sql = f"SELECT {names} FROM {one.table} WHERE {one.id_column} IN %s AND {one.condition}"  # noqa: S608 - names are ours
    return {int(row[0]): row[1:] for row in select_in(connection, sql, [one.number(plan) for plan in plans])}


def write_trail(connection: sa.Connection, schema: str, entries: Sequence[TrailEntry], author: str) -> None:
    """Append entries; author is the user of OpenEMR that the rows name, or an operator; account is the session's."""
    rows = [
        (
            None if one.outbox_id is None else one.outbox_id.bytes,
            one.key.entity_type.value,
            one.key.entity_id,
            one.action.value,
            one.hash_before,
            one.hash_after,
            None if one.changed is None else ",".join(one.changed),
            author,
        )
        for one in entries
    ]
    insert_rows(connection, f"{schema}.trail", _COLUMNS, rows, constants=_CONSTANTS)


_COLUMNS: Final = (
    "outbox_id",
    "entity_type",
    "entity_id",
    "action",
    "hash_before",
    "hash_after",
    "changed",
    "author",
)
_CONSTANTS: Final = {"account": "USER()", "written_at": "UTC_TIMESTAMP(6)"}


def _same(was: Any, becomes: Any) -> bool:
    if was is None or becomes is None:
        return False
    # Before 7.0.0 some instants are kept as days, and a route as a number.
    if isinstance(becomes, dt.datetime) and isinstance(was, dt.date) and not isinstance(was, dt.datetime):
        return was == becomes.date()
    return str(was) == str(becomes)
