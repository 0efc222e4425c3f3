"""Outbox rows as events, in the order of seq, for what is applied from the outbox itself."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from connectors.events import Event
from connectors.outbox import sync_outbox
from connectors.outbox_event import EVENT_COLUMNS, event_of

ROWS_READ: Final = 500

_OUTBOX: Final = sync_outbox.c


def events_of(connection: sa.Connection, outbox_ids: Sequence[bytes]) -> Sequence[Event]:
    """Read the events of rows, by ids of 16 bytes, in the order of seq; those that are there no more are left out."""
    if not outbox_ids:
        return ()
    wanted = [uuid.UUID(bytes=one) for one in outbox_ids]
    chosen = sa.select(*EVENT_COLUMNS).where(_OUTBOX.outbox_id.in_(wanted)).order_by(_OUTBOX.seq)
    return [event_of(row) for row in connection.execute(chosen)]
