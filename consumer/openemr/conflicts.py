"""What a clerk's merge or deletion leaves behind in the ledger's map, and the three ways to settle it."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from connectors.events import EntityKey
from connectors.outbox import EntityType
from consumer.openemr.identifiers import row_uuid
from consumer.openemr.ledger_schema import checked_schema
from consumer.openemr.trail import Action, TrailEntry, write_trail
from consumer.openemr.writing import GONE


@dataclasses.dataclass(frozen=True, slots=True)
class _Table:
    """Columns: of the number that the map holds, of the patient's pid, and SQL of the map's row_id."""

    name: str
    number: str
    pid: str
    row_id: str = "NULL"


_TABLES: Final = {
    "patient": _Table("patient_data", "pid", "pid"),
    "encounter": _Table("form_encounter", "encounter", "pid", "id"),
    "order": _Table("procedure_order", "procedure_order_id", "patient_id"),
    "medication": _Table("prescriptions", "id", "patient_id"),
}
_KINDS: Final = {
    EntityType.PATIENT: ("patient",),
    EntityType.ENCOUNTER: ("encounter",),
    EntityType.ORDER: ("order", "medication"),
}
_MAPPED: Final = """
    SELECT kind, local_id, uuid, parent_id, last_seq, content_hash, deleted_at FROM {ledger}.entity_map
    WHERE entity_type = %s AND entity_id = %s {lock}
"""
_MAP: Final = """
    INSERT INTO {ledger}.entity_map (entity_type, entity_id, kind, last_seq, created_at, updated_at)
    VALUES (%s, %s, %s, 0, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))
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
_PATIENT_OF: Final = """
    SELECT entity_id FROM {ledger}.entity_map WHERE kind = 'patient' AND local_id = %s
"""


class ConflictError(Exception):
    """A conflict cannot be settled in the way asked for; the message says why."""


class State(enum.StrEnum):
    """What is in an entity's way."""

    GONE = "gone"  # its row is gone from OpenEMR, or is no longer ours
    UNMAPPED = "unmapped"  # OpenEMR has its uuid, and the ledger knows of no row, as when it was lost
    DELETED = "deleted"  # its row was deleted and stays in OpenEMR, so that its id can be no other record's


@dataclasses.dataclass(frozen=True, slots=True)
class Conflict:
    """An entity that the ledger's map and OpenEMR's rows do not agree about.

    local_id: the number in the map. candidates: numbers of rows that it may be: of a patient who is gone, the charts
    that hold his visits now, which is where a merge put them; of an unmapped entity, the row that bears its uuid.
    """

    entity_type: EntityType
    entity_id: str
    kind: str
    state: State
    local_id: int | None
    candidates: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    """A row of OpenEMR that an entity may be."""

    kind: str
    number: int
    row_id: int | None
    uuid: bytes | None
    pid: int | None


def parent_gone(key: EntityKey) -> str:
    """Give the message of events that failed because the row of this parent of theirs was gone."""
    return f"{key.entity_type}_id: {GONE}"


def find_conflict(connection: sa.Connection, ledger_schema: str, key: EntityKey) -> Conflict | None:
    """Return the entity's conflict; None when map and rows agree."""
    ledger = checked_schema(ledger_schema)
    row = _mapped(connection, ledger, key, lock=False)
    if row is None or row.local_id is None:
        bearing = _bearing(connection, key, row, lock=False)
        kind = bearing.kind if bearing else _registered_as(connection, key, row)
        numbers = (bearing.number,) if bearing else ()
        return None if kind is None else Conflict(key.entity_type, key.entity_id, kind, State.UNMAPPED, None, numbers)
    number = int(row.local_id)
    if row.deleted_at is not None:
        return Conflict(key.entity_type, key.entity_id, row.kind, State.DELETED, number, ())
    if _is_there(connection, row):
        return None
    candidates: tuple[int, ...] = ()
    if row.kind == "patient":
        found = connection.exec_driver_sql(_VISITS_NOW.format(ledger=ledger), (key.entity_id,))
        candidates = tuple(int(one[0]) for one in found if one[0] is not None)
    return Conflict(key.entity_type, key.entity_id, row.kind, State.GONE, number, candidates)


