"""When a failed row is tried again: exponential backoff with jitter, as a pure function."""

from __future__ import annotations

import dataclasses
import datetime as dt


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Delays double from delay_first_s to delay_max_s; a row is given up after attempts_max attempts.

    With the defaults the upper bounds are 30 s, 1 min, 2 min, … 1 h: a clerk's or administrator's correction
    (an option added, a merged patient sorted out) is picked up within the hour, at a cost of one statement.
    """

    delay_first_s: float = 30.0
    delay_max_s: float = 3_600.0
    attempts_max: int = 10

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        if not 0 < self.delay_first_s <= self.delay_max_s:
            raise ValueError("retry: delay_first_s must be above 0 and at most delay_max_s")
        if self.attempts_max < 1:
            raise ValueError("retry: attempts_max must be at least 1")

    def next_attempt_at(self, *, now: dt.datetime, attempts: int, jitter: float) -> dt.datetime | None:
        """Return when to try again after `attempts` failed attempts, or None when it is given up.

        jitter is a random number from 0 to 1; half of the delay is kept, so that a retry never follows at once.
        """
        if attempts >= self.attempts_max:
            return None
        # 2**60 seconds is past any delay_max_s, and keeps the power from growing without bound.
        bound_s = min(self.delay_max_s, self.delay_first_s * 2 ** min(attempts - 1, 60))
        return now + dt.timedelta(seconds=bound_s * (0.5 + jitter / 2))
