"""Apply what nobody holds, and set the few events aside whose rows somebody holds, so that no other waits for them."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Collection, Sequence
from typing import Final

from connectors.events import EntityKey, Event
from connectors.outbox import Operation
from consumer.apply import RANK, apply_events
from consumer.outcome import ErrorClass, Failed
from consumer.ports import LockedError, Settlement, StreamPosition, Target

LOCK_WAIT_S: Final = 1
"""The shortest wait that MariaDB and MySQL both know."""

HELD_ENTITIES_MAX: Final = 10
"""More of one batch than this are no clerk at a few charts but a locked table: an outage. Each costs a wait."""

HELD: Final = Failed(ErrorClass.LOCKED, "its rows are locked by someone else in OpenEMR's database; tried again soon")


def apply_around_locks(
    target: Target,
    events: Sequence[Event],
    positions: Sequence[StreamPosition],
    *,
    clock: Callable[[], dt.datetime],
    untried: Collection[EntityKey] = (),
    held_max: int = HELD_ENTITIES_MAX,
) -> Sequence[Settlement]:
    """Apply events as apply_events does; those of an entity that somebody holds fail as locked, all together.

    An entity's events stay in one transaction and in their order, so what is applied later, here or by a retrier,
    meets the ledger's rules for stale events and missing parents as always. untried: entities whose events are set
    aside at once, since they were held a moment ago.

    Raises:
        LockedError: more than held_max entities are held; nothing was set aside.
        TransientError: as apply_events. What was committed before is settled as duplicate next time.
    """
    settled = [_held(event, clock) for event in events if event.key in untried]
    free = [event for event in events if event.key not in untried]
    entities = _by_entity(free)
    held = 0
    with target.lock_wait(LOCK_WAIT_S):
        if len(entities) > 1:
            # Mostly nothing new is held; if something is, nothing was decided, and it is found entity by entity.
            with contextlib.suppress(LockedError):
                return [*settled, *apply_events(target, free, positions, clock=clock)]
        for own in entities:
            try:
                settled += apply_events(target, own, (), clock=clock)
            except LockedError:
                held += 1
                if held > held_max:
                    raise
                settled += [_held(event, clock) for event in own]
        # The positions come last: what is before them is settled or will be marked as failed.
        apply_events(target, (), positions, clock=clock)
    return settled


def _held(event: Event, clock: Callable[[], dt.datetime]) -> Settlement:
    return Settlement(event, HELD, clock())


def _by_entity(events: Sequence[Event]) -> Sequence[Sequence[Event]]:
    """Group events by entity: parents before children, and at the end what is deleted, children before parents."""
    found: dict[EntityKey, list[Event]] = {}
    for event in events:
        found.setdefault(event.key, []).append(event)
    return sorted(found.values(), key=_order)


def _order(own: Sequence[Event]) -> tuple[bool, int]:
    newest = max(own, key=lambda event: event.seq)
    rank = RANK[newest.key.entity_type]
    deleted = newest.operation is Operation.DELETE
    return deleted, -rank if deleted else rank
