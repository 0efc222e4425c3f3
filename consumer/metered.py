"""Ports that count and time what passes through them; the use cases know nothing of it."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime as dt
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final

from connectors.events import EntityKey, Event
from connectors.payloads import AnyPayload
from consumer.drafting import Draft, Drafting
from consumer.metrics import RetryMetrics, SettlingMetrics, StreamMetrics
from consumer.outcome import ErrorClass, Failed, Waiting
from consumer.ports import (
    EventStream,
    FailedRow,
    FailedRows,
    OutboxMarker,
    Place,
    Record,
    Settlement,
    StreamPosition,
    Target,
    TargetTransaction,
)

LAG_INTERVAL_S: Final = 1.0
"""How often the lag is looked at; no scrape is more frequent than that to any use."""


class MeteredTarget:
    """A Target whose transactions are timed, and whose outages are seen."""

    def __init__(self, target: Target, metrics: SettlingMetrics) -> None:
        self._target = target
        self._metrics = metrics

    def draft(self, event: Event, payload: AnyPayload) -> Draft | Failed:
        """See ports.Target."""
        return self._target.draft(event, payload)

    def drafting(self) -> Drafting:
        """See ports.Target."""
        return self._target.drafting()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[TargetTransaction]:
        """See ports.Target."""
        with self._metrics.applying(), self._target.transaction() as transaction:
            yield transaction

    def lock_wait(self, seconds: int) -> contextlib.AbstractContextManager[None]:
        """See ports.Target."""
        return self._target.lock_wait(seconds)

    def releasable(self, limit: int, keys: Sequence[EntityKey] | None) -> Sequence[Event]:
        """See ports.Target."""
        with self._metrics.asking("openemr"):
            return self._target.releasable(limit, keys)

    def forget(self, outbox_ids: Sequence[uuid.UUID]) -> None:
        """See ports.Target."""
        with self._metrics.asking("openemr"):
            self._target.forget(outbox_ids)

    def overdue(self, since: dt.datetime, limit: int) -> Sequence[tuple[Event, Waiting]]:
        """See ports.Target."""
        with self._metrics.asking("openemr"):
            return self._target.overdue(since, limit)

    def reported_overdue(self, outbox_ids: Sequence[uuid.UUID]) -> None:
        """See ports.Target."""
        with self._metrics.asking("openemr"):
            self._target.reported_overdue(outbox_ids)


class MeteredMarker:
    """An OutboxMarker that counts the outcomes it has written, so that they agree with the rows."""

    def __init__(self, marker: OutboxMarker, metrics: SettlingMetrics) -> None:
        self._marker = marker
        self._metrics = metrics

    def mark(self, settlements: Sequence[Settlement]) -> None:
        """See ports.OutboxMarker."""
        if not settlements:
            return
        with self._metrics.marking():
            self._marker.mark(settlements)
        self._metrics.marked(settlements)


@dataclasses.dataclass(slots=True)
class _Progress:
    """How far a partition is: polled batches as (next offset, time of their first record), and what is committed."""

    committed: int
    newest_ms: int
    polled: collections.deque[tuple[int, int]] = dataclasses.field(default_factory=collections.deque)

    def commit(self, next_offset: int) -> None:
        self.committed = next_offset
        while self.polled and self.polled[0][0] <= next_offset:
            self.polled.popleft()


class MeteredStream:
    """An EventStream that tells how far behind its partitions are.

    ends: gives the end offset of each owned partition as far as it is known, without asking the broker; None if not.
    is_troubled: tells whether the client has told of trouble with Kafka, and nothing has come since.
    """

    def __init__(
        self,
        stream: EventStream,
        metrics: StreamMetrics,
        settling: SettlingMetrics,
        ends: Callable[[], Mapping[Place, int | None]],
        clock: Callable[[], float] = time.time,
        *,
        is_troubled: Callable[[], bool],
    ) -> None:
        self._stream = stream
        self._metrics = metrics
        self._settling = settling
        self._ends = ends
        self._is_troubled = is_troubled
        self._clock = clock
        self._progress: dict[Place, _Progress] = {}
        self._looked_s = 0.0

    def poll(self, *, records_max: int, timeout_s: float) -> Sequence[Record]:
        """See ports.EventStream."""
        self._metrics.polls(records_max)
        records = self._stream.poll(records_max=records_max, timeout_s=timeout_s)
        if records:
            self._metrics.polled(len(records))
            self._note(records)
        now_s = self._clock()
        if now_s - self._looked_s >= LAG_INTERVAL_S:
            self._looked_s = now_s
            self._look(now_s)
        return records

    def pause(self, *, paused: bool) -> None:
        """See ports.EventStream."""
        self._stream.pause(paused=paused)
        self._metrics.pause(paused=paused)

    def before_revoke(self, settle: Callable[[Collection[Place]], None]) -> None:
        """See ports.EventStream."""

        def settle_and_forget(places: Collection[Place]) -> None:
            settle(places)
            # Another member goes on there; what was known here is old if they ever come back.
            for place in places:
                self._progress.pop(place, None)

        self._stream.before_revoke(settle_and_forget)

    def park(self, record: Record, reason: str) -> None:
        """See ports.EventStream."""
        with self._settling.asking("kafka"):
            self._stream.park(record, reason)
        self._metrics.parked()

    def halt(self, topic: str, partition: int) -> None:
        """See ports.EventStream."""
        with self._settling.asking("kafka"):
            self._stream.halt(topic, partition)

    def halted(self, places: Collection[tuple[str, int]]) -> bool:
        """See ports.EventStream."""
        with self._settling.asking("kafka"):
            return self._stream.halted(places)

    def committed(self, places: Collection[Place]) -> Mapping[Place, int]:
        """See ports.EventStream."""
        with self._settling.asking("kafka"):
            return self._stream.committed(places)

    def commit(self, positions: Sequence[StreamPosition]) -> None:
        """See ports.EventStream."""
        self._stream.commit(positions)
        for one in positions:
            if (progress := self._progress.get(one.place)) is not None:
                progress.commit(one.next_offset)

    def close(self) -> None:
        """See ports.EventStream."""
        self._stream.close()
        # The process may live on outside the group.
        self._metrics.owned(0, ())

    def _note(self, records: Sequence[Record]) -> None:
        spans: dict[Place, tuple[Record, Record]] = {}
        for record in records:
            first, _ = spans.get(record.place, (record, record))
            spans[record.place] = first, record
        for place, (first, last) in spans.items():
            progress = self._progress.setdefault(place, _Progress(first.offset, 0))
            progress.newest_ms = last.timestamp_ms or progress.newest_ms
            progress.polled.append((last.offset + 1, first.timestamp_ms or 0))

    def _look(self, now_s: float) -> None:
        (self._settling.away if self._is_troubled() else self._settling.answers)("kafka")
        ends = self._ends()
        known = {
            place: (progress, end)
            for place, end in ends.items()
            if end is not None and (progress := self._progress.get(place)) is not None
        }
        self._metrics.owned(len(ends), known.keys())
        for place, (progress, end) in known.items():
            lag = max(0, end - progress.committed)
            # What was not fetched yet is no older than the newest that was.
            since_ms = progress.polled[0][1] if progress.polled else progress.newest_ms
            seconds = max(0.0, now_s - since_ms / 1000) if lag and since_ms else 0.0
            self._metrics.lag(place, records=lag, seconds=seconds)


class MeteredFailedRows:
    """FailedRows that count what is taken."""

    def __init__(self, rows: FailedRows, metrics: RetryMetrics, settling: SettlingMetrics) -> None:
        self._rows = rows
        self._metrics = metrics
        self._settling = settling

    def claim_due(
        self, limit: int, *, now: dt.datetime, held_until: dt.datetime, paused: Collection[ErrorClass]
    ) -> Sequence[FailedRow]:
        """See ports.FailedRows."""
        self._metrics.pause(paused)
        with self._settling.asking("source"):
            taken = self._rows.claim_due(limit, now=now, held_until=held_until, paused=paused)
        return self._counted(taken)

    def claim(
        self, outbox_ids: Sequence[uuid.UUID], *, now: dt.datetime, held_until: dt.datetime
    ) -> Sequence[FailedRow]:
        """See ports.FailedRows."""
        with self._settling.asking("source"):
            taken = self._rows.claim(outbox_ids, now=now, held_until=held_until)
        return self._counted(taken)

    def give_back(self, rows: Sequence[FailedRow], *, due_at: dt.datetime) -> None:
        """See ports.FailedRows."""
        with self._settling.asking("source"):
            self._rows.give_back(rows, due_at=due_at)
        self._metrics.returned(len(rows))

    def _counted(self, taken: Sequence[FailedRow]) -> Sequence[FailedRow]:
        for row in taken:
            self._metrics.taken(row.event.key.entity_type.value, row.error_class)
        return taken
