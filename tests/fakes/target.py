"""OpenEMR with our ledger in memory."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from connectors.events import EntityKey, Event
from connectors.outbox import EntityType
from connectors.payloads import AnyPayload, DiagnosticOrderV1, EncounterV1, MedicationOrderV1, PatientV1
from consumer.drafting import Draft, Drafting
from consumer.outcome import Applied, ErrorClass, Failed, Stale, Waiting
from consumer.ports import Change, LockedError, Mapped, RaceError, RefusedError, RestoredError, StreamPosition
from tests.fakes.faults import Faults

GIVEN_NAME_CHARACTERS_MAX = 255

LOCK_WAIT_S = 10


@dataclasses.dataclass
class Parked:
    """An event in the waiting room."""

    event: Event
    parent: EntityKey
    since: dt.datetime
    overdue: bool = False


@dataclasses.dataclass
class FakeOpenEmr:
    """What is committed: OpenEMR's rows (digests of payloads), and the ledger.

    effects: the seqs that were written to each row, in order; refused: entities whose rows the database refuses;
    locked: entities whose rows somebody holds; on_wait: told how many seconds were waited for one in vain;
    on_write: told of each event that is written, committed or not.
    """

    clock: Callable[[], dt.datetime]
    rows: dict[EntityKey, bytes] = dataclasses.field(default_factory=dict)
    mapped: dict[EntityKey, Mapped] = dataclasses.field(default_factory=dict)
    applied: dict[uuid.UUID, Applied | Stale] = dataclasses.field(default_factory=dict)
    waiting: dict[uuid.UUID, Parked] = dataclasses.field(default_factory=dict)
    positions: dict[tuple[str, int], int] = dataclasses.field(default_factory=dict)
    effects: dict[EntityKey, list[int]] = dataclasses.field(default_factory=dict)
    refused: set[EntityKey] = dataclasses.field(default_factory=set)
    locked: set[EntityKey] = dataclasses.field(default_factory=set)
    on_wait: Callable[[int], object] = lambda _seconds: None
    on_write: Callable[[Event], object] = lambda _event: None

    def become(self, other: FakeOpenEmr) -> None:
        """Take over everything from a transaction's copy."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(other, field.name))

    def copied(self) -> FakeOpenEmr:
        """Give a copy that may be changed without changing this one."""
        return FakeOpenEmr(
            clock=self.clock,
            rows=dict(self.rows),
            mapped=dict(self.mapped),
            applied=dict(self.applied),
            waiting={outbox_id: dataclasses.replace(parked) for outbox_id, parked in self.waiting.items()},
            positions=dict(self.positions),
            effects={key: list(seqs) for key, seqs in self.effects.items()},
            refused=self.refused,
            locked=self.locked,
            on_wait=self.on_wait,
            on_write=self.on_write,
        )


@dataclasses.dataclass(frozen=True)
class FakeDraft:
    """Nothing but the parents; the content is the event's payload."""

    parents: Sequence[EntityKey]


class FakeTarget:
    """A Target on a FakeOpenEmr; several may share one."""

    def __init__(self, database: FakeOpenEmr, faults: Faults | None = None) -> None:
        self._database = database
        self._faults = faults or Faults()
        self._open = False
        self._lock_wait_s = LOCK_WAIT_S

    def draft(self, event: Event, payload: AnyPayload) -> Draft | Failed:  # noqa: ARG002 - the Protocol's
        """See ports.Target; the fake's one rule is the width of given_name."""
        if isinstance(payload, PatientV1):
            if len(payload.given_name) > GIVEN_NAME_CHARACTERS_MAX:
                return Failed(ErrorClass.TOO_LONG, "given_name: is longer than the column")
            return FakeDraft(())
        patient = EntityKey(EntityType.PATIENT, payload.patient_id)
        match payload:
            case EncounterV1():
                return FakeDraft((patient,))
            case DiagnosticOrderV1() | MedicationOrderV1():
                visit = payload.encounter_id
                return FakeDraft((patient,) if visit is None else (patient, EntityKey(EntityType.ENCOUNTER, visit)))

    def drafting(self) -> Drafting:
        """See ports.Target; the one rule does not change."""
        return self

    @contextmanager
    def transaction(self) -> Iterator[FakeTransaction]:
        """See ports.Target."""
        assert not self._open, "only one transaction at a time"
        self._open = True
        try:
            self._faults.at("target.begin")
            yield FakeTransaction(self._database, self._faults, self._lock_wait_s)
        finally:
            self._open = False

    @contextmanager
    def lock_wait(self, seconds: int) -> Iterator[None]:
        """See ports.Target; a lock of the fake costs the waits that were asked for."""
        before, self._lock_wait_s = self._lock_wait_s, seconds
        try:
            yield
        finally:
            self._lock_wait_s = before

    def releasable(self, limit: int, keys: Sequence[EntityKey] | None) -> Sequence[Event]:
        """See ports.Target."""
        self._faults.at("target.releasable")
        found = [parked.event for parked in self._database.waiting.values() if self._is_due(parked, keys)]
        return sorted(found, key=lambda event: event.seq)[:limit]

    def _is_due(self, parked: Parked, keys: Sequence[EntityKey] | None) -> bool:
        parent, own = (self._database.mapped.get(key) for key in (parked.parent, parked.event.key))
        arrived = parent is not None and parent.alive and (keys is None or parked.parent in keys)
        moved_on = own is not None and own.last_seq >= parked.event.seq and (keys is None or parked.event.key in keys)
        return arrived or moved_on

    def forget(self, outbox_ids: Sequence[uuid.UUID]) -> None:
        """See ports.Target."""
        self._faults.at("target.forget")
        for outbox_id in outbox_ids:
            self._database.waiting.pop(outbox_id, None)
        self._faults.at("target.forgotten")

    def overdue(self, since: dt.datetime, limit: int) -> Sequence[tuple[Event, Waiting]]:
        """See ports.Target."""
        self._faults.at("target.overdue")
        late = [one for one in self._database.waiting.values() if one.since < since and not one.overdue]
        return [(one.event, Waiting(one.parent)) for one in sorted(late, key=lambda one: one.since)[:limit]]

    def reported_overdue(self, outbox_ids: Sequence[uuid.UUID]) -> None:
        """See ports.Target."""
        self._faults.at("target.reported_overdue")
        for outbox_id in outbox_ids:
            if outbox_id in self._database.waiting:
                self._database.waiting[outbox_id].overdue = True


