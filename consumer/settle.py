"""Settle a batch: apply it, mark the outbox rows, and do the same for the children it set free."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Sequence
from typing import Final

from connectors.events import EntityKey, Event
from consumer.apply import apply_events
from consumer.around_locks import apply_around_locks
from consumer.crash_points import Point, reached
from consumer.outcome import Applied, Duplicate, Stale, Waiting
from consumer.ports import LockedError, OutboxMarker, Settlement, StreamPosition, Target

RELEASE_EVENTS_MAX: Final = 500
"""Parked events taken up in one transaction."""

RELEASE_ROUNDS_MAX: Final = 1_000
"""Rounds of one release, so that a waiting room of any size ends in bounded time and the rest comes next time."""


def settle_events(
    target: Target,
    marker: OutboxMarker,
    events: Sequence[Event],
    positions: Sequence[StreamPosition],
    *,
    clock: Callable[[], dt.datetime],
    around_locks: bool = False,
) -> Sequence[Settlement]:
    """Apply events with the stream's positions and mark their rows, then settle whatever waited for them.

    around_locks: events whose rows somebody holds fail as locked, and hold up no other.

    Raises:
        TransientError: from the target or the source; the same call may be repeated and loses nothing.
    """
    if around_locks:
        settlements = apply_around_locks(target, events, positions, clock=clock, held_max=len(events))
    else:
        settlements = apply_events(target, events, positions, clock=clock)
    marker.mark(newest(settlements))
    keys = touched(settlements)
    released = release_parked(target, marker, keys, clock=clock) if keys else ()
    return [*settlements, *released]


def release_parked(
    target: Target, marker: OutboxMarker, keys: Sequence[EntityKey] | None, *, clock: Callable[[], dt.datetime]
) -> Sequence[Settlement]:
    """Settle parked events whose parents have arrived, generation by generation.

    An older parked event of an entity that was written meanwhile settles as stale in the same way. What leads back
    to a parked event after a crash is its place in the waiting room, as the offset does for a polled one: it
    leaves only when its row is marked.

    A parent's writer looks for parked children after its commit, and a child's after its own: whichever of two
    racing members commits last sees the other's row, so no release is missed. keys None looks through all parked
    events: what a process killed between commit and mark left behind.
    """
    settlements: list[Settlement] = []
    for _ in range(RELEASE_ROUNDS_MAX):
        events = target.releasable(RELEASE_EVENTS_MAX, keys)
        if not events:
            break
        try:
            settled = apply_events(target, events, (), clock=clock)
        except LockedError:
            # What is set aside leaves the waiting room for the retrier.
            settled = apply_around_locks(target, events, (), clock=clock)
        marker.mark(settled)
        settlements += settled
        leaving = [one.event.outbox_id for one in settled if not isinstance(one.outcome, Waiting)]
        if not leaving:
            break
        reached(Point.BEFORE_RELEASE)
        target.forget(leaving)
        reached(Point.AFTER_RELEASE)
        if keys is not None:
            keys = list(dict.fromkeys((*keys, *touched(settled))))
    return settlements


def report_overdue(
    target: Target, marker: OutboxMarker, *, wait_limit: dt.timedelta, clock: Callable[[], dt.datetime]
) -> int:
    """Mark events that wait longer than the limit as failed; they stay parked and are released all the same.

    Returns how many were marked.
    """
    now = clock()
    overdue = target.overdue(now - wait_limit, RELEASE_EVENTS_MAX)
    if not overdue:
        return 0
    marker.mark([Settlement(event, waiting.given_up(), now) for event, waiting in overdue])
    target.reported_overdue([event.outbox_id for event, _ in overdue])
    return len(overdue)


def newest(settlements: Sequence[Settlement]) -> Sequence[Settlement]:
    """Keep the last word on each event: what is in the ledger is final, and a copy's "duplicate" says nothing."""
    found: dict[uuid.UUID, Settlement] = {}
    for one in settlements:
        before = found.get(one.event.outbox_id)
        if before is None or not (isinstance(before.outcome, Applied | Stale) or isinstance(one.outcome, Duplicate)):
            found[one.event.outbox_id] = one
    return list(found.values())


def touched(settlements: Sequence[Settlement]) -> Sequence[EntityKey]:
    """Return what parked events may wait for or belong to: entities just written, and parents found missing."""
    found: dict[EntityKey, None] = {}
    for settlement in settlements:
        if isinstance(settlement.outcome, Waiting):
            found[settlement.outcome.parent] = None
        elif isinstance(settlement.outcome, Applied):
            found[settlement.event.key] = None
    return list(found)
