"""Outbox rows as events, in the order of seq, for what is applied from the outbox itself."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final

import sqlalchemy as sa

from connectors.events import EntityKey, Event
from connectors.outbox import EntityType, Operation, TargetSystem, payload_text, sync_outbox

ROWS_READ: Final = 500

_OUTBOX: Final = sync_outbox.c
_COLUMNS: Final = (
    _OUTBOX.outbox_id,
    _OUTBOX.entity_type,
    _OUTBOX.entity_id,
    _OUTBOX.operation,
    _OUTBOX.target_system,
    _OUTBOX.seq,
    _OUTBOX.payload_version,
    _OUTBOX.created_at,
    payload_text.label("payload_text"),
)


def unknown_events(
    engine: sa.Engine,
    where: sa.ColumnElement[bool],
    known: Callable[[Sequence[bytes]], frozenset[bytes]],
    elsewhere: Collection[bytes],
) -> Iterator[Sequence[Event]]:
    """Give the rows that a condition meets, the ledger does not know and that come from nowhere else, in chunks.

    Ids are looked at first, so that only payloads that are wanted are read.
    """
    seq = -1
    while True:
        with engine.connect() as connection:
            found = connection.execute(
                sa.select(_OUTBOX.outbox_id, _OUTBOX.seq)
                .where(where, _OUTBOX.seq > seq)
                .order_by(_OUTBOX.seq)
                .limit(ROWS_READ)
            ).all()
            if not found:
                return
            seq = found[-1].seq
            settled = known([row.outbox_id.bytes for row in found])
            wanted = [
                row.outbox_id.bytes
                for row in found
                if row.outbox_id.bytes not in settled and row.outbox_id.bytes not in elsewhere
            ]
            events = events_of(connection, wanted)
        if events:
            yield events


def events_of(connection: sa.Connection, outbox_ids: Sequence[bytes]) -> Sequence[Event]:
    """Read the events of rows, by ids of 16 bytes, in the order of seq; those that are there no more are left out."""
    if not outbox_ids:
        return ()
    wanted = [uuid.UUID(bytes=one) for one in outbox_ids]
    chosen = sa.select(*_COLUMNS).where(_OUTBOX.outbox_id.in_(wanted)).order_by(_OUTBOX.seq)
    return [_event(row) for row in connection.execute(chosen)]


def _event(row: sa.Row[Any]) -> Event:
    created_at: dt.datetime = row.created_at
    return Event(
        outbox_id=row.outbox_id,
        key=EntityKey(EntityType(row.entity_type), row.entity_id),
        operation=Operation(row.operation),
        target_system=TargetSystem(row.target_system),
        seq=row.seq,
        payload_version=row.payload_version,
        created_at=created_at.replace(tzinfo=dt.UTC) if created_at.tzinfo is None else created_at.astimezone(dt.UTC),
        payload=row.payload_text.encode("utf-8"),
    )