class FakeTransaction:
    """A TargetTransaction on a copy, which becomes the database at commit."""

    def __init__(self, database: FakeOpenEmr, faults: Faults, lock_wait_s: int) -> None:
        self._lock_wait_s = lock_wait_s
        self._committed = database
        self._faults = faults
        self._own = database.copied()

    def require(self, positions: Sequence[StreamPosition]) -> None:
        """See ports.TargetTransaction."""
        if any(self._own.positions.get(one.place, 0) < one.reached for one in positions):
            raise RestoredError("the ledger is behind: emrsync resume --from-ledger")

    def settled(self, outbox_ids: Sequence[uuid.UUID]) -> frozenset[uuid.UUID]:
        """See ports.TargetTransaction."""
        self._faults.at("target.settled")
        return frozenset(outbox_ids) & self._own.applied.keys()

    def lock(self, keys: Sequence[EntityKey]) -> Mapping[EntityKey, Mapped]:
        """See ports.TargetTransaction."""
        self._faults.at("target.lock")
        return self.find(keys)

    def find(self, keys: Sequence[EntityKey]) -> Mapping[EntityKey, Mapped]:
        """See ports.TargetTransaction."""
        return {key: self._own.mapped[key] for key in keys if key in self._own.mapped}

    def write(self, changes: Sequence[Change]) -> Mapping[EntityKey, Applied | Failed]:
        """See ports.TargetTransaction."""
        self._faults.at("target.write")
        return {change.event.key: self._write(change) for change in changes}

    def _write(self, change: Change) -> Applied | Failed:
        event, key = change.event, change.event.key
        if key in self._own.locked:
            self._own.on_wait(self._lock_wait_s)
            raise LockedError("rows are locked by someone else")
        if key in self._own.refused:
            raise RefusedError(ErrorClass.REFUSED, f"{key.entity_type}: is out of range")
        if change.mapped is None and key in self._own.mapped:
            raise RaceError(f"{key.entity_type}: another writer was first")
        owner = _patient_of(change)
        known = change.mapped
        if known is not None and known.alive and change.draft is not None and known.parent_id != owner:
            return Failed(ErrorClass.CONFLICT, "patient_id: differs from the patient this was created for")
        self._own.on_write(event)
        self._own.effects.setdefault(key, []).append(event.seq)
        deleted = change.draft is None
        if deleted:
            self._own.rows.pop(key, None)
        else:
            self._own.rows[key] = digest(event.payload)
        self._own.mapped[key] = Mapped(
            kind=key.entity_type.value,
            local_id=None if deleted else len(self._own.mapped) + 1,
            row_id=None,
            uuid=None,
            parent_id=owner,
            last_seq=event.seq,
            content_hash=None if deleted else digest(event.payload),
            deleted_at=self._own.clock() if deleted else None,
        )
        return Applied()

    def record(self, settled: Sequence[tuple[Event, Applied | Stale]], positions: Sequence[StreamPosition]) -> None:
        """See ports.TargetTransaction."""
        self._faults.at("target.record")
        for event, outcome in settled:
            if event.outbox_id in self._own.applied:
                raise RaceError("applied_event: another writer was first")
            self._own.applied[event.outbox_id] = outcome
        for one in positions:
            before = self._own.positions.get(one.place, 0) if one.reached else 0
            self._own.positions[one.place] = max(before, one.next_offset)

    def park(self, waiting: Sequence[tuple[Event, Waiting]]) -> None:
        """See ports.TargetTransaction."""
        self._faults.at("target.park")
        for event, outcome in waiting:
            parked = Parked(event, outcome.parent, self._own.clock())
            parked = self._own.waiting.setdefault(event.outbox_id, parked)
            parked.parent, parked.overdue = outcome.parent, False

    def commit(self) -> None:
        """See ports.TargetTransaction."""
        self._faults.at("target.commit")
        self._committed.become(self._own)
        self._faults.at("target.committed")


def digest(payload: bytes) -> bytes:
    """Give what the ledger keeps of a payload."""
    return hashlib.blake2b(payload, digest_size=16).digest()


def _patient_of(change: Change) -> str | None:
    if change.draft is None:
        return None if change.mapped is None else change.mapped.parent_id
    return next((key.entity_id for key in change.draft.parents if key.entity_type is EntityType.PATIENT), None)
