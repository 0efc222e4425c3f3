"""Apply events to OpenEMR, exactly once in effect: one transaction for all, and event by event where one is refused."""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from connectors.events import EntityKey, Event
from connectors.outbox import EntityType, Operation, TargetSystem
from connectors.payloads import MODELS, PayloadError, read_payload
from consumer.outcome import Applied, Duplicate, ErrorClass, Failed, Outcome, Stale, Waiting
from consumer.ports import (
    Change,
    Draft,
    Mapped,
    RaceError,
    RefusedError,
    Settlement,
    StreamPosition,
    Target,
    TargetTransaction,
    TransientError,
)

RACES_MAX: Final = 5
"""Repetitions after races lost to another member; each loser sees the winner's rows at the next try."""

# Parents before children.
_RANK: Final[Mapping[EntityType, int]] = {EntityType.PATIENT: 0, EntityType.ENCOUNTER: 1, EntityType.ORDER: 2}


@dataclasses.dataclass(frozen=True, slots=True)
class _Prepared:
    """An event with its checked columns (None for a delete), or why it has none."""

    event: Event
    draft: Draft | Failed | None


_Candidates: TypeAlias = Mapping[EntityKey, Sequence[tuple[int, _Prepared]]]


def apply_events(
    target: Target,
    events: Sequence[Event],
    positions: Sequence[StreamPosition],
    *,
    parked: bool = False,
    clock: Callable[[], dt.datetime],
) -> Sequence[Settlement]:
    """Apply events in seq order per entity, with parents first, and record the stream's positions with them.

    parked: the events come from the ledger's waiting room and leave it when they are settled or fail.
    Returns one settlement per event; for a duplicate within `events`, one for each copy.

    Raises:
        TransientError: nothing more was decided; what was committed before is settled as duplicate next time.
    """
    prepared = sorted((_prepare(target, event) for event in events), key=_order)
    outcomes: dict[int, Outcome] = {}
    _apply_or_split(target, list(enumerate(prepared)), positions, outcomes, parked=parked)
    settled_at = clock()
    return [Settlement(one.event, outcomes[index], settled_at) for index, one in enumerate(prepared)]


def _order(one: _Prepared) -> tuple[int, str, int]:
    key = one.event.key
    return _RANK[key.entity_type], key.entity_id, one.event.seq


def _prepare(target: Target, event: Event) -> _Prepared:
    if event.operation is Operation.DELETE:
        return _Prepared(event, None)
    if (event.key.entity_type, event.payload_version) not in MODELS:
        message = f"payload_version: {event.payload_version} of {event.key.entity_type} is not known to this consumer"
        return _Prepared(event, Failed(ErrorClass.UNKNOWN_VERSION, message))
    try:
        payload = read_payload(event.key.entity_type, event.payload_version, event.payload)
    except PayloadError as error:
        return _Prepared(event, Failed(ErrorClass.INVALID_PAYLOAD, str(error)))
    if payload.entity_id != event.key.entity_id:
        message = f"{_id_field(event.key.entity_type)}: differs from the row's entity_id"
        return _Prepared(event, Failed(ErrorClass.INVALID_PAYLOAD, message))
    return _Prepared(event, target.draft(event, payload))


def _id_field(entity_type: EntityType) -> str:
    return f"{entity_type}_id"


def _apply_or_split(
    target: Target,
    batch: Sequence[tuple[int, _Prepared]],
    positions: Sequence[StreamPosition],
    outcomes: dict[int, Outcome],
    *,
    parked: bool,
) -> None:
    """Halve a refused batch until only the guilty event fails; the order of events is kept."""
    try:
        outcomes |= _apply_with_races(target, batch, positions, parked=parked)
    except RefusedError as refused:
        if len(batch) > 1:
            half = len(batch) // 2
            _apply_or_split(target, batch[:half], (), outcomes, parked=parked)
            _apply_or_split(target, batch[half:], positions, outcomes, parked=parked)
            return
        outcomes[batch[0][0]] = refused.failure
        with target.transaction() as transaction:
            transaction.record((), positions)
            if parked:
                transaction.release([batch[0][1].event.outbox_id])
            transaction.commit()


def _apply_with_races(
    target: Target, batch: Sequence[tuple[int, _Prepared]], positions: Sequence[StreamPosition], *, parked: bool
) -> Mapping[int, Outcome]:
    for _ in range(RACES_MAX):
        try:
            with target.transaction() as transaction:
                outcomes = _apply_in(transaction, batch)
                _record(transaction, batch, outcomes, positions, parked=parked)
                transaction.commit()
        except RaceError:
            continue
        return outcomes
    raise TransientError(f"another member won {RACES_MAX} races for the same entities; the batch is tried again")


