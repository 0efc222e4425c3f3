"""Outbox rows as events, in the order of seq, for what is applied from the outbox itself."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

import sqlalchemy as sa

from connectors.events import Event
from connectors.outbox import sync_outbox
from connectors.outbox_event import EVENT_COLUMNS, event_of

ROWS_READ: Final = 500

_OUTBOX: Final = sync_outbox.c


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
    chosen = sa.select(*EVENT_COLUMNS).where(_OUTBOX.outbox_id.in_(wanted)).order_by(_OUTBOX.seq)
    return [event_of(row) for row in connection.execute(chosen)]
