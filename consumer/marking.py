"""Writes outcomes into the source while the next batch is applied, in order, and tells which offsets may move."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import datetime as dt
import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

import structlog

from consumer.backoff import Backoff
from consumer.crash_points import Point, reached
from consumer.ports import OutboxMarker, Place, Settlement, StreamPosition, TransientError
from consumer.settle import newest

MARK_EVENTS_MAX: Final = 2_000
"""Events of one source transaction; its row locks last some tens of milliseconds."""

LOOK_AGAIN_S: Final = 0.01
"""How late the end of a mark is seen, and so its offset committed, when nothing else happens."""

_log = structlog.get_logger()


@dataclasses.dataclass(frozen=True, slots=True)
class Unmarked:
    """A batch that OpenEMR holds: outcomes to be marked, and the offsets that may move after that."""

    settlements: Sequence[Settlement]
    positions: Sequence[StreamPosition]


class MarkQueue:
    """One mark at a time, in the order of the batches; a source that is away only makes the queue longer.

    The queue's own state belongs to the loop's thread; the executor only runs the marker. Offsets come out of
    `marked` when everything before them is marked, so no offset passes an unmarked event (I3).
    """

    def __init__(
        self,
        marker: OutboxMarker,
        executor: concurrent.futures.Executor,
        *,
        clock: Callable[[], dt.datetime],
        events_max: int,
    ) -> None:
        self._marker = marker
        self._executor = executor
        self._clock = clock
        self._events_max = events_max
        self._queue: collections.deque[Unmarked] = collections.deque()
        self._in_flight: concurrent.futures.Future[None] | None = None
        self._batches_in_flight = 0
        self._marked: dict[Place, int] = {}
        self._backoff = Backoff()

    @property
    def events(self) -> int:
        """Count the events that are not marked yet."""
        return sum(len(one.settlements) for one in self._queue)

    @property
    def is_full(self) -> bool:
        """Tell whether to apply no more until the source has taken some marks."""
        return self.events >= self._events_max

    @property
    def source_is_away(self) -> bool:
        """Tell whether the last mark met a source that is away."""
        return self._backoff.failures > 0

    @property
    def look_again_s(self) -> float:
        """Tell in how many seconds there may be something to do here: inf when all is marked."""
        if self._in_flight is not None:
            return LOOK_AGAIN_S
        return self._backoff.left_s(self._clock()) if self._queue else math.inf

    def add(self, batch: Unmarked) -> None:
        """Queue a batch, and begin to mark it if nothing is before it.

        Raises:
            MisconfiguredError: from an earlier mark, as from every method here that looks at its result.
        """
        self._queue.append(batch)
        self.advance()

    def advance(self) -> None:
        """Take the result of the mark in flight, if it has one, and begin the next."""
        while self._queue:
            if self._in_flight is None:
                if not self._backoff.is_due(self._clock()):
                    return
                self._begin()
            if self._in_flight is None or not self._in_flight.done():
                return
            self._end()

    def wait(self, timeout_s: float) -> None:
        """Wait until the mark in flight has ended, at most so long, and take its result."""
        if self._in_flight is not None:
            concurrent.futures.wait([self._in_flight], timeout_s)
        self.advance()

    def finish(self, limit_s: float) -> None:
        """Go on until all is marked, the source turns out to be away, or the time is over."""
        deadline_s = time.monotonic() + limit_s
        while self._in_flight is not None and (left_s := deadline_s - time.monotonic()) > 0:
            self.wait(left_s)

    def take_marked(self) -> Sequence[StreamPosition]:
        """Return the positions up to which everything is marked, and forget them."""
        marked, self._marked = self._marked, {}
        return [StreamPosition(topic, partition, offset) for (topic, partition), offset in marked.items()]

    def abandon(self, places: Collection[Place]) -> None:
        """Let these partitions' offsets be: their next owner repeats what is unmarked. The marks are written still."""
        kept = [
            Unmarked(one.settlements, [position for position in one.positions if position.place not in places])
            for one in self._queue
        ]
        self._queue = collections.deque(kept)
        self._marked = {place: offset for place, offset in self._marked.items() if place not in places}

    def _begin(self) -> None:
        settlements: list[Settlement] = []
        self._batches_in_flight = 0
        for batch in self._queue:
            if settlements and len(settlements) + len(batch.settlements) > MARK_EVENTS_MAX:
                break
            settlements += batch.settlements
            self._batches_in_flight += 1
        self._in_flight = self._executor.submit(self._mark, newest(settlements))

    def _mark(self, settlements: Sequence[Settlement]) -> None:
        reached(Point.BEFORE_MARK)
        self._marker.mark(settlements)
        reached(Point.AFTER_MARK)

    def _end(self) -> None:
        assert self._in_flight is not None  # noqa: S101 - the caller's condition
        ended, self._in_flight = self._in_flight, None
        try:
            ended.result()
        except TransientError as error:
            delay_s = self._backoff.failed(self._clock())
            if self._backoff.failures == 1:
                _log.warning("marks wait", action="marks_wait", reason=str(error), events=self.events)
            else:
                _log.info("marks still wait", action="marks_wait", reason=str(error), retry_in_s=round(delay_s, 1))
            return
        outage_s = self._backoff.succeeded(self._clock())
        if outage_s is not None:
            _log.info("marks go on", action="marks_go_on", after_s=round(outage_s, 1))
        for _ in range(self._batches_in_flight):
            for one in self._queue.popleft().positions:
                self._marked[one.place] = one.next_offset
