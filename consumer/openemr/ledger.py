"""The ledger's statements: settled events, the entity map, the waiting room, the stream's positions."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from connectors.events import EntityKey, Event
from connectors.outbox import EntityType, Operation, TargetSystem
from consumer.openemr.statements import Row, chunks, insert_rows, literal, select_each, select_in
from consumer.openemr.trail import TrailEntry, write_trail
from consumer.outcome import Applied, Stale, Waiting
from consumer.ports import Mapped, StreamPosition

DETAIL_CHARACTERS_MAX: Final = 500

_MAP_COLUMNS: Final = (
    "entity_type",
    "entity_id",
    "kind",
    "local_id",
    "row_id",
    "uuid",
    "parent_id",
    "last_seq",
    "content_hash",
    "deleted_at",
)
_MAP_UPSERT: Final = "ON DUPLICATE KEY UPDATE updated_at = VALUES(updated_at), " + ", ".join(
    f"{name} = VALUES({name})" for name in _MAP_COLUMNS[2:]
)
_WAITING_COLUMNS: Final = (
    "outbox_id",
    "entity_type",
    "entity_id",
    "operation",
    "target_system",
    "seq",
    "payload_version",
    "created_at",
    "payload",
    "parent_type",
    "parent_id",
)
_NOW: Final = "UTC_TIMESTAMP(6)"


class Lock(enum.StrEnum):
    """How a transaction holds a map row: to write it, or to keep a parent from going while a child is written."""

    UPDATE = "FOR UPDATE"
    SHARE = "LOCK IN SHARE MODE"
    NONE = ""


class Ledger:
    """Statements on one ledger schema, for use inside the caller's transaction."""

    def __init__(self, schema: str, group_id: str) -> None:
        self._schema = schema
        self._group_id = group_id

    def settled(self, connection: sa.Connection, outbox_ids: Sequence[uuid.UUID]) -> frozenset[uuid.UUID]:
        """Return those of the events that were settled."""
        sql = f"SELECT outbox_id FROM {self._schema}.applied_event WHERE outbox_id IN %s"  # noqa: S608
        return frozenset(
            uuid.UUID(bytes=row[0]) for row in select_in(connection, sql, [one.bytes for one in outbox_ids])
        )

    def known(self, connection: sa.Connection, outbox_ids: Sequence[bytes]) -> frozenset[bytes]:
        """Return those of the ids that were settled; for many thousands a second, which parameters are too slow for."""
        return self._present(connection, "applied_event", outbox_ids)

    def waiting(self, connection: sa.Connection, outbox_ids: Sequence[bytes]) -> frozenset[bytes]:
        """Return those of the ids that are in the waiting room."""
        return self._present(connection, "waiting_event", outbox_ids)

    def _present(self, connection: sa.Connection, table: str, outbox_ids: Sequence[bytes]) -> frozenset[bytes]:
        found: set[bytes] = set()
        for chunk in chunks(outbox_ids):
            listed = ",".join([f"x'{one.hex()}'" for one in chunk])
            sql = f"SELECT outbox_id FROM {self._schema}.{table} WHERE outbox_id IN ({listed})"  # noqa: S608
            found.update(row[0] for row in connection.exec_driver_sql(sql, None, {"no_parameters": True}))
        return frozenset(found)

    def mapped(self, connection: sa.Connection, keys: Sequence[EntityKey], *, lock: Lock) -> Mapping[EntityKey, Mapped]:
        """Return the map rows of entities and hold them until the end, taken in the order of the primary key."""
        sql = (
            "SELECT entity_id, kind, local_id, row_id, uuid, parent_id, last_seq, content_hash, deleted_at "  # noqa: S608
            f"FROM {self._schema}.entity_map WHERE entity_id IN %s AND entity_type = %s ORDER BY entity_id {lock}"
        )
        ids: dict[EntityType, list[str]] = {}
        for key in sorted(keys, key=lambda key: (key.entity_type, key.entity_id)):
            ids.setdefault(key.entity_type, []).append(key.entity_id)
        queries = [(sql, own, (entity_type.value,)) for entity_type, own in ids.items()]
        return {
            EntityKey(entity_type, row[0]): Mapped(*row[1:])
            for entity_type, rows in zip(ids, select_each(connection, queries), strict=True)
            for row in rows
        }

    def insert_map(self, connection: sa.Connection, rows: Sequence[tuple[EntityKey, Mapped]]) -> None:
        """Map new entities; another member's row of the same entity makes it fail."""
        self._write_map(connection, rows, "")

    def update_map(self, connection: sa.Connection, rows: Sequence[tuple[EntityKey, Mapped]]) -> None:
        """Rewrite map rows that this transaction holds."""
        self._write_map(connection, rows, _MAP_UPSERT)

    def _write_map(self, connection: sa.Connection, rows: Sequence[tuple[EntityKey, Mapped]], suffix: str) -> None:
        constants = {"created_at": _NOW, "updated_at": _NOW}
        values = [_map_row(key, mapped) for key, mapped in rows]
        insert_rows(connection, f"{self._schema}.entity_map", _MAP_COLUMNS, values, constants=constants, suffix=suffix)

    def record(
        self,
        connection: sa.Connection,
        settled: Sequence[tuple[Event, Applied | Stale]],
        positions: Sequence[StreamPosition],
    ) -> None:
        """Write settled events and next offsets."""
        columns = (
            "outbox_id",
            "entity_type",
            "entity_id",
            "seq",
            "operation",
            "target_system",
            "outcome",
            "detail",
        )
        rows = [_applied_row(event, outcome) for event, outcome in settled]
        insert_rows(connection, f"{self._schema}.applied_event", columns, rows, constants={"applied_at": _NOW})
        # A member that was stopped for a while must not take back what its partition's next owner has reached.
        newest = "GREATEST(next_offset, VALUES(next_offset))"
        for followed, next_offset in ((True, newest), (False, "VALUES(next_offset)")):
            own = [one for one in positions if (one.reached > 0) is followed]
            insert_rows(
                connection,
                f"{self._schema}.stream_position",
                ("group_id", "topic", "partition_no", "next_offset"),
                [(self._group_id, one.topic, one.partition, one.next_offset) for one in own],
                constants={"updated_at": _NOW},
                suffix=f"ON DUPLICATE KEY UPDATE next_offset = {next_offset}, updated_at = VALUES(updated_at)",
            )

    def require_sql(self, positions: Sequence[StreamPosition]) -> str | None:
        """Give the statement that fails with error 1690 unless the ledger is where all of these were reached.

        It gives no result, as gate.sentry; None if nothing is known of any.
        """
        reached = [one for one in positions if one.reached > 0]
        if not reached:
            return None
        places = " OR ".join(
            f"topic = {literal(one.topic)} AND partition_no = {one.partition} AND next_offset >= {one.reached}"
            for one in reached
        )
        return (
            f"SELECT ~0 + (COUNT(*) < {len(reached)}) INTO @emrsync_restored "  # noqa: S608
            f"FROM {self._schema}.stream_position WHERE group_id = {literal(self._group_id)} AND ({places})"
        )

    def record_trail(self, connection: sa.Connection, entries: Sequence[TrailEntry], author: str) -> None:
        """Append to the trail, in the transaction of what it tells."""
        write_trail(connection, self._schema, entries, author)

    def park(self, connection: sa.Connection, waiting: Sequence[tuple[Event, Waiting]]) -> None:
        """Keep events, payload and all, until their parent comes."""
        rows = [
            (*_event_row(event), outcome.parent.entity_type.value, outcome.parent.entity_id)
            for event, outcome in waiting
        ]
        insert_rows(
            connection,
            f"{self._schema}.waiting_event",
            _WAITING_COLUMNS,
            rows,
            constants={"since": _NOW},
            suffix="ON DUPLICATE KEY UPDATE parent_type = VALUES(parent_type), parent_id = VALUES(parent_id), "
            "overdue_at = NULL",
        )

    def forget(self, connection: sa.Connection, outbox_ids: Sequence[uuid.UUID]) -> None:
        """Take events out of the waiting room."""
        connection.exec_driver_sql(
            f"DELETE FROM {self._schema}.waiting_event WHERE outbox_id IN %s",  # noqa: S608
            (tuple(one.bytes for one in outbox_ids),),
        )

    def releasable(self, connection: sa.Connection, limit: int, keys: Sequence[EntityKey] | None) -> Sequence[Event]:
        """See ports.Target; two indexed reads, since one with OR would read the whole waiting room."""
        if keys is not None and not (keys and connection.exec_driver_sql(self.any_waiting_sql).scalar()):
            return ()
        columns = ", ".join(f"w.{name}" for name in _WAITING_COLUMNS[:9])
        waiting, entity_map = f"{self._schema}.waiting_event", f"{self._schema}.entity_map"
        among = ("AND (w.parent_type, w.parent_id) IN %s", "AND (w.entity_type, w.entity_id) IN %s")
        pairs = tuple((key.entity_type.value, key.entity_id) for key in keys or ())
        parent_alive, moved_on = (
            f"SELECT {columns} FROM {waiting} w JOIN {entity_map} m "  # noqa: S608
            f"ON m.entity_type = w.{side}_type AND m.entity_id = w.{side}_id "
            f"WHERE {condition} {'' if keys is None else among[index]}"
            for index, (side, condition) in enumerate(
                (("parent", "m.local_id IS NOT NULL AND m.deleted_at IS NULL"), ("entity", "m.last_seq >= w.seq"))
            )
        )
        values = () if keys is None else (pairs, pairs)
        rows = connection.exec_driver_sql(f"{parent_alive} UNION {moved_on} ORDER BY seq LIMIT %s", (*values, limit))
        return [_event(row) for row in rows]

    @property
    def any_waiting_sql(self) -> str:
        """Ask whether the waiting room holds anything: mostly it is empty, and asking by keys costs much more."""
        return f"SELECT EXISTS (SELECT 1 FROM {self._schema}.waiting_event)"  # noqa: S608

    def overdue(self, connection: sa.Connection, since: dt.datetime, limit: int) -> Sequence[tuple[Event, Waiting]]:
        """Return parked events that wait since before `since` and were not reported."""
        columns = ", ".join(_WAITING_COLUMNS)
        rows = connection.exec_driver_sql(
            f"SELECT {columns} FROM {self._schema}.waiting_event "  # noqa: S608
            "WHERE overdue_at IS NULL AND since < %s ORDER BY since LIMIT %s",
            (since.astimezone(dt.UTC).replace(tzinfo=None), limit),
        )
        return [(_event(row[:9]), Waiting(EntityKey(EntityType(row[9]), row[10]))) for row in rows]

    def reported_overdue(self, connection: sa.Connection, outbox_ids: Sequence[uuid.UUID]) -> None:
        """Remember that these were reported."""
        connection.exec_driver_sql(
            f"UPDATE {self._schema}.waiting_event SET overdue_at = {_NOW} WHERE outbox_id IN %s",  # noqa: S608
            (tuple(one.bytes for one in outbox_ids),),
        )


