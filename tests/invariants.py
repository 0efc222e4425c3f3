"""What must hold of source, stream, ledger and OpenEMR together: at every moment, and when all is quiet."""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from collections.abc import Iterator, Mapping

from connectors.events import EntityKey, Event
from connectors.outbox import Operation


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """All systems at one moment.

    Attributes:
        events: every event the application wrote.
        statuses: sync_outbox.status by outbox_id.
        settled: what applied_event says of each event: applied or stale.
        waiting: the ids in the waiting room.
        last_seqs: entity_map.last_seq.
        contents: the digest of what OpenEMR's live rows were written from; None where there is no live row.
        delivered: the ids of the events below the group's offsets.
        retrying: the ids of the rows that a retrier holds, or held when it was killed.
    """

    events: Mapping[uuid.UUID, Event]
    statuses: Mapping[uuid.UUID, str]
    settled: Mapping[uuid.UUID, str]
    waiting: frozenset[uuid.UUID]
    last_seqs: Mapping[EntityKey, int]
    contents: Mapping[EntityKey, bytes | None]
    delivered: frozenset[uuid.UUID]
    retrying: frozenset[uuid.UUID] = frozenset()


def violations_at_any_time(now: Snapshot) -> list[str]:
    """Check I1 to I4, which a crash at any step must not break."""
    return [*_effect_and_ledger(now), *_marks(now), *_offsets(now), *_order(now)]


def violations_at_rest(now: Snapshot) -> list[str]:
    """Check that every event has come to its end, besides what holds at any time."""
    found = violations_at_any_time(now)
    for outbox_id, event in now.events.items():
        status = now.statuses[outbox_id]
        if outbox_id not in now.delivered:
            found.append(f"seq {event.seq} was not delivered")
        if status == "pending":
            found.append(f"seq {event.seq} is pending")
        if status == "processing" and outbox_id not in now.waiting:
            found.append(f"seq {event.seq} is processing and nobody holds it")
        if status == "done" and outbox_id in now.waiting:
            found.append(f"seq {event.seq} is done and waits")
        if outbox_id in now.settled and status != "done":
            found.append(f"I2: seq {event.seq} is settled, and its row says {status}")
    return found


def _effect_and_ledger(now: Snapshot) -> Iterator[str]:
    """I1: OpenEMR's row is the newest applied event, and the ledger says which that is."""
    newest: dict[EntityKey, Event] = {}
    for outbox_id, outcome in now.settled.items():
        event = now.events[outbox_id]
        if outcome == "applied" and (event.key not in newest or event.seq > newest[event.key].seq):
            newest[event.key] = event
    if newest.keys() != now.last_seqs.keys():
        yield f"I1: {len(newest)} entities were applied, {len(now.last_seqs)} are mapped"
    for key, event in newest.items():
        deleted = event.operation is Operation.DELETE
        expected = None if deleted else hashlib.blake2b(event.payload, digest_size=16).digest()
        if now.last_seqs.get(key) != event.seq:
            yield f"I1: {key} was applied up to seq {event.seq}, the map says {now.last_seqs.get(key)}"
        if now.contents.get(key) != expected:
            yield f"I1: {key} is not what seq {event.seq} says"


def _marks(now: Snapshot) -> Iterator[str]:
    """I2: no row says done before the ledger does."""
    for outbox_id, status in now.statuses.items():
        if status == "done" and outbox_id not in now.settled:
            yield f"I2: seq {now.events[outbox_id].seq} is marked done and was not settled"


def _offsets(now: Snapshot) -> Iterator[str]:
    """I3: what the offset has passed is done, failed or held in the waiting room, and its row says so."""
    for outbox_id in now.delivered:
        status = now.statuses[outbox_id]
        held = status == "processing" and (outbox_id in now.waiting or outbox_id in now.retrying)
        # Between the mark of a released event and its leaving the room it is done and still held.
        if status not in {"done", "failed"} and not held:
            yield f"I3: the offset has passed seq {now.events[outbox_id].seq}, which is {status}"


def _order(now: Snapshot) -> Iterator[str]:
    """I4: a stale event is older than what is in OpenEMR."""
    for outbox_id, outcome in now.settled.items():
        event = now.events[outbox_id]
        if outcome == "stale" and event.seq > now.last_seqs.get(event.key, -1):
            yield f"I4: seq {event.seq} was called stale, and {event.key} is at {now.last_seqs.get(event.key)}"
