"""Applies one member's batches at OpenEMR's pace: smaller ones while it is slow."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence

from connectors.events import Event
from consumer.apply import apply_events
from consumer.batch_size import BatchSize
from consumer.ports import Settlement, StreamPosition, Target, TransientError
from consumer.prepare import Drafted


class Applier:
    """What one member remembers from batch to batch of the target's pace."""

    def __init__(self, target: Target, *, records_max: int, slow_s: float, clock: Callable[[], dt.datetime]) -> None:
        self._target = target
        self._clock = clock
        self._size = BatchSize(records_max, slow_s)

    @property
    def records_max(self) -> int:
        """The most records that the next batch may have."""
        return self._size.records

    def apply(
        self, events: Sequence[Event], positions: Sequence[StreamPosition], drafted: Drafted | None = None
    ) -> Sequence[Settlement]:
        """Apply a batch as apply_events does.

        Raises:
            TransientError: as apply_events; the same batch, or parts of it, may be tried again.
        """
        began_at = self._clock()
        try:
            settlements = apply_events(self._target, events, positions, clock=self._clock, drafted=drafted)
        except TransientError:
            self._size.failed(len(events), self._since_s(began_at))
            raise
        self._size.took(len(events), self._since_s(began_at))
        return settlements

    def _since_s(self, began_at: dt.datetime) -> float:
        return (self._clock() - began_at).total_seconds()