def adopt(connection: sa.Connection, ledger_schema: str, key: EntityKey, number: int, author: str) -> None:
    """Let the entity be the row that bears this number in OpenEMR; its next event writes into that row.

    An entity without a row in the map can be only the row that bears its uuid.

    Raises:
        ConflictError: there is no conflict, no such row, or the row is another entity's or another patient's.
    """
    ledger = checked_schema(ledger_schema)
    row = _mapped(connection, ledger, key, lock=True)
    if row is None or row.local_id is None:
        found = _bearing(connection, key, row, lock=True)
        if found is None:
            raise ConflictError(f"{key.entity_type} {key.entity_id} is mapped to no row, and no row bears its uuid")
        if found.number != number:
            raise ConflictError(
                f"{key.entity_type} {key.entity_id} can be {found.kind} {found.number} only, by its uuid"
            )
    else:
        _require_gone(connection, key, row)
        rows = _rows(connection, row.kind, _TABLES[row.kind].number, number, lock=True)
        if len(rows) != 1 or rows[0].uuid is None:
            raise ConflictError(f"OpenEMR has not one {row.kind} {number} with a uuid")
        found = rows[0]
    borne = connection.exec_driver_sql(_BORNE_BY.format(ledger=ledger), (found.uuid, key.entity_type, key.entity_id))
    if other := borne.scalar():
        raise ConflictError(f"{found.kind} {number} is {other} already")
    patient_id = None if found.kind == "patient" else _patient_of(connection, ledger, found)
    if row is not None and row.local_id is not None and row.parent_id != patient_id:
        raise ConflictError(f"{found.kind} {number} is of another patient than {row.parent_id}")
    if found.kind != "patient" and patient_id is None:
        raise ConflictError(
            f"{found.kind} {number} is of pid {found.pid}, who is no patient in the map: adopt him first"
        )
    _ensure_mapped(connection, ledger, key, row, found.kind)
    sets = "kind = %s, local_id = %s, row_id = %s, uuid = %s, parent_id = %s, deleted_at = NULL"
    _set(connection, ledger, key, sets, (found.kind, number, found.row_id, found.uuid, patient_id))
    write_trail(connection, ledger, [_entry(key, Action.ADOPT, row)], author)


def recreate(connection: sa.Connection, ledger_schema: str, key: EntityKey, author: str) -> None:
    """Let the entity's next event insert a new row, under a new number and the same uuid.

    Raises:
        ConflictError: there is no conflict, or a row that bears the uuid is in the way.
    """
    ledger = checked_schema(ledger_schema)
    row = _mapped(connection, ledger, key, lock=True)
    if row is None or row.local_id is None:
        if found := _bearing(connection, key, row, lock=True):
            raise ConflictError(f"{found.kind} {found.number} bears the uuid: emrsync conflict adopt takes it")
        kind = _registered_as(connection, key, row)
        if kind is None:
            raise ConflictError(f"{key.entity_type} {key.entity_id} is mapped to no row: there is no conflict")
        _ensure_mapped(connection, ledger, key, row, kind)
        _set(connection, ledger, key, "kind = %s, uuid = %s", (kind, _uuid(key, row)))
    else:
        _require_gone(connection, key, row)
        _set(connection, ledger, key, "local_id = NULL, row_id = NULL", ())
    write_trail(connection, ledger, [_entry(key, Action.RECREATE, row)], author)


def drop(connection: sa.Connection, ledger_schema: str, key: EntityKey, through_seq: int, author: str) -> None:
    """Take OpenEMR's side: the entity counts as deleted, and its events up to this seq as stale.

    through_seq is the newest of its failed events. A deleted row that stays in OpenEMR remains the entity's own.

    Raises:
        ConflictError: there is no conflict.
    """
    ledger = checked_schema(ledger_schema)
    row = _mapped(connection, ledger, key, lock=True)
    sets = "deleted_at = COALESCE(deleted_at, UTC_TIMESTAMP(6)), last_seq = GREATEST(last_seq, %s)"
    if row is not None and row.local_id is not None and row.deleted_at is None:
        _require_gone(connection, key, row)
        sets += ", local_id = NULL, row_id = NULL"
    elif through_seq <= (0 if row is None else row.last_seq):
        raise ConflictError(f"{key.entity_type} {key.entity_id} has no failed event: there is no conflict")
    _ensure_mapped(connection, ledger, key, row, _KINDS[key.entity_type][0])
    _set(connection, ledger, key, sets, (through_seq,))
    write_trail(connection, ledger, [_entry(key, Action.DROP, row)], author)