def _record(
    transaction: TargetTransaction,
    batch: Sequence[tuple[int, _Prepared]],
    outcomes: Mapping[int, Outcome],
    positions: Sequence[StreamPosition],
    *,
    parked: bool,
) -> None:
    settled: list[tuple[Event, Applied | Stale]] = []
    waiting: list[tuple[Event, Waiting]] = []
    leaving: list[uuid.UUID] = []
    for index, one in batch:
        outcome = outcomes[index]
        if isinstance(outcome, Applied | Stale):
            settled.append((one.event, outcome))
        if isinstance(outcome, Waiting):
            waiting.append((one.event, outcome))
        elif parked:
            leaving.append(one.event.outbox_id)
    transaction.record(settled, positions)
    if waiting:
        transaction.park(waiting)
    if leaving:
        transaction.release(leaving)


def _apply_in(transaction: TargetTransaction, batch: Sequence[tuple[int, _Prepared]]) -> dict[int, Outcome]:
    outcomes: dict[int, Outcome] = {}
    known = set(transaction.settled([one.event.outbox_id for _, one in batch]))
    fresh: list[tuple[int, _Prepared]] = []
    for index, one in batch:
        if one.event.outbox_id in known:
            outcomes[index] = Duplicate()
        else:
            # A second copy in the same batch is a duplicate of the first, whatever becomes of that.
            known.add(one.event.outbox_id)
            fresh.append((index, one))
    mapped = transaction.lock(list({one.event.key: None for _, one in fresh}))
    candidates = _candidates(fresh, mapped, outcomes)
    kept = {key: steps for key, steps in candidates.items() if steps[-1][1].draft is not None}
    # Parents are written before their children, and deleted after them.
    for entity_type in sorted(EntityType, key=_RANK.__getitem__):
        _write(transaction, _of_type(kept, entity_type), mapped, outcomes)
    deleted = {key: steps for key, steps in candidates.items() if key not in kept}
    for entity_type in sorted(EntityType, key=_RANK.__getitem__, reverse=True):
        _write(transaction, _of_type(deleted, entity_type), mapped, outcomes)
    return outcomes


def _of_type(candidates: _Candidates, entity_type: EntityType) -> _Candidates:
    return {key: steps for key, steps in candidates.items() if key.entity_type is entity_type}


def _candidates(
    fresh: Sequence[tuple[int, _Prepared]], mapped: Mapping[EntityKey, Mapped], outcomes: dict[int, Outcome]
) -> _Candidates:
    """Settle what is stale or cannot be read, and group the rest by entity, each in seq order."""
    candidates: dict[EntityKey, list[tuple[int, _Prepared]]] = {}
    for index, one in fresh:
        known = mapped.get(one.event.key)
        if known is not None and one.event.seq <= known.last_seq:
            outcomes[index] = Stale()
        elif isinstance(one.draft, Failed):
            outcomes[index] = one.draft
        else:
            candidates.setdefault(one.event.key, []).append((index, one))
    return candidates


def _write(
    transaction: TargetTransaction,
    candidates: _Candidates,
    mapped: Mapping[EntityKey, Mapped],
    outcomes: dict[int, Outcome],
) -> None:
    """Fold the events of each entity into its newest state, and write all entities of one type."""
    if not candidates:
        return
    parents = transaction.find(_parents_of(candidates))
    changes: list[Change] = []
    for key, steps in candidates.items():
        newest = steps[-1][1]
        draft = None if isinstance(newest.draft, Failed) else newest.draft
        wanted = () if draft is None else draft.parents
        missing = next((parent for parent in wanted if parent not in parents or not parents[parent].alive), None)
        if missing is not None:
            outcomes.update({index: Waiting(missing, deleted=missing in parents) for index, _ in steps})
            continue
        fhir = any(one.event.target_system is TargetSystem.FHIR for _, one in steps)
        changes.append(Change(newest.event, draft, mapped.get(key), [parents[parent] for parent in wanted], fhir))
    written = transaction.write(changes) if changes else {}
    outcomes.update({index: written[key] for key in written for index, _ in candidates[key]})


def _parents_of(candidates: _Candidates) -> list[EntityKey]:
    wanted: dict[EntityKey, None] = {}
    for steps in candidates.values():
        draft = steps[-1][1].draft
        if draft is not None and not isinstance(draft, Failed):
            wanted.update(dict.fromkeys(draft.parents))
    return list(wanted)
