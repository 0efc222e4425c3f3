"""Crash between any two steps and start again: the invariants hold in the end, whatever was killed."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from connectors.events import EntityKey, Event
from consumer import apply
from consumer.batch import Batch
from consumer.loop import ConsumerLoop
from consumer.outcome import Applied, Stale
from consumer.ports import Mapped, Settlement, StreamPosition, Target
from tests.fakes import FakeTarget
from tests.fakes.target import FakeTransaction
from tests.unit.consumer.crashes import crash_everywhere, steps_of

STEPS = {
    *("stream.poll", "stream.park", "stream.parked", "stream.commit", "stream.committed"),
    *("target.begin", "target.settled", "target.lock", "target.write", "target.record", "target.park"),
    *("target.commit", "target.committed", "target.releasable", "target.forget", "target.forgotten"),
    *("target.overdue", "marker.mark", "marker.marked"),
}

Patch = Callable[[pytest.MonkeyPatch], None]


def test_a_crash_between_any_two_steps_changes_nothing_in_the_end() -> None:
    """Every step of the scenario is tried; each kind of step occurs."""
    assert [] == list(crash_everywhere())
    assert STEPS == set(steps_of())


def offset_before_mark(patch: pytest.MonkeyPatch) -> None:
    """Commit the offsets, then settle."""
    right = ConsumerLoop._settle

    def wrong(self: ConsumerLoop, batch: Batch) -> None:
        batch.read(self._reader, self._clock())
        self._stream.commit(batch.positions)
        right(self, batch)

    patch.setattr(ConsumerLoop, "_settle", wrong)


def mark_before_commit(patch: pytest.MonkeyPatch) -> None:
    """Say done, then do it."""
    right = ConsumerLoop._settle

    def wrong(self: ConsumerLoop, batch: Batch) -> None:
        batch.read(self._reader, self._clock())
        self._marker.mark([Settlement(event, Applied(), self._clock()) for event in batch.events])
        right(self, batch)

    patch.setattr(ConsumerLoop, "_settle", wrong)


def no_ledger_check(patch: pytest.MonkeyPatch) -> None:
    """Take every delivery for the first one."""
    right = FakeTransaction.record

    def settled(_self: FakeTransaction, _ids: Sequence[uuid.UUID]) -> frozenset[uuid.UUID]:
        return frozenset()

    def record(self: FakeTransaction, rows: Sequence[tuple[Event, Applied | Stale]], positions: Any) -> None:
        right(self, (), positions)
        self._own.applied.update({event.outbox_id: outcome for event, outcome in rows})

    patch.setattr(FakeTransaction, "settled", settled)
    patch.setattr(FakeTransaction, "record", record)


def no_stale_check(patch: pytest.MonkeyPatch) -> None:
    """Let whatever comes last win, though it is older."""
    right = FakeTransaction.find

    def lock(self: FakeTransaction, keys: Sequence[EntityKey]) -> Mapping[EntityKey, Mapped]:
        return {key: dataclasses.replace(one, last_seq=-1) for key, one in right(self, keys).items()}

    no_ledger_check(patch)
    patch.setattr(FakeTransaction, "lock", lock)


def effect_without_ledger(patch: pytest.MonkeyPatch) -> None:
    """Commit the rows and the ledger apart."""
    right = FakeTransaction.record

    def wrong(self: FakeTransaction, rows: Sequence[tuple[Event, Applied | Stale]], positions: Any) -> None:
        self._committed.become(self._own.copied())
        right(self, rows, positions)

    patch.setattr(FakeTransaction, "record", wrong)


def release_before_mark(patch: pytest.MonkeyPatch) -> None:
    """Take a released event out of the waiting room before its row says done."""
    right = apply.apply_events

    def wrong(target: Target, events: Sequence[Event], positions: Sequence[StreamPosition], **options: Any) -> Any:
        settlements = right(target, events, positions, **options)
        done = [one.event.outbox_id for one in settlements if isinstance(one.outcome, Applied)]
        FakeTarget.forget(target, done)  # type: ignore[arg-type]
        return settlements

    patch.setattr("consumer.settle.apply_events", wrong)


@pytest.mark.parametrize(
    ("bug", "seen"),
    [
        (offset_before_mark, "I3: the offset has passed"),
        (mark_before_commit, "I2: seq"),
        (no_ledger_check, "I1: "),
        (no_stale_check, "I1: "),
        (effect_without_ledger, "I1: "),
        (release_before_mark, "is processing and nobody holds it"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_planted_bug_is_seen(bug: Patch, seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the invariant that it breaks."""
    bug(monkeypatch)

    assert any(seen in violation for violation in crash_everywhere())