def _map_row(key: EntityKey, mapped: Mapped) -> Row:
    return (
        key.entity_type.value,
        key.entity_id,
        mapped.kind,
        mapped.local_id,
        mapped.row_id,
        mapped.uuid,
        mapped.parent_id,
        mapped.last_seq,
        mapped.content_hash,
        mapped.deleted_at,
    )


def _applied_row(event: Event, outcome: Applied | Stale) -> Row:
    detail = outcome.detail if isinstance(outcome, Applied) else None
    return (
        event.outbox_id.bytes,
        event.key.entity_type.value,
        event.key.entity_id,
        event.seq,
        event.operation.value,
        event.target_system.value,
        "applied" if isinstance(outcome, Applied) else "stale",
        None if detail is None else detail[:DETAIL_CHARACTERS_MAX],
    )


def _event_row(event: Event) -> Row:
    return (
        event.outbox_id.bytes,
        event.key.entity_type.value,
        event.key.entity_id,
        event.operation.value,
        event.target_system.value,
        event.seq,
        event.payload_version,
        event.created_at.astimezone(dt.UTC).replace(tzinfo=None),
        event.payload.decode("utf-8"),
    )


def _event(row: Sequence[Any]) -> Event:
    return Event(
        outbox_id=uuid.UUID(bytes=row[0]),
        key=EntityKey(EntityType(row[1]), row[2]),
        operation=Operation(row[3]),
        target_system=TargetSystem(row[4]),
        seq=row[5],
        payload_version=row[6],
        created_at=row[7].replace(tzinfo=dt.UTC),
        payload=row[8].encode("utf-8"),
    )
