"""Applies one member's batches at OpenEMR's pace: smaller ones while it is slow, around rows that somebody holds."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Final

from connectors.events import EntityKey, Event
from consumer.apply import apply_events
from consumer.around_locks import HELD, apply_around_locks
from consumer.batch_size import BatchSize
from consumer.ports import LockedError, Settlement, StreamPosition, Target, TransientError
from consumer.prepare import Drafted

UNTRIED: Final = dt.timedelta(seconds=5)
"""How long an entity that was found held is set aside without another try: each would cost its batch a wait."""

WATCHFUL: Final = dt.timedelta(seconds=60)
"""How long after the last entity that was found held the member waits only briefly for locks."""


class Applier:
    """What one member remembers from batch to batch: the target's pace, and which entities somebody holds."""

    def __init__(
        self,
        target: Target,
        *,
        records_max: int,
        slow_s: float,
        lock_patience: dt.timedelta,
        clock: Callable[[], dt.datetime],
    ) -> None:
        self._target = target
        self._lock_patience = lock_patience
        self._clock = clock
        self._size = BatchSize(records_max, slow_s)
        self._locked_since: dt.datetime | None = None
        self._held_at: dict[EntityKey, dt.datetime] = {}

    @property
    def records_max(self) -> int:
        """The most records that the next batch may have."""
        return self._size.records

    def apply(
        self, events: Sequence[Event], positions: Sequence[StreamPosition], drafted: Drafted | None = None
    ) -> Sequence[Settlement]:
        """Apply a batch as apply_events does; when it has met locks for the patience, as apply_around_locks.

        Raises:
            LockedError: the patience is not over, or so much is held that it begins anew.
            TransientError: as apply_events; the same batch, or parts of it, may be tried again.
        """
        began_at = self._clock()
        self._held_at = {key: at for key, at in self._held_at.items() if began_at - at < WATCHFUL}
        waited = self._locked_since is not None and began_at - self._locked_since >= self._lock_patience
        if waited or self._held_at:
            return self._apply_around(events, positions, began_at)
        try:
            settlements = apply_events(self._target, events, positions, clock=self._clock, drafted=drafted)
        except LockedError:
            # Somebody else's lock tells nothing of the target's speed.
            self._locked_since = self._locked_since or began_at
            raise
        except TransientError:
            self._size.failed(len(events), self._since_s(began_at))
            raise
        self._locked_since = None
        self._size.took(len(events), self._since_s(began_at))
        return settlements

    def _apply_around(
        self, events: Sequence[Event], positions: Sequence[StreamPosition], began_at: dt.datetime
    ) -> Sequence[Settlement]:
        untried = {key for key, at in self._held_at.items() if began_at - at < UNTRIED}
        try:
            settlements = apply_around_locks(self._target, events, positions, untried=untried, clock=self._clock)
        except LockedError:
            # Tables are locked: an outage, which is waited for in the usual way.
            self._locked_since = self._clock()
            self._held_at.clear()
            raise
        self._locked_since = None
        held = {one.event.key for one in settlements if one.outcome is HELD}
        for key in {event.key for event in events} - untried:
            self._held_at.pop(key, None)
            if key in held:
                self._held_at[key] = self._clock()
        return settlements

    def _since_s(self, began_at: dt.datetime) -> float:
        return (self._clock() - began_at).total_seconds()
