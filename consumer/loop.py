"""The consumer loop: poll, decode, apply, mark, commit; while a system is away it pauses, goes on polling and asks."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import datetime as dt
from collections.abc import Callable, Collection, Sequence
from typing import Final

import structlog

from connectors.events import EntityKey
from consumer.applier import Applier
from consumer.backoff import Backoff
from consumer.batch import Batch, split
from consumer.crash_points import Point, reached
from consumer.dead_letters import LIMITS_DEFAULT as DEAD_LETTER_LIMITS
from consumer.dead_letters import DeadLetterLimits, RecordReader
from consumer.marking import MarkQueue, Unmarked
from consumer.outcome import Failed
from consumer.ports import (
    EventStream,
    OutboxMarker,
    PausedError,
    Place,
    RestoredError,
    Settlement,
    Target,
    TransientError,
)
from consumer.reach import Reach
from consumer.settle import release_parked, report_overdue, touched

_log = structlog.get_logger()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoopLimits:
    """Bounds of the loop, with their reasons.

    records_max: more gains nothing (measured) and makes a batch's locks last longer.
    slow_s: a batch that takes longer in OpenEMR halves the next ones, so that its locks are short and a stop is seen
        soon also while OpenEMR is slow.
    lock_patience: how long a batch waits for rows that somebody holds in OpenEMR before it goes on without their
        events; one usual wait for a lock, which most clerks' transactions do not last.
    bytes_max: keeps statements below max_allowed_packet whatever the payloads.
    poll_timeout_s: how late a stop request or the chores are seen on an idle topic.
    chores_interval_s: how often the waiting room is looked through without an event asking for it.
    parent_wait: how long an event may wait for its parent before its row says failed.
    dead_letters: what is parked, and how much of it.
    unmarked_events_max: how far OpenEMR may be ahead of its marks while the source is away; some 10 MiB, and
        repeated as duplicates when the process dies.
    unmarked_wait_s: how long a full queue of marks is waited for before partitions are paused, which costs what was
        fetched ahead.
    leave_wait_s: how long marks in flight hold up a rebalance or the end; what is left is repeated.
    commit_interval_s: how often offsets are committed while a backlog is drained; so much is repeated as duplicates
        when the process dies. Without a backlog each batch is committed.
    """

    records_max: int = 500
    slow_s: float = 1.0
    lock_patience: dt.timedelta = dt.timedelta(seconds=10)
    bytes_max: int = 4_194_304
    poll_timeout_s: float = 0.5
    chores_interval_s: float = 1.0
    parent_wait: dt.timedelta = dt.timedelta(hours=24)
    dead_letters: DeadLetterLimits = DEAD_LETTER_LIMITS
    unmarked_events_max: int = 5_000
    unmarked_wait_s: float = 1.0
    leave_wait_s: float = 5.0
    commit_interval_s: float = 0.2

    def __post_init__(self) -> None:
        """Refuse bounds that make no sense."""
        for field in dataclasses.fields(self):
            bound = getattr(self, field.name)
            if isinstance(bound, int | float) and bound <= 0:
                raise ValueError(f"{field.name}: must be above 0")
        for name in ("parent_wait", "lock_patience"):
            if getattr(self, name) <= dt.timedelta():
                raise ValueError(f"{name}: must be above 0")


LIMITS_DEFAULT: Final = LoopLimits()


class ConsumerLoop:
    """One member's work; run_once is one turn, so that tests need no thread."""

    def __init__(
        self,
        stream: EventStream,
        target: Target,
        marker: OutboxMarker,
        executor: concurrent.futures.Executor,
        *,
        limits: LoopLimits = LIMITS_DEFAULT,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._stream = stream
        self._target = target
        self._marker = marker
        self._limits = limits
        self._clock = clock
        self._applier = Applier(
            target,
            records_max=limits.records_max,
            slow_s=limits.slow_s,
            lock_patience=limits.lock_patience,
            clock=clock,
        )
        self._executor = executor
        self._marks = MarkQueue(marker, executor, clock=clock, events_max=limits.unmarked_events_max)
        self._held: collections.deque[Batch] = collections.deque()
        self._more_is_there = False
        self._backoff = Backoff()
        self._reason: str | None = None
        self._chores_backoff = Backoff()
        self._stopping = False
        self._reader = RecordReader(stream, limits.dead_letters)
        self._reach = Reach(stream)
        self._chores_due_at = clock()
        self._commit_due_at = clock()
        stream.before_revoke(self._give_up)

    def stop(self) -> None:
        """Ask the loop to end after the batch in hand; safe to call from a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Work until stop; leave the group in every case.

        Raises:
            MisconfiguredError, TransientError: a system is set up wrongly, or Kafka's client cannot go on; nothing
                unmarked was committed, so a restarted process takes the same events up again.
            RestoredError: OpenEMR lacks what the group has passed; whoever leaves the group lets it be rewound.
            ClientLostError: the stream must be made anew.
        """
        try:
            while not self._stopping:
                self.run_once()
            self._finish_marks()
        finally:
            self._stream.close()

    def run_once(self) -> bool:
        """Do one turn: take records unless some are in hand, apply what is in hand, commit what is marked.

        Returns whether there was anything to do: records that came, were in hand or not marked yet.
        """
        if self._marks.is_full:
            self._marks.wait(self._limits.unmarked_wait_s)
        self._commit_marked()
        self._take()
        had_work = bool(self._held) or self._marks.events > 0
        for _ in range(len(self._held)):
            if not self._backoff.is_due(self._clock()) or self._marks.is_full or not self._try_first():
                break
        self._commit_marked()
        if self._clock() >= self._chores_due_at and self._backoff.failures == 0 and not self._marks.source_is_away:
            self._try_chores()
        return had_work

    def _take(self) -> None:
        """Poll: for records, or, with enough in hand, only to stay in the group."""
        if self._held and self._backoff.failures == 0 and not self._marks.is_full:
            return  # fetched ahead; what is behind it is fetched at its turn
        self._stream.pause(paused=bool(self._held) or self._marks.is_full)
        look_again_s = self._backoff.left_s(self._clock()) if self._held else self._marks.look_again_s
        self._poll(min(self._limits.poll_timeout_s, look_again_s))

    def _poll(self, timeout_s: float) -> None:
        records_max = self._applier.records_max
        records = self._stream.poll(records_max=records_max, timeout_s=timeout_s)
        self._more_is_there = len(records) == records_max
        self._held += split(records, self._limits.bytes_max)

    def _look_ahead(self) -> None:
        """Let the next batch be decoded and drafted while the first is on its way: OpenEMR's server takes as long."""
        if len(self._held) == 1 and self._more_is_there and self._backoff.failures == 0:
            self._poll(0)
        if len(self._held) > 1:
            self._held[1].look_ahead(self._executor, self._reader, self._target.drafting())

    def _try_first(self) -> bool:
        """Settle the first batch in hand; tell whether that worked. Nothing is charged to its events if not."""
        # What was too much for the target at once may go in parts, and must not be tried whole for ever.
        if self._held[0].records > self._applier.records_max:
            self._held.extendleft(reversed([*self._held.popleft().parts(self._applier.records_max)]))
        self._look_ahead()
        try:
            self._settle(self._held[0])
        except RestoredError:
            raise
        except TransientError as error:
            delay_s = self._backoff.failed(self._clock())
            reason, self._reason = self._reason, str(error)
            if reason is None or (isinstance(error, PausedError) and reason != str(error)):
                _log.warning("partitions paused", action="paused", reason=str(error))
            elif not isinstance(error, PausedError):  # a pause lasts for hours, and is told once
                _log.info("still paused", action="paused", reason=str(error), retry_in_s=round(delay_s, 1))
            return False
        self._held.popleft()
        self._reason = None
        outage_s = self._backoff.succeeded(self._clock())
        if outage_s is not None:
            _log.info("partitions resumed", action="resumed", after_s=round(outage_s, 1))
        return True

    def _settle(self, batch: Batch) -> None:
        batch.read(self._reader, self._clock())
        positions = self._reach.expected(batch.positions)
        if not positions:
            return
        if len(batch.events) < batch.records:
            self._commit_due_at = self._clock()  # what was parked must not be parked again
        settlements = self._applier.apply(batch.events, positions, batch.drafted)
        self._reach.recorded(positions)
        self._marks.add(Unmarked([*settlements, *batch.unreadable], positions))
        _report(settlements)
        self._release(touched(settlements))

    def _release(self, keys: Sequence[EntityKey]) -> None:
        """Settle what waited for these; what cannot be settled now is still in the waiting room for the chores."""
        if not keys or self._marks.source_is_away:
            return  # a released child is marked in this thread, and each try would wait for the source
        try:
            _report(release_parked(self._target, self._marker, keys, clock=self._clock))
        except TransientError as error:
            _log.warning("children wait for the chores", action="release_postponed", reason=str(error))

    def _commit_marked(self) -> None:
        """Commit the offsets of what is marked."""
        self._marks.advance()
        if self._more_is_there and self._clock() < self._commit_due_at:
            return
        marked = self._marks.take_marked()
        if not marked:
            return
        self._commit_due_at = self._clock() + dt.timedelta(seconds=self._limits.commit_interval_s)
        reached(Point.BEFORE_OFFSET_COMMIT)
        self._stream.commit(marked)
        reached(Point.AFTER_OFFSET_COMMIT)

    def _give_up(self, places: Collection[Place]) -> None:
        """Settle what is in flight before partitions go, within the limit, and leave the rest to their next owner."""
        reached(Point.BEFORE_REVOKE)
        self._finish_marks()
        self._marks.abandon(places)
        self._reach.forget(places)
        for batch in self._held:
            batch.leave_out(places)
        reached(Point.AFTER_REVOKE)

    def _finish_marks(self) -> None:
        self._marks.finish(self._limits.leave_wait_s)
        self._commit_due_at = self._clock()
        self._commit_marked()

    def _try_chores(self) -> None:
        """Release what a killed process left parked, and report what waits too long."""
        interval_s = self._limits.chores_interval_s
        try:
            released = release_parked(self._target, self._marker, None, clock=self._clock)
            overdue = report_overdue(self._target, self._marker, wait_limit=self._limits.parent_wait, clock=self._clock)
        except TransientError as error:
            interval_s = max(interval_s, self._chores_backoff.failed(self._clock()))
            if self._chores_backoff.failures == 1:
                _log.warning("chores postponed", action="chores_postponed", reason=str(error))
        else:
            self._chores_backoff.succeeded(self._clock())
            if released or overdue:
                _log.info("chores done", action="chores", released=len(released), overdue=overdue)
        self._chores_due_at = self._clock() + dt.timedelta(seconds=interval_s)


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
