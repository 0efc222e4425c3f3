"""When to ask a lost system again: delays that double, with jitter, between polls instead of sleeps."""

from __future__ import annotations

import dataclasses
import datetime as dt
import random
from collections.abc import Callable
from typing import Final

DELAY_FIRST_S: Final = 0.1
"""A deadlock's loser or a server that switches over is often fine again at once."""

DELAY_MAX_S: Final = 2.0
"""Work goes on this soon after a system is back; a try costs one refused connection."""


@dataclasses.dataclass(slots=True)
class Backoff:
    """The state of one outage; jitter gives numbers from 0 to 1, and half of each delay is always kept."""

    jitter: Callable[[], float] = random.random
    failures: int = 0
    began_at: dt.datetime | None = None
    due_at: dt.datetime | None = None

    def failed(self, now: dt.datetime) -> float:
        """Note a failed try; return the seconds until the next one."""
        # 2**10 is past any delay, and keeps the power from growing without bound.
        bound_s = min(DELAY_MAX_S, DELAY_FIRST_S * 2.0 ** min(self.failures, 10))
        delay_s = bound_s * (0.5 + self.jitter() / 2)
        self.failures += 1
        self.began_at = self.began_at or now
        self.due_at = now + dt.timedelta(seconds=delay_s)
        return delay_s

    def succeeded(self, now: dt.datetime) -> float | None:
        """Note a try that worked; return the seconds that the outage took, or None when there was none."""
        took_s = None if self.began_at is None else (now - self.began_at).total_seconds()
        self.failures, self.began_at, self.due_at = 0, None, None
        return took_s

    def is_due(self, now: dt.datetime) -> bool:
        """Tell whether the next try may be made."""
        return self.due_at is None or now >= self.due_at

    def left_s(self, now: dt.datetime) -> float:
        """Return the seconds until the next try, 0 when it is due."""
        return 0.0 if self.due_at is None else max(0.0, (self.due_at - now).total_seconds())
