"""The consumer loop: poll, decode, settle, commit; it ends when asked to, and dies loudly when a system is lost."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import structlog

from consumer.dead_letters import LIMITS_DEFAULT as DEAD_LETTER_LIMITS
from consumer.dead_letters import DeadLetterLimits, RecordReader
from consumer.outcome import Failed
from consumer.ports import EventStream, OutboxMarker, Record, Settlement, StreamPosition, Target
from consumer.settle import release_parked, report_overdue, settle_events

_log = structlog.get_logger()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoopLimits:
    """Bounds of the loop, with their reasons.

    records_max: more gains nothing (measured) and makes a batch's locks last longer.
    bytes_max: keeps statements below max_allowed_packet whatever the payloads.
    poll_timeout_s: how late a stop request or the chores are seen on an idle topic.
    chores_interval_s: how often the waiting room is looked through without an event asking for it.
    parent_wait: how long an event may wait for its parent before its row says failed.
    dead_letters: what is parked, and how much of it.
    """

    records_max: int = 500
    bytes_max: int = 4_194_304
    poll_timeout_s: float = 0.5
    chores_interval_s: float = 1.0
    parent_wait: dt.timedelta = dt.timedelta(seconds=10)
    dead_letters: DeadLetterLimits = DEAD_LETTER_LIMITS

    def __post_init__(self) -> None:
        """Refuse bounds that make no sense."""
        for name in ("records_max", "bytes_max", "poll_timeout_s", "chores_interval_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: must be above 0")


LIMITS_DEFAULT: Final = LoopLimits()


class ConsumerLoop:
    """One member's work; run_once is one turn, so that tests need no thread."""

    def __init__(
        self,
        stream: EventStream,
        target: Target,
        marker: OutboxMarker,
        *,
        limits: LoopLimits = LIMITS_DEFAULT,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._stream = stream
        self._target = target
        self._marker = marker
        self._limits = limits
        self._clock = clock
        self._stopping = False
        self._reader = RecordReader(stream, limits.dead_letters)
        self._chores_due_at = clock()

    def stop(self) -> None:
        """Ask the loop to end after the batch in hand; safe to call from a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Work until stop; leave the group in every case.

        Raises:
            TransientError, MisconfiguredError: a system was lost; nothing unmarked was committed, so a restarted
                process takes the same events up again.
        """
        try:
            while not self._stopping:
                self.run_once()
        finally:
            self._stream.close()

    def run_once(self) -> int:
        """Settle what one poll brings, and do the chores when they are due; return the number of records."""
        records = self._stream.poll(records_max=self._limits.records_max, timeout_s=self._limits.poll_timeout_s)
        for batch in self._batches(records):
            self._settle(batch)
        if self._clock() >= self._chores_due_at:
            self._do_chores()
        return len(records)

    def _batches(self, records: Sequence[Record]) -> Iterator[Sequence[Record]]:
        batch: list[Record] = []
        size_bytes = 0
        for record in records:
            record_bytes = len(record.value or b"")
            if batch and size_bytes + record_bytes > self._limits.bytes_max:
                yield batch
                batch, size_bytes = [], 0
            batch.append(record)
            size_bytes += record_bytes
        if batch:
            yield batch

    def _settle(self, records: Sequence[Record]) -> None:
        reading = self._reader.read(records, now=self._clock())
        positions = _next_positions(records)
        settlements = settle_events(self._target, self._marker, reading.events, positions, clock=self._clock)
        self._marker.mark(reading.unreadable)
        self._stream.commit(positions)
        _report(settlements)

    def _do_chores(self) -> None:
        """Release what a killed process left parked, and report what waits too long."""
        released = release_parked(self._target, self._marker, None, clock=self._clock)
        overdue = report_overdue(self._target, self._marker, wait_limit=self._limits.parent_wait, clock=self._clock)
        if released or overdue:
            _log.info("chores done", action="chores", released=len(released), overdue=overdue)
        self._chores_due_at = self._clock() + dt.timedelta(seconds=self._limits.chores_interval_s)


def _next_positions(records: Sequence[Record]) -> Sequence[StreamPosition]:
    offsets: dict[tuple[str, int], int] = {}
    for record in records:
        place = record.topic, record.partition
        offsets[place] = max(offsets.get(place, 0), record.offset + 1)
    return [StreamPosition(topic, partition, offset) for (topic, partition), offset in offsets.items()]


def _report(settlements: Sequence[Settlement]) -> None:
    for settlement in settlements:
        if isinstance(settlement.outcome, Failed):
            _log.warning(
                "event failed",
                action="event_failed",
                outbox_id=str(settlement.event.outbox_id),
                entity_type=settlement.event.key.entity_type.value,
                entity_id=settlement.event.key.entity_id,
                error_class=settlement.outcome.error_class.value,
                reason=settlement.outcome.message,
            )
    _log.debug("batch settled", action="batch_settled", events=len(settlements))
