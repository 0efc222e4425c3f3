"""Which failed rows a person's choice meets, before anything is done about them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid
from collections import Counter
from typing import Final

import sqlalchemy as sa

from connectors.outbox import EntityType, Status, sync_outbox
from consumer.failed_rows import RETRYING
from consumer.outcome import ErrorClass

ROWS_MAX: Final = 100_000
"""Most rows of one choice; the next call takes the next ones."""

_OUTBOX: Final = sync_outbox.c


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a person asks for; None leaves it open. due: only what is due now by itself; limit: at most so many."""

    error_class: ErrorClass | None = None
    entity_type: EntityType | None = None
    outbox_id: uuid.UUID | None = None
    due: bool = False
    limit: int = ROWS_MAX


@dataclasses.dataclass(frozen=True, slots=True)
class ChosenRow:
    """A failed row; next_attempt_at None means that no retrier takes it by itself."""

    outbox_id: uuid.UUID
    entity_type: str
    entity_id: str
    error_class: str | None
    retry_count: int
    next_attempt_at: dt.datetime | None


@dataclasses.dataclass(frozen=True, slots=True)
class Chosen:
    """The rows of a choice in seq order, up to its limit, and how many it meets without the limit."""

    rows: tuple[ChosenRow, ...]
    matching: int

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """How many rows of each entity type and error class."""
        return Counter((row.entity_type, row.error_class or "") for row in self.rows)


def choose(connection: sa.Connection, choice: Choice, now: dt.datetime) -> Chosen:
    """Read what a choice meets: failed rows, and rows that a killed retrier held."""
    due = _OUTBOX.next_attempt_at <= now
    failed = _OUTBOX.status == Status.FAILED.value
    lapsed = sa.and_(_OUTBOX.status == Status.PROCESSING.value, _OUTBOX.outcome == RETRYING, due)
    where = [sa.or_(sa.and_(failed, due) if choice.due else failed, lapsed)]
    if choice.error_class is not None:
        where.append(_OUTBOX.error_class == choice.error_class.value)
    if choice.entity_type is not None:
        where.append(_OUTBOX.entity_type == choice.entity_type.value)
    if choice.outbox_id is not None:
        where.append(_OUTBOX.outbox_id == choice.outbox_id)
    columns = [_OUTBOX[field.name] for field in dataclasses.fields(ChosenRow)]
    limit = min(choice.limit, ROWS_MAX)
    rows = connection.execute(sa.select(*columns).where(*where).order_by(_OUTBOX.seq).limit(limit))
    found = tuple(ChosenRow(*row) for row in rows)
    matching = len(found)
    if matching == limit:
        matching = connection.scalar(sa.select(sa.func.count()).select_from(sync_outbox).where(*where)) or 0
    return Chosen(found, matching)


def why_not(connection: sa.Connection, outbox_id: uuid.UUID) -> str:
    """Say why a row cannot be retried."""
    asked = sa.select(_OUTBOX.status, _OUTBOX.outcome, _OUTBOX.error_message).where(_OUTBOX.outbox_id == outbox_id)
    row = connection.execute(asked).one_or_none()
    if row is None:
        return f"there is no outbox row {outbox_id}"
    match Status(row.status):
        case Status.DONE:
            reason = f"is done ({row.outcome})"
        case Status.PENDING:
            reason = "is pending: it has not failed, and the consumers will take it"
        case Status.PROCESSING if row.outcome == RETRYING:
            reason = "is in the hands of a retrier"
        case Status.PROCESSING:
            reason = f"waits and is applied by itself: {row.error_message}"
        case Status.FAILED:
            reason = "has failed just now; ask again"
    return f"outbox row {outbox_id} {reason}"
