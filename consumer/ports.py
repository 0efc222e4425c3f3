"""What the use cases need of the world; each Protocol has a real and a fake implementation and one contract suite."""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias

from connectors.events import EntityKey, Event
from consumer.drafting import Draft, Drafting
from consumer.outcome import Applied, ErrorClass, Failed, Outcome, Stale, Waiting


class TransientError(Exception):
    """A system is away or busy: nothing was decided about any event, and the same call may succeed later."""


class MisconfiguredError(Exception):
    """A system is there but cannot be used as it is set up; a person must act, so the process ends."""


class OutdatedError(TransientError):
    """The target is not as it was when the drafts were made; it has looked again, and new drafts may succeed."""


class LockedError(TransientError):
    """Somebody else holds a row or a table of OpenEMR's, for longer than was waited; everything was rolled back."""


class PausedError(TransientError):
    """A person has paused the writing, or must accept a change first; the message names the command that ends it."""


class RestoredError(PausedError):
    """The ledger is behind what it once held: it was restored, and what is missing would be passed over."""


class ClientLostError(TransientError):
    """Kafka is there, and this process's client does not find it any more: only a new one will."""


class RefusedError(Exception):
    """The target refused a whole transaction, which is rolled back; failure tells why if one event did it."""

    def __init__(self, error_class: ErrorClass, message: str) -> None:
        self.failure = Failed(error_class, message)
        super().__init__(message)


class RaceError(TransientError):
    """Another writer was in the way at the same moment; the transaction is rolled back and may be repeated at once.

    failure tells what it is instead if the repetition meets the same again; None if it cannot be anything else.
    """

    def __init__(self, message: str, failure: Failed | None = None) -> None:
        self.failure = failure
        super().__init__(message)


Place: TypeAlias = tuple[str, int]
"""A topic's partition."""


@dataclasses.dataclass(frozen=True, slots=True)
class StreamPosition:
    """The next offset to read of one partition; the ledger was at reached, or beyond; 0 where nothing is known."""

    topic: str
    partition: int
    next_offset: int
    reached: int = 0

    @property
    def place(self) -> Place:
        """The partition."""
        return self.topic, self.partition


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One record as it was polled; timestamp_ms is the broker's, in milliseconds since 1970, if it has one."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    timestamp_ms: int | None = None

    @property
    def place(self) -> Place:
        """The partition."""
        return self.topic, self.partition


@dataclasses.dataclass(frozen=True, slots=True)
class Mapped:
    """What the ledger knows of an entity; local_id is None when OpenEMR holds no row of it.

    local_id: pid, encounter number, procedure_order_id or prescriptions.id, by kind; row_id: form_encounter.id.
    """

    kind: str
    local_id: int | None
    row_id: int | None
    uuid: bytes | None
    parent_id: str | None
    last_seq: int
    content_hash: bytes | None
    deleted_at: dt.datetime | None

    @property
    def alive(self) -> bool:
        """Tell whether OpenEMR has a row that was not deleted by us."""
        return self.local_id is not None and self.deleted_at is None


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """The newest state of one entity in this transaction; draft is None for a delete.

    parents: what the ledger knows of draft.parents, in that order, all alive; fhir: the row must be visible there.
    """

    event: Event
    draft: Draft | None
    mapped: Mapped | None
    parents: Sequence[Mapped]
    fhir: bool


class TargetTransaction(Protocol):
    """One transaction on OpenEMR's server; it ends with commit, or rolls back when left without."""

    def require(self, positions: Sequence[StreamPosition]) -> None:
        """Raise RestoredError, here or later, and write nothing, unless the ledger is where each was reached."""

    def settled(self, outbox_ids: Sequence[uuid.UUID]) -> frozenset[uuid.UUID]:
        """Return those of the events that the ledger has settled."""

    def lock(self, keys: Sequence[EntityKey]) -> Mapping[EntityKey, Mapped]:
        """Lock the ledger's rows of these entities, in one fixed order, and return those that exist."""

    def find(self, keys: Sequence[EntityKey]) -> Mapping[EntityKey, Mapped]:
        """Return the ledger's rows of these entities, as committed or written here; no other changes them meanwhile."""

    def write(self, changes: Sequence[Change]) -> Mapping[EntityKey, Applied | Failed]:
        """Make OpenEMR's rows and the entity map so; parents come before children.

        Returns the outcome of each entity; for a Failed one nothing was written.

        Raises:
            RefusedError, RaceError, TransientError: here, or later from any method of this transaction, since
                statements may be kept back until the commit; the transaction is of no more use then.
        """

    def record(self, settled: Sequence[tuple[Event, Applied | Stale]], positions: Sequence[StreamPosition]) -> None:
        """Write settled events and the stream's positions; one goes back only where nothing is known to be reached."""

    def park(self, waiting: Sequence[tuple[Event, Waiting]]) -> None:
        """Keep events whose parent is missing; one kept before has waited since then, and is reported overdue again."""

    def commit(self) -> None:
        """Make all of it durable."""


