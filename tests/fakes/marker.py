"""The outcome columns of the application's database in memory."""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid
from collections.abc import Sequence

from connectors.events import EntityKey, Event
from consumer.outcome import Applied, Duplicate, ErrorClass, Failed, Stale, Waiting
from consumer.ports import Settlement
from consumer.retry import RetryPolicy
from tests.fakes.faults import Faults


@dataclasses.dataclass
class FakeRow:
    """The outcome columns of one outbox row."""

    event: Event
    status: str = "pending"
    outcome: str | None = None
    retry_count: int = 0
    next_attempt_at: dt.datetime | None = None
    error_class: str | None = None
    error_message: str | None = None
    processed_at: dt.datetime | None = None


@dataclasses.dataclass
class FakeSource:
    """What is committed in the application's database."""

    outbox: dict[uuid.UUID, FakeRow] = dataclasses.field(default_factory=dict)
    last_synced_at: dict[EntityKey, dt.datetime] = dataclasses.field(default_factory=dict)


class FakeMarker:
    """An OutboxMarker on a FakeSource."""

    def __init__(self, source: FakeSource, faults: Faults | None = None, *, jitter: float = 1) -> None:
        self._source = source
        self._faults = faults or Faults()
        self._jitter = jitter

    def mark(self, settlements: Sequence[Settlement]) -> None:
        """See ports.OutboxMarker."""
        if not settlements:
            return
        self._faults.at("marker.mark")
        for settlement in settlements:
            row = self._source.outbox.get(settlement.event.outbox_id)
            if row is not None and row.status != "done":
                _mark(row, settlement, self._jitter)
            key = settlement.event.key
            if isinstance(settlement.outcome, Applied):
                before = self._source.last_synced_at.get(key, settlement.settled_at)
                self._source.last_synced_at[key] = max(before, settlement.settled_at)
            elif isinstance(settlement.outcome, Duplicate):
                synced = self._source.last_synced_at.get(key)
                if synced is None or synced < settlement.event.created_at:
                    self._source.last_synced_at[key] = settlement.settled_at
        self._faults.at("marker.marked")


def _mark(row: FakeRow, settlement: Settlement, jitter: float) -> None:
    overdue = row.status == "failed" and row.error_class == "parent_missing"
    match settlement.outcome:
        case Applied() | Duplicate() | Stale() as outcome:
            row.status, row.outcome = "done", type(outcome).__name__.lower()
            row.processed_at = settlement.settled_at
            row.error_class = row.error_message = row.next_attempt_at = None
        case Waiting() as outcome:
            if not overdue:
                row.status, row.outcome, row.next_attempt_at = "processing", "waiting", None
                row.error_class, row.error_message = "parent_missing", outcome.message
        case Failed() as outcome:
            another = row.error_class in {"parent_missing", "locked"} and row.error_class != outcome.error_class.value
            told = row.status == "failed" and not another
            if told and outcome.error_class is ErrorClass.LOCKED:
                return
            row.error_class, row.error_message = outcome.error_class.value, outcome.message
            if not told:
                row.status, row.outcome = "failed", "failed"
                row.retry_count += outcome.error_class is not ErrorClass.LOCKED
                row.next_attempt_at = RetryPolicy().next_attempt_at(
                    outcome.error_class, now=settlement.settled_at, attempts=row.retry_count, jitter=jitter
                )
