"""When a failed row is tried again: exponential backoff with full jitter, bounded in attempts and total time."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Final, assert_never

from consumer.outcome import GROUPS, ErrorClass, ErrorGroup

ATTEMPTS_MAX: Final = 100
"""More is a loop and no longer a retry."""

BUSY_DELAY_S: Final = 5.0
"""Bound of the delay for what somebody holds: he is at work, and his transaction may end at any moment."""


def is_charged(error_class: ErrorClass) -> bool:
    """Tell whether a failure of this class uses up an attempt; what somebody held up is no fault of the event."""
    return GROUPS[error_class] is not ErrorGroup.BUSY


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, and how long, each group of errors is tried again without a person.

    Attributes:
        delay_first_s: bound of the delay after the first failure; a retry by itself is for what somebody cures, and
            nobody cures anything in less.
        delay_growth: each bound is this many times the one before; by 4, a handful of attempts reaches from seconds to
            hours, where a clerk's or administrator's correction falls.
        delay_max_s: no bound is longer.
        attempts_rejected: attempts, the first included, of what OpenEMR or its rules refuse. With the defaults the
            bounds are 30 s, 2 min, 8 min, 32 min, 2 h 8 min.
        attempts_ours: the same of our own faults, which an upgrade cures within the day.
        total_max_s: the bounds before an attempt may not add up to more; what is not cured by then needs a person.
    """

    delay_first_s: float = 30.0
    delay_growth: float = 4.0
    delay_max_s: float = 14_400.0
    attempts_rejected: int = 6
    attempts_ours: int = 10
    total_max_s: float = 86_400.0

    def __post_init__(self) -> None:
        """Refuse settings that make no sense.

        Raises:
            ValueError: it names them.
        """
        if not 0 < self.delay_first_s <= self.delay_max_s:
            raise ValueError("retry: delay_first must be above 0 and at most delay_max")
        if not 1 <= self.delay_growth <= 10:  # noqa: PLR2004 - below, delays shrink; above, the second is the last
            raise ValueError("retry: delay_growth must be from 1 to 10")
        for name in ("attempts_rejected", "attempts_ours"):
            if not 1 <= getattr(self, name) <= ATTEMPTS_MAX:
                raise ValueError(f"retry: {name} must be from 1 (no retry) to {ATTEMPTS_MAX}")
        if self.total_max_s < self.delay_first_s:
            raise ValueError("retry: total_max must be at least delay_first, or nothing is ever tried again")

    def attempts_max(self, error_class: ErrorClass) -> int:
        """Return how many attempts, the first included, a row that fails in this way has."""
        match GROUPS[error_class]:
            case ErrorGroup.REJECTED:
                return self.attempts_rejected
            case ErrorGroup.OURS:
                return self.attempts_ours
            case ErrorGroup.WAITING | ErrorGroup.CONFLICT:
                return 1
            case ErrorGroup.BUSY:
                return ATTEMPTS_MAX
            case group:
                assert_never(group)

    def delay_bound_s(self, attempts: int) -> float:
        """Return the longest delay after `attempts` failed attempts."""
        bound_s = self.delay_first_s
        # At most ATTEMPTS_MAX rounds, and no power that runs away.
        for _ in range(1, min(attempts, ATTEMPTS_MAX)):
            if bound_s >= self.delay_max_s:
                break
            bound_s *= self.delay_growth
        return min(bound_s, self.delay_max_s)

    def next_attempt_at(
        self, error_class: ErrorClass, *, now: dt.datetime, attempts: int, jitter: float
    ) -> dt.datetime | None:
        """Return when to try again after `attempts` failed attempts, or None when a person must take over.

        jitter is a random number from 0 to 1. The whole delay is random, so that rows that failed together do not
        come back together; the bound of the total time is the sum of the delays' bounds, and needs no memory.
        What somebody holds is tried again until he lets it go, with half of the delay always kept.
        """
        if not is_charged(error_class):
            return now + dt.timedelta(seconds=BUSY_DELAY_S * (0.5 + jitter / 2))
        if attempts >= self.attempts_max(error_class):
            return None
        if sum(self.delay_bound_s(attempt) for attempt in range(1, attempts + 1)) > self.total_max_s:
            return None
        return now + dt.timedelta(seconds=self.delay_bound_s(attempts) * jitter)
