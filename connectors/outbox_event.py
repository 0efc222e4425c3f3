"""A row of the outbox read as its event, for what is applied from the row itself."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import sqlalchemy as sa

from connectors.events import EntityKey, Event
from connectors.outbox import EntityType, Operation, TargetSystem, payload_text, sync_outbox

EVENT_COLUMNS: Final = (
    sync_outbox.c.outbox_id,
    sync_outbox.c.entity_type,
    sync_outbox.c.entity_id,
    sync_outbox.c.operation,
    sync_outbox.c.target_system,
    sync_outbox.c.seq,
    sync_outbox.c.payload_version,
    sync_outbox.c.created_at,
    sync_outbox.c.cause,
    payload_text.label("payload_text"),
)
"""What event_of needs of a row."""


def event_of(row: sa.Row[Any]) -> Event:
    """Return the event of a row that was selected with EVENT_COLUMNS."""
    return Event(
        outbox_id=row.outbox_id,
        key=EntityKey(EntityType(row.entity_type), row.entity_id),
        operation=Operation(row.operation),
        target_system=TargetSystem(row.target_system),
        seq=row.seq,
        payload_version=row.payload_version,
        created_at=in_utc(row.created_at),
        payload=row.payload_text.encode("utf-8"),
        cause=row.cause,
    )


def in_utc(instant: dt.datetime) -> dt.datetime:
    """Give an instant of the source in UTC: MySQL and MariaDB hold it so and name no zone."""
    return instant.replace(tzinfo=dt.UTC) if instant.tzinfo is None else instant.astimezone(dt.UTC)
