"""Looks at the events of a replay by carrying it out in transactions that are rolled back, a few events each."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, assert_never

from connectors.events import EntityKey, Event, EventError, decode_record
from consumer.apply import RACES_MAX, apply_events
from consumer.openemr.rehearsal import Difference, RehearsalTarget
from consumer.outcome import Applied, Duplicate, Failed, Outcome, Stale, Waiting
from consumer.ports import RaceError, Record, RefusedError, Target, TransientError
from consumer.rewriting import rewrite
from operations.replay_plan import (
    DUPLICATE,
    FAIL,
    REWRITE,
    STALE,
    UNCHANGED,
    UNREADABLE,
    WAIT,
    WRITE,
    EntityName,
    Forecast,
)

LOOKED_UP: Final = 500
"""Events that the ledger is asked for at once."""

PRINT_BYTES: Final = 8
"""Of an event in a plan's file: enough to tell one payload from another where nobody forges any."""

REHEARSED: Final = 100
"""Most events of one transaction that will be rolled back, since members of the group wait for its locks."""

_NO_ID: Final = bytes(16)


@dataclasses.dataclass(frozen=True, slots=True)
class Looked:
    """A record of a replay with its outbox id (zeros if it has none), and whether the ledger has settled it."""

    record: Record
    outbox_id: bytes
    is_known: bool


def chunks(records: Iterable[Record], size: int) -> Iterator[Sequence[Record]]:
    """Cut a stream of records."""
    stream = iter(records)
    while chunk := list(itertools.islice(stream, size)):
        yield chunk


def look_up(known: Callable[[Sequence[bytes]], frozenset[bytes]], records: Sequence[Record]) -> Sequence[Looked]:
    """Ask the ledger for many records at once; what it has settled needs neither to be decoded nor a lock."""
    ids = [raw_id(record) for record in records]
    found = known([one for one in ids if one is not _NO_ID])
    return [Looked(record, one, one in found) for record, one in zip(records, ids, strict=True)]


class Forecaster:
    """Collects what would become of events, chunk by chunk."""

    def __init__(self, rehearsal: RehearsalTarget, *, force_rewrite: bool, value_bytes_max: int) -> None:
        self._rehearsal = rehearsal
        self._force_rewrite = force_rewrite
        self._value_bytes_max = value_bytes_max
        self._ids: list[bytes] = []
        self._prints: list[bytes] = []
        self._digest = hashlib.blake2b(digest_size=32)
        self._counts: Counter[str] = Counter()
        self._fates: dict[bytes, str] = {}
        self._failures: Counter[tuple[str, str]] = Counter()
        self._changes: dict[EntityName, tuple[str, ...] | None] = {}
        self._written: set[EntityKey] = set()

    def add(self, records: Sequence[Record]) -> None:
        """Look at the next events."""
        looked = look_up(self._rehearsal.known, records)
        for one in looked:
            record = one.record
            self._ids.append(one.outbox_id)
            place = f"{record.topic}/{record.partition}/{record.offset}/".encode()
            found = hashlib.blake2b(place + one.outbox_id + (record.value or b""), digest_size=16).digest()
            self._prints.append(found[:PRINT_BYTES])
            self._digest.update(found)
        self._counts[DUPLICATE] += sum(one.is_known for one in looked)
        fresh = self._decoded([one for one in looked if not one.is_known])
        for start in range(0, len(fresh), REHEARSED):
            self._rehearse(fresh[start : start + REHEARSED])
        if self._force_rewrite:
            settled = self._decoded([one for one in looked if one.is_known])
            for start in range(0, len(settled), REHEARSED):
                self._rehearse_rewrite(settled[start : start + REHEARSED])

    def result(self) -> Forecast:
        """Give what was found so far."""
        return Forecast(
            tuple(self._ids),
            tuple(self._prints),
            self._digest.hexdigest(),
            self._counts,
            self._fates,
            self._failures,
            self._changes,
        )

    def _decoded(self, looked: Sequence[Looked]) -> Sequence[Event]:
        events = []
        for one in looked:
            record = one.record
            try:
                events.append(decoded(record, self._value_bytes_max))
            except EventError as error:
                if not one.is_known:
                    self._note(one.outbox_id, UNREADABLE)
                    self._failures[UNREADABLE, str(error)] += 1
        return events

    def _rehearse(self, events: Sequence[Event]) -> None:
        settled = apply_events(self._rehearsal, events, (), clock=lambda: dt.datetime.now(dt.UTC))
        differences = self._rehearsal.differences()
        for one in settled:
            self._note(one.event.outbox_id.bytes, self._fate(one.event.key, one.outcome, differences))
        written = {one.event.key for one in settled if isinstance(one.outcome, Applied)}
        self._note_changes({key: one for key, one in differences.items() if key in written})

    def _fate(self, key: EntityKey, outcome: Outcome, differences: Mapping[EntityKey, Difference]) -> str:
        match outcome:
            case Duplicate():
                return DUPLICATE
            case Stale():
                return STALE
            case Applied():
                self._written.add(key)
                found = differences.get(key)
                return WRITE if found is None or found.is_new or found.columns else UNCHANGED
            case Waiting():
                # A chunk does not see what those before it would have written.
                if outcome.parent not in self._written or outcome.deleted:
                    return WAIT
                self._written.add(key)
                return WRITE
            case Failed():
                self._failures[outcome.error_class.value, outcome.message] += 1
                return FAIL
            case _:
                assert_never(outcome)

    def _rehearse_rewrite(self, events: Sequence[Event]) -> None:
        found = differing(self._rehearsal, events)
        for event in events:
            if event.key in found.failed and found.seqs.get(event.key) == event.seq:
                failure = found.failed[event.key]
                self._failures[failure.error_class.value, failure.message] += 1
                self._renote(event, FAIL)
            elif event.key in found.differences and found.seqs.get(event.key) == event.seq:
                self._renote(event, REWRITE)
        self._note_changes({key: one for key, one in found.differences.items() if key not in found.failed})

    def _note_changes(self, differences: Mapping[EntityKey, Difference]) -> None:
        for key, one in differences.items():
            if one.is_new or one.columns:
                name = key.entity_type.value, key.entity_id
                before = self._changes.get(name, ())
                # The events of an entity may be in several chunks, none of which sees what the others would write.
                is_new = one.is_new or before is None
                self._changes[name] = None if is_new else tuple(sorted({*(before or ()), *one.columns}))

    def _note(self, outbox_id: bytes, fate: str) -> None:
        self._counts[fate] += 1
        if fate != DUPLICATE:
            self._fates[outbox_id] = fate

    def _renote(self, event: Event, fate: str) -> None:
        self._counts[DUPLICATE] -= 1
        self._note(event.outbox_id.bytes, fate)