def _mapped(connection: sa.Connection, ledger: str, key: EntityKey, *, lock: bool) -> Any:
    sql = _MAPPED.format(ledger=ledger, lock="FOR UPDATE" if lock else "")
    return connection.exec_driver_sql(sql, (key.entity_type.value, key.entity_id)).one_or_none()


def _ensure_mapped(connection: sa.Connection, ledger: str, key: EntityKey, row: Any, kind: str) -> None:
    if row is None:
        connection.exec_driver_sql(_MAP.format(ledger=ledger), (key.entity_type.value, key.entity_id, kind))


def _require_gone(connection: sa.Connection, key: EntityKey, row: Any) -> None:
    if row.deleted_at is not None:
        raise ConflictError(
            f"{key.entity_type} {key.entity_id} was deleted, and OpenEMR keeps its row: drop settles it"
        )
    if _is_there(connection, row):
        raise ConflictError(f"{key.entity_type} {key.entity_id} has its row in OpenEMR: there is no conflict")


def _is_there(connection: sa.Connection, row: Any) -> bool:
    table = _TABLES[row.kind]
    sql = f"SELECT COUNT(*) FROM {table.name} WHERE {table.number} = %s AND uuid = %s"  # noqa: S608 - names are ours
    return bool(connection.exec_driver_sql(sql, (row.local_id, row.uuid)).scalar())


def _uuid(key: EntityKey, row: Any) -> bytes:
    return row_uuid(key) if row is None or row.uuid is None else bytes(row.uuid)


def _bearing(connection: sa.Connection, key: EntityKey, row: Any, *, lock: bool) -> _Row | None:
    """Return the row that bears the uuid of an entity that the map knows without a row."""
    uuid = _uuid(key, row)
    found = [one for kind in _KINDS[key.entity_type] for one in _rows(connection, kind, "uuid", uuid, lock=lock)]
    return found[0] if found else None


def _registered_as(connection: sa.Connection, key: EntityKey, row: Any) -> str | None:
    """Return the kind under which the registry has the uuid of an entity that the map knows without one."""
    if row is not None and row.uuid is not None:
        return None
    sql = "SELECT table_name FROM uuid_registry WHERE uuid = %s"
    table = connection.exec_driver_sql(sql, (_uuid(key, row),)).scalar()
    return next((kind for kind in _KINDS[key.entity_type] if _TABLES[kind].name == table), None)


def _rows(connection: sa.Connection, kind: str, column: str, value: int | bytes, *, lock: bool) -> Sequence[_Row]:
    """Return the rows of a kind whose column has the value."""
    table = _TABLES[kind]
    columns = f"{table.number}, {table.row_id}, uuid, {table.pid}"
    sql = f"SELECT {columns} FROM {table.name} WHERE {column} = %s {'FOR UPDATE' if lock else ''}"  # noqa: S608 - ours
    return [_Row(kind, *one) for one in connection.exec_driver_sql(sql, (value,))]


def _patient_of(connection: sa.Connection, ledger: str, found: _Row) -> str | None:
    owner = connection.exec_driver_sql(_PATIENT_OF.format(ledger=ledger), (found.pid,)).scalar()
    return None if owner is None else str(owner)


def _set(connection: sa.Connection, ledger: str, key: EntityKey, sets: str, values: tuple[Any, ...]) -> None:
    connection.exec_driver_sql(
        f"UPDATE {ledger}.entity_map SET {sets}, content_hash = NULL, updated_at = UTC_TIMESTAMP(6) "  # noqa: S608
        "WHERE entity_type = %s AND entity_id = %s",
        (*values, key.entity_type.value, key.entity_id),
    )


def _entry(key: EntityKey, action: Action, row: Any) -> TrailEntry:
    return TrailEntry(None, key, action, None if row is None else row.content_hash, None)
