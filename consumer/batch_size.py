"""How many records the next transaction may hold: fewer while OpenEMR is slow, more again when it is fast."""

from __future__ import annotations

import dataclasses
from typing import Final

RECORDS_MIN: Final = 10
"""Below this a batch's own two round trips and its commit cost more than its rows, and a smaller one gains no time."""

FAST_SHARE: Final = 0.5
"""A full batch that took at most this share of the limit would, twice as large, still keep within it."""


@dataclasses.dataclass(slots=True)
class BatchSize:
    """The bound of the next batches, between RECORDS_MIN and records_max; it begins at records_max.

    Attributes:
        records_max: the bound is never above it.
        slow_s: a batch that took longer was too large for the target's present speed, and halves the bound.
        records: the bound as it is.
    """

    records_max: int
    slow_s: float
    records: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Begin with the largest batch: most targets are fast, and two slow batches are soon over."""
        self.records = self.records_max

    def took(self, records: int, seconds: float) -> None:
        """Note a batch that was committed; only a full one that was fast tells that a larger one may be too."""
        if seconds > self.slow_s:
            self._halve(records)
        elif records >= self.records and seconds <= FAST_SHARE * self.slow_s:
            self.records = min(2 * self.records, self.records_max)

    def failed(self, records: int, seconds: float) -> None:
        """Note a try that came to nothing: one that failed at once tells nothing of the target's speed."""
        if seconds > self.slow_s:
            self._halve(records)

    def _halve(self, records: int) -> None:
        self.records = max(min(RECORDS_MIN, self.records_max), min(self.records, records) // 2)