@dataclasses.dataclass(frozen=True, slots=True)
class Repairs:
    """Entities whose rows are not as their newest event says, and those that cannot be written; seqs of the events."""

    differences: Mapping[EntityKey, Difference]
    failed: Mapping[EntityKey, Failed]
    seqs: Mapping[EntityKey, int]


def differing(rehearsal: RehearsalTarget, events: Sequence[Event]) -> Repairs:
    """Find which entities a rewrite would change, among the newest of these events of each."""
    newest: dict[EntityKey, Event] = {}
    for event in events:
        if event.key not in newest or newest[event.key].seq < event.seq:
            newest[event.key] = event
    outcomes = rewrite_each(rehearsal, list(newest.values()))
    found = {key: one for key, one in rehearsal.differences().items() if one.columns}
    failed = {key: one for key, one in outcomes.items() if isinstance(one, Failed)}
    return Repairs(found, failed, {key: event.seq for key, event in newest.items()})


def rewrite_each(target: Target, events: Sequence[Event]) -> Mapping[EntityKey, Applied | Failed]:
    """Write entities again, and halve what the database refuses until only the guilty one fails.

    Raises:
        TransientError: the target is away, or another member has won all races; what was written before stays.
    """
    if not events:
        return {}
    try:
        return _rewrite_with_races(target, events)
    except RefusedError as refused:
        if len(events) == 1:
            return {events[0].key: refused.failure}
        half = len(events) // 2
        return {**rewrite_each(target, events[:half]), **rewrite_each(target, events[half:])}


def _rewrite_with_races(target: Target, events: Sequence[Event]) -> Mapping[EntityKey, Applied | Failed]:
    met: Failed | None = None
    for _ in range(RACES_MAX):
        try:
            return rewrite(target, events)
        except RaceError as race:
            if race.failure is not None and race.failure == met:
                raise RefusedError(race.failure.error_class, race.failure.message) from None
            met = race.failure
    raise TransientError(f"the consumers won {RACES_MAX} races for the same entities; try again")


def decoded(record: Record, value_bytes_max: int) -> Event:
    """Decode a record; raises EventError when it is no event."""
    return decode_record(record.topic, record.key, record.value, record.headers, value_bytes_max=value_bytes_max)


def raw_id(record: Record) -> bytes:
    """Return the 16 bytes of a record's outbox id, without decoding the rest; zeros if it has none."""
    for name, value in record.headers:
        if name == "id":
            try:
                found = bytes.fromhex((value or b"").decode("ascii").replace("-", ""))
            except ValueError:
                return _NO_ID
            return found if len(found) == len(_NO_ID) else _NO_ID
    return _NO_ID
