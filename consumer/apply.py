"""Apply events to OpenEMR, exactly once in effect: one transaction for all, and event by event where one is refused."""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from connectors.events import EntityKey, Event
from connectors.outbox import EntityType, TargetSystem
from consumer.crash_points import Point, reached
from consumer.drafting import Draft
from consumer.outcome import Applied, Duplicate, Failed, Outcome, Stale, Waiting
from consumer.ports import (
    Change,
    Mapped,
    OutdatedError,
    RaceError,
    RefusedError,
    Settlement,
    StreamPosition,
    Target,
    TargetTransaction,
    TransientError,
)
from consumer.prepare import Drafted, Prepared, prepare_all

RACES_MAX: Final = 5
"""Repetitions after races lost to another member; each loser sees the winner's rows at the next try."""

DRAFTS_MAX: Final = 3
"""Times that a batch is drafted: OpenEMR's upgrade scripts change a table in several statements."""

RANK: Final[Mapping[EntityType, int]] = {EntityType.PATIENT: 0, EntityType.ENCOUNTER: 1, EntityType.ORDER: 2}
"""Parents before children."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Step:
    """An event that can be written, with its place in the batch."""

    index: int
    event: Event
    draft: Draft | None


_Candidates: TypeAlias = Mapping[EntityKey, Sequence[_Step]]


def apply_events(
    target: Target,
    events: Sequence[Event],
    positions: Sequence[StreamPosition],
    *,
    clock: Callable[[], dt.datetime],
    drafted: Drafted | None = None,
) -> Sequence[Settlement]:
    """Apply events in seq order per entity, with parents first, and record the stream's positions with them.

    Returns one settlement per event; for a duplicate within `events`, one for each copy.
    drafted: what was prepared of these events before, which spares the time where it still holds.

    Raises:
        TransientError: nothing more was decided; what was committed before is settled as duplicate next time.
    """
    for drafts in range(1, DRAFTS_MAX + 1):
        outcomes: dict[int, Outcome] = {}
        try:
            prepared = sorted(prepare_all(target, events, drafted), key=_order)
            _apply_or_split(target, list(enumerate(prepared)), positions, outcomes)
        except OutdatedError:
            # What was committed before is settled as duplicate now.
            if drafts == DRAFTS_MAX:
                raise
            drafted = None
            continue
        break
    settled_at = clock()
    return [Settlement(one.event, outcomes[index], settled_at) for index, one in enumerate(prepared)]


def _order(one: Prepared) -> tuple[int, str, int]:
    key = one.event.key
    return RANK[key.entity_type], key.entity_id, one.event.seq


def _apply_or_split(
    target: Target,
    batch: Sequence[tuple[int, Prepared]],
    positions: Sequence[StreamPosition],
    outcomes: dict[int, Outcome],
) -> None:
    """Halve a refused batch until only the guilty event fails; the order of events is kept."""
    try:
        outcomes |= _apply_with_races(target, batch, positions)
    except RefusedError as refused:
        if len(batch) > 1:
            half = len(batch) // 2
            _apply_or_split(target, batch[:half], (), outcomes)
            _apply_or_split(target, batch[half:], positions, outcomes)
            return
        outcomes[batch[0][0]] = refused.failure
        with target.transaction() as transaction:
            transaction.require(positions)
            transaction.record((), positions)
            transaction.commit()


def _apply_with_races(
    target: Target, batch: Sequence[tuple[int, Prepared]], positions: Sequence[StreamPosition]
) -> Mapping[int, Outcome]:
    met: Failed | None = None
    for _ in range(RACES_MAX):
        try:
            with target.transaction() as transaction:
                transaction.require(positions)
                outcomes = _apply_in(transaction, batch)
                _record(transaction, batch, outcomes, positions)
                reached(Point.BEFORE_TARGET_COMMIT)
                transaction.commit()
                reached(Point.AFTER_TARGET_COMMIT)
        except RaceError as race:
            if race.failure is not None and race.failure == met:
                raise RefusedError(race.failure.error_class, race.failure.message) from None
            met = race.failure
            continue
        return outcomes
    raise TransientError(f"another member won {RACES_MAX} races for the same entities; the batch is tried again")


def _record(
    transaction: TargetTransaction,
    batch: Sequence[tuple[int, Prepared]],
    outcomes: Mapping[int, Outcome],
    positions: Sequence[StreamPosition],
) -> None:
    settled: list[tuple[Event, Applied | Stale]] = []
    waiting: list[tuple[Event, Waiting]] = []
    for index, one in batch:
        outcome = outcomes[index]
        if isinstance(outcome, Applied | Stale):
            settled.append((one.event, outcome))
        elif isinstance(outcome, Waiting):
            waiting.append((one.event, outcome))
    transaction.record(settled, positions)
    if waiting:
        transaction.park(waiting)


def _apply_in(transaction: TargetTransaction, batch: Sequence[tuple[int, Prepared]]) -> dict[int, Outcome]:
    outcomes: dict[int, Outcome] = {}
    mapped = transaction.lock(list(dict.fromkeys(one.event.key for _, one in batch)))
    # A settled event left its entity at its own seq or beyond: only of these does the ledger have to be asked.
    behind = [one.event.outbox_id for _, one in batch if _is_behind(one.event, mapped)]
    known = transaction.settled(behind) if behind else frozenset[uuid.UUID]()
    fresh: dict[uuid.UUID, tuple[int, Prepared]] = {}
    copies: dict[int, int] = {}
    for index, one in batch:
        if one.event.outbox_id in known:
            outcomes[index] = Duplicate()
        elif one.event.outbox_id in fresh:
            copies[index] = fresh[one.event.outbox_id][0]
        else:
            fresh[one.event.outbox_id] = index, one
    candidates = _candidates(list(fresh.values()), mapped, outcomes)
    while candidates:
        candidates = _write_all(transaction, candidates, mapped, outcomes)
    for index, original in copies.items():
        # Only what the first copy settled makes the second a duplicate; it must not hide that the first failed.
        settled = isinstance(outcomes[original], Applied | Stale)
        outcomes[index] = Duplicate() if settled else outcomes[original]
    return outcomes


def _is_behind(event: Event, mapped: Mapping[EntityKey, Mapped]) -> bool:
    known = mapped.get(event.key)
    return known is not None and event.seq <= known.last_seq


def _candidates(
    fresh: Sequence[tuple[int, Prepared]], mapped: Mapping[EntityKey, Mapped], outcomes: dict[int, Outcome]
) -> _Candidates:
    """Settle what is stale or cannot be read, and group the rest by entity, each in seq order."""
    candidates: dict[EntityKey, list[_Step]] = {}
    for index, one in fresh:
        if _is_behind(one.event, mapped):
            outcomes[index] = Stale()
        elif isinstance(one.draft, Failed):
            outcomes[index] = one.draft
        else:
            candidates.setdefault(one.event.key, []).append(_Step(index, one.event, one.draft))
    return candidates


def _write_all(
    transaction: TargetTransaction,
    candidates: _Candidates,
    mapped: Mapping[EntityKey, Mapped],
    outcomes: dict[int, Outcome],
) -> _Candidates:
    """Write each entity's newest state, parents before children, and delete children before parents.

    Returns the older events of the entities whose newest could not be written.
    """
    left: dict[EntityKey, Sequence[_Step]] = {}
    kept = {key: steps for key, steps in candidates.items() if steps[-1].draft is not None}
    for entity_type in sorted(EntityType, key=RANK.__getitem__):
        left |= _write(transaction, _of_type(kept, entity_type), mapped, outcomes)
    deleted = {key: steps for key, steps in candidates.items() if key not in kept}
    for entity_type in sorted(EntityType, key=RANK.__getitem__, reverse=True):
        left |= _write(transaction, _of_type(deleted, entity_type), mapped, outcomes)
    return left


def _of_type(candidates: _Candidates, entity_type: EntityType) -> _Candidates:
    return {key: steps for key, steps in candidates.items() if key.entity_type is entity_type}


def _write(
    transaction: TargetTransaction,
    candidates: _Candidates,
    mapped: Mapping[EntityKey, Mapped],
    outcomes: dict[int, Outcome],
) -> _Candidates:
    """Fold the events of each entity into its newest state, and write all entities of one type; return what is left.

    When the newest fails or waits, the older ones are still due: the result must not hang on how events were batched.
    """
    if not candidates:
        return {}
    parents = transaction.find(_parents_of(candidates))
    left: dict[EntityKey, Sequence[_Step]] = {}
    folded: dict[EntityKey, Sequence[_Step]] = {}
    changes: list[Change] = []
    for key, steps in candidates.items():
        ready = _without_waiting(steps, parents, outcomes)
        if len(ready) < len(steps) and ready and ready[-1].draft is None:
            left[key] = ready
        elif ready:
            folded[key] = ready
            changes.append(_change(ready, mapped.get(key), parents))
    written = transaction.write(changes) if changes else {}
    for key, outcome in written.items():
        steps = folded[key]
        if isinstance(outcome, Applied):
            outcomes.update({step.index: outcome for step in steps})
        else:
            outcomes[steps[-1].index] = outcome
            if len(steps) > 1:
                left[key] = steps[:-1]
    return left


def _change(steps: Sequence[_Step], mapped: Mapped | None, parents: Mapping[EntityKey, Mapped]) -> Change:
    newest = steps[-1]
    wanted = () if newest.draft is None else newest.draft.parents
    fhir = any(step.event.target_system is TargetSystem.FHIR for step in steps)
    return Change(newest.event, newest.draft, mapped, [parents[parent] for parent in wanted], fhir)


def _without_waiting(
    steps: Sequence[_Step], parents: Mapping[EntityKey, Mapped], outcomes: dict[int, Outcome]
) -> Sequence[_Step]:
    """Leave out the newest events as long as their parents are missing, and say that they wait."""
    for count in range(len(steps), 0, -1):
        step = steps[count - 1]
        wanted = () if step.draft is None else step.draft.parents
        missing = next((parent for parent in wanted if parent not in parents or not parents[parent].alive), None)
        if missing is None:
            return steps[:count]
        outcomes[step.index] = Waiting(missing, deleted=missing in parents)
    return ()


def _parents_of(candidates: _Candidates) -> list[EntityKey]:
    wanted: dict[EntityKey, None] = {}
    for steps in candidates.values():
        for step in steps:
            if step.draft is not None:
                wanted.update(dict.fromkeys(step.draft.parents))
    return list(wanted)