class Target(Drafting, Protocol):
    """OpenEMR's database with our ledger in it; draft looks at the site again before it calls a code unknown."""

    def drafting(self) -> Drafting:
        """Give what is known of the site now, for another thread; the same object as long as nothing has changed."""

    def transaction(self) -> AbstractContextManager[TargetTransaction]:
        """Open a transaction; only one at a time."""

    def lock_wait(self, seconds: int) -> AbstractContextManager[None]:
        """Within the block, let statements wait so long for what somebody else holds, instead of the usual time."""

    def releasable(self, limit: int, keys: Sequence[EntityKey] | None) -> Sequence[Event]:
        """Return parked events whose parent has arrived or whose entity has moved on, in seq order, at most `limit`.

        The latter settle as stale; one that was applied and not forgotten is among these, and settles as duplicate.
        keys: entities just written, or found missing, that parked events may wait for or belong to; None means any.
        """

    def forget(self, outbox_ids: Sequence[uuid.UUID]) -> None:
        """Take events out of the waiting room that are settled or failed, and whose rows say so."""

    def overdue(self, since: dt.datetime, limit: int) -> Sequence[tuple[Event, Waiting]]:
        """Return parked events that wait since before `since` and were not reported overdue, at most `limit`."""

    def reported_overdue(self, outbox_ids: Sequence[uuid.UUID]) -> None:
        """Remember that these were reported; they stay parked and are released when the parent comes."""


@dataclasses.dataclass(frozen=True, slots=True)
class Settlement:
    """An event and what became of it, at the time of the target's commit."""

    event: Event
    outcome: Outcome
    settled_at: dt.datetime


class OutboxMarker(Protocol):
    """The outcome columns of the source's outbox rows."""

    def mark(self, settlements: Sequence[Settlement]) -> None:
        """Write status and outcome of each row, and last_synced_at of its business row, in one transaction.

        Repeatable: a row that is done stays as it is, and a failure is charged to a row that is failed already only
        if that says no more than that its parent has not come.

        Raises:
            TransientError: the source is away; nothing was written.
        """


@dataclasses.dataclass(frozen=True, slots=True)
class FailedRow:
    """A failed outbox row in the hands of one retrier, with the event that it holds.

    error_class: None if the row's word is not known here; due_at: its next_attempt_at before, None if it had none;
    held_until: from then on another retrier may take it.
    """

    event: Event
    error_class: ErrorClass | None
    due_at: dt.datetime | None
    held_until: dt.datetime


class FailedRows(Protocol):
    """The failed rows of the source's outbox, each in the hands of one retrier at a time; marking them ends the hold.

    A row can be taken when it is failed, or when its hold has lapsed because its retrier was killed. What waits for
    its parent is never taken. Every method raises TransientError when the source is away; nothing was changed then.
    """

    def claim_due(
        self, limit: int, *, now: dt.datetime, held_until: dt.datetime, paused: Collection[ErrorClass]
    ) -> Sequence[FailedRow]:
        """Take rows whose next attempt is due, the longest due first, at most limit; leave paused classes alone."""

    def claim(
        self, outbox_ids: Sequence[uuid.UUID], *, now: dt.datetime, held_until: dt.datetime
    ) -> Sequence[FailedRow]:
        """Take those of these rows that can be taken, whether they have an attempt left or not."""

    def give_back(self, rows: Sequence[FailedRow], *, due_at: dt.datetime) -> None:
        """Make rows that are still held failed again, uncharged; those that were to be tried again are due then."""


class EventStream(Protocol):
    """The entity topics as one member of the group sees them.

    What asks Kafka raises TransientError when there is no answer; nothing was changed then.
    """

    def poll(self, *, records_max: int, timeout_s: float) -> Sequence[Record]:
        """Return what is there, at most records_max; wait up to timeout_s for the first.

        Whoever does not poll is thrown out of the group: a paused member polls too, and hardly gets anything.
        """

    def pause(self, *, paused: bool) -> None:
        """Fetch nothing, of partitions that are assigned meanwhile either, or go on where the last record ended."""

    def before_revoke(self, settle: Callable[[Collection[Place]], None]) -> None:
        """Call this, inside a poll, before partitions go to another member: the last moment to commit for them."""

    def park(self, record: Record, reason: str) -> None:
        """Copy a record, bytes unchanged plus reason headers, to the dead-letter topic, durably.

        Raises:
            TransientError: it could not be written; the record's offset must stay.
            MisconfiguredError: the same, and the topic refuses the record until a person acts.
        """

    def halt(self, topic: str, partition: int) -> None:
        """Remember beside a partition's offset, which stays, that it was given up there, until the next commit."""

    def halted(self, places: Collection[tuple[str, int]]) -> bool:
        """Tell whether any of these partitions (topic, number) was given up at the offset where it is."""

    def committed(self, places: Collection[Place]) -> Mapping[Place, int]:
        """Return the group's offsets of these partitions; those without one are left out."""

    def commit(self, positions: Sequence[StreamPosition]) -> None:
        """Send next offsets of the group, but of no partition of others; a later poll sends again what is not taken."""

    def close(self) -> None:
        """Leave the group."""
