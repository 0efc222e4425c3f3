"""Retry failed outbox rows: take them, settle their events as the loop does, and stop when one class storms."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime as dt
import uuid
from collections.abc import Callable, Sequence
from typing import TypeAlias

from consumer.crash_points import Point, reached
from consumer.outcome import ErrorClass, Failed, Outcome
from consumer.ports import FailedRow, FailedRows, MisconfiguredError, OutboxMarker, Target, TransientError
from consumer.retry import is_charged
from consumer.settle import settle_events


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RetryLimits:
    """Bounds of retrying, with their reasons.

    rows_max: rows taken at once; their locks in OpenEMR stand in a clerk's way as briefly as a batch's.
    hold: how long a row is a retrier's own; a killed one's rows are taken up after it. Longer than a batch may take
        with all its time limits: two retriers at one row do no harm, and the second one's work is wasted.
    uncharged_delay: when a row that was given back, since a system was away, is due again; others come first then.
    storm_failures: so many rows of one class that fail, none of it settled between, are no chance: something common
        to them is wrong, and going on would only use up their attempts.
    storm_pause: within what time they are counted, and how long the role then leaves the class alone; a person may
        change something meanwhile.
    """

    rows_max: int = 100
    hold: dt.timedelta = dt.timedelta(minutes=5)
    uncharged_delay: dt.timedelta = dt.timedelta(seconds=5)
    storm_failures: int = 20
    storm_pause: dt.timedelta = dt.timedelta(minutes=5)

    def __post_init__(self) -> None:
        """Refuse bounds that make no sense."""
        for name in ("rows_max", "storm_failures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1")
        for name in ("hold", "uncharged_delay", "storm_pause"):
            if getattr(self, name) <= dt.timedelta():
                raise ValueError(f"{name}: must be above 0")


class StormBreaker:
    """Counts, for each class, the rows that failed since one of it was settled, and pauses a class with too many.

    A row that fails again and again counts once, and a failure is forgotten after the length of a pause: a few rows
    that fail for good, over days, are no storm.
    """

    def __init__(self, limits: RetryLimits) -> None:
        self._limits = limits
        self._failed_at: dict[ErrorClass, dict[uuid.UUID, dt.datetime]] = {}
        self._paused_until: dict[ErrorClass, dt.datetime] = {}

    @property
    def room(self) -> int:
        """How many rows may be taken at once, so that no more than storm_failures fail before it is seen."""
        most = max((len(failed_at) for failed_at in self._failed_at.values()), default=0)
        return min(self._limits.rows_max, self._limits.storm_failures - most)

    def paused(self, now: dt.datetime) -> frozenset[ErrorClass]:
        """Return the classes to leave alone."""
        return frozenset(one for one, until in self._paused_until.items() if until > now)

    def see(self, row: FailedRow, outcome: Outcome, now: dt.datetime) -> ErrorClass | None:
        """Count an outcome; return the class that it brings to a storm, which begins to count anew.

        What is not charged uses no attempts up, and is no storm.
        """
        if isinstance(outcome, Failed) and not is_charged(outcome.error_class):
            return None
        if not isinstance(outcome, Failed):
            if row.error_class is not None:
                self._failed_at.pop(row.error_class, None)
            return None
        error_class = outcome.error_class
        since = now - self._limits.storm_pause
        recent = {one: at for one, at in self._failed_at.get(error_class, {}).items() if at > since}
        self._failed_at[error_class] = recent | {row.event.outbox_id: now}
        if len(self._failed_at[error_class]) < self._limits.storm_failures:
            return None
        del self._failed_at[error_class]
        self._paused_until[error_class] = now + self._limits.storm_pause
        return error_class


@dataclasses.dataclass(slots=True)
class Tally:
    """What became of retried rows; failures by class, storms as they were met, left: chosen and not tried again."""

    outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    failures: collections.Counter[ErrorClass] = dataclasses.field(default_factory=collections.Counter)
    storms: list[ErrorClass] = dataclasses.field(default_factory=list)
    left: int = 0

    @property
    def rows(self) -> int:
        """How many rows were retried."""
        return self.outcomes.total()


Told: TypeAlias = Callable[[FailedRow, Outcome], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Retrier:
    """The parties of a retry: where failed rows are taken, applied and marked; told hears of every row."""

    failed: FailedRows
    target: Target
    marker: OutboxMarker
    breaker: StormBreaker
    limits: RetryLimits
    clock: Callable[[], dt.datetime]
    told: Told = lambda _row, _outcome: None


def retry_failed_outbox(retrier: Retrier, *, stopping: Callable[[], bool] = lambda: False) -> Tally:
    """Retry every row that is due now, but those of classes that storm; stopping is asked between batches.

    Raises:
        TransientError, MisconfiguredError: a system was lost; the rows in hand were given back, or come back by
            themselves when their hold lapses, and nothing was charged to them.
    """
    tally = Tally()
    due = retrier.clock()
    while not stopping():
        now = retrier.clock()
        taken = retrier.failed.claim_due(
            retrier.breaker.room,
            now=due,
            held_until=now + retrier.limits.hold,
            paused=retrier.breaker.paused(now),
        )
        if not taken:
            break
        _retry(retrier, taken, tally)
    return tally


def retry_chosen(retrier: Retrier, outbox_ids: Sequence[uuid.UUID]) -> Tally:
    """Retry rows that a person chose, due or not, and stop at the first storm.

    A row that is no longer failed, or that a retrier holds, is left out and counted as left.

    Raises:
        TransientError, MisconfiguredError: as retry_failed_outbox.
    """
    tally = Tally()
    waiting = list(outbox_ids)
    while waiting and not tally.storms:
        batch, rest = waiting[: retrier.breaker.room], waiting[retrier.breaker.room :]
        now = retrier.clock()
        taken = retrier.failed.claim(batch, now=now, held_until=now + retrier.limits.hold)
        ids = {one.event.outbox_id for one in taken}
        # Some may not have fitted in; when none could be taken, none of these can.
        over = [one for one in batch if one not in ids] if taken else []
        waiting = [*over, *rest]
        _retry(retrier, taken, tally)
    tally.left = len(outbox_ids) - tally.rows
    return tally


def _retry(retrier: Retrier, taken: Sequence[FailedRow], tally: Tally) -> None:
    if not taken:
        return
    reached(Point.BEFORE_RETRY_SETTLE)
    try:
        settlements = settle_events(
            retrier.target, retrier.marker, [one.event for one in taken], (), clock=retrier.clock, around_locks=True
        )
    except (TransientError, MisconfiguredError, KeyboardInterrupt):
        # What hinders the giving back hinders no one for longer than the hold.
        with contextlib.suppress(TransientError, MisconfiguredError):
            retrier.failed.give_back(taken, due_at=retrier.clock() + retrier.limits.uncharged_delay)
        raise
    reached(Point.AFTER_RETRY_SETTLE)
    # An event that was parked as well is settled twice, and the second time as a duplicate.
    outcomes = {one.event.outbox_id: one.outcome for one in reversed(settlements)}
    for row in taken:
        outcome = outcomes[row.event.outbox_id]
        tally.outcomes[type(outcome).__name__.lower()] += 1
        if isinstance(outcome, Failed):
            tally.failures[outcome.error_class] += 1
        storm = retrier.breaker.see(row, outcome, retrier.clock())
        if storm is not None:
            tally.storms.append(storm)
        retrier.told(row, outcome)
