"""Rows that somebody holds in OpenEMR keep their own events waiting and no others, and charge nothing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest

from connectors.events import Event
from connectors.outbox import Operation
from consumer import applier
from consumer.around_locks import HELD_ENTITIES_MAX, LOCK_WAIT_S, apply_around_locks
from consumer.crash_points import Point, arm
from consumer.loop import ConsumerLoop, LoopLimits
from consumer.outcome import Applied, ErrorClass, Failed
from consumer.ports import LockedError, StreamPosition
from consumer.retry_failed import Retrier, RetryLimits, StormBreaker, retry_failed_outbox
from tests import clinic
from tests.fakes import FakeFailedRows, FakeMarker, FakeTarget
from tests.invariants import violations_at_any_time, violations_at_rest
from tests.made_events import event
from tests.pipeline import Pipeline
from tests.unit.consumer.crashes import CrashError

Fields = dict[str, Any]

PATIENCE_S = 10
USUAL_WAIT_S = 10
DELAYS_S = 1
"""What the loop's own pauses between tries add up to."""


class World(Pipeline):
    """A clinic whose clerk may hold patients; whoever meets them waits as long as he was told."""

    def __init__(self) -> None:
        super().__init__(partitions=1, limits=LoopLimits(lock_patience=dt.timedelta(seconds=PATIENCE_S)))
        self.openemr.on_wait = self._wait
        self.waits_s: list[int] = []

    def _wait(self, seconds: int) -> None:
        self.waits_s.append(seconds)
        self.clock.now += dt.timedelta(seconds=seconds)

    def known(self, count: int) -> list[Fields]:
        """Give patients that OpenEMR has."""
        several = [clinic.patient() for _ in range(count)]
        for fields in several:
            self.happen(fields)
        loop = self.member()
        self.drain([loop])
        self.crash(loop)
        return several

    def hold(self, *events: Event) -> None:
        """Let a clerk hold the rows of these events' entities."""
        self.openemr.locked |= {one.key for one in events}

    def release(self) -> None:
        """Let his transaction end."""
        self.openemr.locked.clear()

    def work(self, loop: ConsumerLoop, seconds: float) -> None:
        """Let a member work for a while; waits take their time too."""
        until = self.clock.now + dt.timedelta(seconds=seconds)
        while self.clock.now < until:
            loop.run_once()
            self.clock.now += dt.timedelta(seconds=0.1)

    def retry(self, storm_failures: int = 20) -> dict[str, int]:
        """Retry what is due six seconds later."""
        self.clock.now += dt.timedelta(seconds=6)
        limits = RetryLimits(storm_failures=storm_failures)
        failed = FakeFailedRows(self.source, self.faults)
        target, marker = FakeTarget(self.openemr, self.faults), FakeMarker(self.source, self.faults)
        retrier = Retrier(failed, target, marker, StormBreaker(limits), limits, self.clock)
        tally = retry_failed_outbox(retrier)
        assert [] == tally.storms
        return dict(tally.outcomes)

    def told(self, one: Event) -> tuple[str, str | None, int]:
        """Give status, error class and number of attempts of an event's row."""
        row = self.row(one)
        return row.status, row.error_class, row.retry_count


LOCKED = ("failed", "locked", 0)
DONE = ("done", None, 0)


@pytest.fixture
def world() -> Iterator[World]:
    """Give empty systems; whatever a test does with locks, nothing is violated."""
    one = World()
    yield one
    arm(None)
    assert [] == violations_at_any_time(one.snapshot())


def updates(world: World, several: list[Fields]) -> list[Event]:
    """Let each of some patients change."""
    return [world.happen({**fields, "given_name": "Grace"}, Operation.UPDATE) for fields in several]


def test_the_others_of_a_batch_go_on_after_the_patience_and_the_held_one_after_its_release(world: World) -> None:
    """The patience and one short wait for the batch and one for the held row; the retrier does the rest."""
    held, *others = updates(world, world.known(20))
    world.hold(held)
    loop = world.member()
    world.work(loop, PATIENCE_S + 2 * LOCK_WAIT_S + DELAYS_S)

    assert [USUAL_WAIT_S, LOCK_WAIT_S, LOCK_WAIT_S] == world.waits_s
    assert {DONE} == {world.told(one) for one in others}
    assert LOCKED == world.told(held)
    assert 40 == world.broker.committed["emrsync.patient", 0]

    assert {"failed": 1} == world.retry()
    assert LOCKED == world.told(held)
    world.release()
    assert {"applied": 1} == world.retry()
    assert DONE == world.told(held)
    assert [] == violations_at_rest(world.snapshot())


def test_a_lock_that_ends_within_the_patience_sets_nothing_aside(world: World) -> None:
    """The batch waits as for any outage."""
    world.limits = LoopLimits(lock_patience=dt.timedelta(seconds=25))
    events = updates(world, world.known(3))
    world.hold(events[0])
    loop = world.member()
    world.work(loop, 21)
    assert {"pending"} == {world.row(one).status for one in events}
    world.release()
    world.work(loop, 3)

    assert {DONE} == {world.told(one) for one in events}
    assert {USUAL_WAIT_S} == set(world.waits_s)


def test_when_tables_are_locked_the_member_waits_as_for_any_outage(world: World) -> None:
    """More entities are held than a clerk has in hand: nothing is set aside, however long it lasts."""
    events = updates(world, world.known(HELD_ENTITIES_MAX + 1))
    world.hold(*events)
    loop = world.member()
    world.work(loop, 120)

    assert {"pending"} == {world.row(one).status for one in events}
    usual, brief = (world.waits_s.count(wait_s) for wait_s in (USUAL_WAIT_S, LOCK_WAIT_S))
    assert 120 / 30 <= usual
    assert brief <= (HELD_ENTITIES_MAX + 2) * usual
    world.release()
    world.work(loop, 3)
    assert {DONE} == {world.told(one) for one in events}


def test_as_many_as_a_clerk_may_have_in_hand_are_set_aside(world: World) -> None:
    """And the one that is free is done."""
    free, *held = updates(world, world.known(HELD_ENTITIES_MAX + 1))
    world.hold(*held)
    world.work(world.member(), PATIENCE_S + (1 + HELD_ENTITIES_MAX) * LOCK_WAIT_S + DELAYS_S)

    assert DONE == world.told(free)
    assert {LOCKED} == {world.told(one) for one in held}


def test_later_events_of_a_held_entity_are_set_aside_without_a_wait(world: World) -> None:
    """Each wait would hold up the others again; after some seconds one is worth a try."""
    fields, *others = world.known(5)
    [held] = updates(world, [fields])
    world.hold(held)
    loop = world.member()
    world.work(loop, PATIENCE_S + 3)
    world.waits_s.clear()
    later = updates(world, [fields, *others])
    loop.run_once()
    assert [] == world.waits_s
    assert [LOCKED, *[DONE] * 4] == [world.told(one) for one in later]

    world.clock.now += applier.UNTRIED
    [last, *_] = updates(world, [fields, *others])
    world.work(loop, 1)
    assert [LOCK_WAIT_S] * 2 == world.waits_s
    world.release()
    assert {"applied": 3} == world.retry()
    assert [DONE] * 3 == [world.told(one) for one in (held, later[0], last)]
    assert last.seq == world.openemr.mapped[held.key].last_seq


def test_an_event_set_aside_never_overwrites_a_later_one_that_came_through(world: World) -> None:
    """The lock ended between the two; the retrier's try is stale."""
    fields = world.known(1)
    [held] = updates(world, fields)
    world.hold(held)
    loop = world.member()
    world.work(loop, PATIENCE_S + 3)
    world.release()
    world.clock.now += applier.UNTRIED
    [later] = updates(world, fields)
    loop.run_once()

    assert {"stale": 1} == world.retry()
    assert [("done", "stale"), ("done", "applied")] == world.state(held, later)
    assert later.seq == world.openemr.mapped[held.key].last_seq


def test_later_events_that_were_set_aside_too_may_be_retried_in_any_order(world: World) -> None:
    """The newest wins."""
    fields = world.known(1)
    loop = world.member()
    [first] = updates(world, fields)
    world.hold(first)
    world.work(loop, PATIENCE_S + 3)
    [second] = updates(world, fields)
    loop.run_once()
    world.release()
    world.row(first).next_attempt_at = world.clock.now + dt.timedelta(minutes=1)
    assert {"applied": 1} == world.retry()
    world.clock.now += dt.timedelta(minutes=1)
    assert {"stale": 1} == world.retry()

    assert second.seq == world.openemr.mapped[first.key].last_seq
    assert [] == violations_at_rest(world.snapshot())


def test_children_of_a_patient_that_could_not_be_made_wait_for_it_as_for_any(world: World) -> None:
    """And are applied right after it, by whoever applies it."""
    fields = clinic.patient()
    patient = world.happen(fields)
    visit = world.happen(clinic.encounter(fields["patient_id"]))
    world.hold(patient)
    loop = world.member()
    world.work(loop, PATIENCE_S + 4)
    assert [LOCKED, ("processing", "parent_missing", 0)] == [world.told(one) for one in (patient, visit)]

    world.release()
    assert {"applied": 1} == world.retry()
    assert [DONE, DONE] == [world.told(one) for one in (patient, visit)]
    assert [] == violations_at_rest(world.snapshot())


def test_children_of_a_patient_that_is_held_and_known_are_applied(world: World) -> None:
    """The clerk holds the patient's row, and the visit's is another."""
    [fields] = world.known(1)
    [held] = updates(world, [fields])
    visit = world.happen(clinic.encounter(fields["patient_id"]))
    world.hold(held)
    world.work(world.member(), PATIENCE_S + 4)

    assert [LOCKED, DONE] == [world.told(one) for one in (held, visit)]


def test_a_released_child_whose_row_is_held_leaves_the_waiting_room_for_the_retrier(world: World) -> None:
    """Or the chores would wait for it each second, and the member with them."""
    fields = clinic.patient()
    visits = [world.happen(clinic.encounter(fields["patient_id"])) for _ in range(2)]
    loop = world.member()
    world.work(loop, 1)
    world.hold(visits[0])
    world.happen(fields)
    world.work(loop, PATIENCE_S + 4)

    assert [LOCKED, DONE] == [world.told(one) for one in visits]
    assert {} == world.openemr.waiting
    world.release()
    assert {"applied": 1} == world.retry()


def test_parents_come_before_children_and_deleted_children_before_their_parents(world: World) -> None:
    """As in one transaction: a patient on whom visits hang might be refused."""
    [gone, stays, held] = world.known(3)
    old = clinic.encounter(gone["patient_id"])
    loop = world.member()
    world.happen(old)
    world.work(loop, 1)
    written: list[Event] = []
    world.openemr.on_write = written.append
    new = clinic.patient()
    order = clinic.order(new["patient_id"])
    events = [
        event(gone, Operation.DELETE),
        event(order),
        event(old, Operation.DELETE),
        event(new),
        event({**stays, "given_name": "Grace"}, Operation.UPDATE),
        event({**held, "given_name": "Grace"}, Operation.UPDATE),
    ]
    world.hold(events[-1])
    settled = apply_around_locks(world.target, [world.write(one) for one in events], (), clock=world.clock)

    # What the first, common try had written was rolled back.
    apart = [one.key.entity_id for one in written[-5:]]
    assert {new["patient_id"], stays["patient_id"]} == set(apart[:2])
    assert [order["order_id"], old["encounter_id"], gone["patient_id"]] == apart[2:]
    assert {type(one.outcome) for one in settled} == {Applied, Failed}
    world.marker.mark(settled)


def test_the_stream_is_recorded_only_when_all_is_decided(world: World) -> None:
    """After a restore the ledger's positions say from where events are missing."""
    held, other = updates(world, world.known(2))
    world.hold(held)
    settled = apply_around_locks(world.target, [held, other], [StreamPosition("a", 0, 7)], clock=world.clock)
    assert 7 == world.openemr.positions["a", 0]
    world.marker.mark(settled)

    events = updates(world, world.known(HELD_ENTITIES_MAX + 1))
    world.hold(*events)
    with pytest.raises(LockedError):
        apply_around_locks(world.target, events, [StreamPosition("a", 0, 9)], clock=world.clock)
    assert 7 == world.openemr.positions["a", 0]


@pytest.mark.parametrize("point", [Point.BEFORE_TARGET_COMMIT, Point.AFTER_TARGET_COMMIT, Point.BEFORE_MARK])
def test_a_member_killed_between_two_of_the_parts_repeats_them_as_duplicates(world: World, point: Point) -> None:
    """Another one settles the batch, and the held event once more."""
    events = updates(world, world.known(4))
    world.hold(events[1])
    loop = world.member()
    world.work(loop, PATIENCE_S)
    passed: list[Point] = []

    def die(at: Point) -> None:
        passed.append(at)
        if at is point and passed.count(point) >= 2:
            raise CrashError

    arm(die)
    try:
        world.work(loop, 5)
    except CrashError:
        world.crash(loop)
    arm(None)
    other = world.member()
    world.work(other, PATIENCE_S + 4)
    world.release()
    world.retry()

    assert {("done", 0)} == {(world.row(one).status, world.row(one).retry_count) for one in events}
    assert [] == violations_at_rest(world.snapshot())
    assert all(seqs == sorted(set(seqs)) for seqs in world.openemr.effects.values())


def test_the_member_is_watchful_for_a_while_and_then_waits_as_usual(world: World) -> None:
    """Another entity that is held is seen by a short wait meanwhile, and by a usual one afterwards."""
    several = world.known(3)
    loop = world.member()
    for fields, quiet in zip(several, (dt.timedelta(), dt.timedelta(seconds=30), applier.WATCHFUL), strict=True):
        world.clock.now += quiet
        [held] = updates(world, [fields])
        world.hold(held)
        world.work(loop, PATIENCE_S + 2)

    assert [USUAL_WAIT_S, LOCK_WAIT_S, LOCK_WAIT_S, USUAL_WAIT_S, LOCK_WAIT_S] == world.waits_s


def test_a_held_row_holds_up_no_other_retry_and_is_no_storm(world: World) -> None:
    """However many are held, and however often."""
    events = updates(world, world.known(12))
    world.hold(*events[:6])
    loop = world.member()
    world.work(loop, PATIENCE_S + 10)
    other = world.happen(clinic.patient(given_name="x" * 300))
    world.work(loop, 1)
    assert ("failed", "too_long", 1) == world.told(other)
    world.row(other).next_attempt_at = world.clock.now

    assert {"failed": 7} == world.retry(storm_failures=7)
    assert ("failed", "too_long", 2) == world.told(other)
    for _ in range(3):
        assert {"failed": 6} == world.retry(storm_failures=7)
    world.release()
    assert {"applied": 6} == world.retry(storm_failures=7)


def test_each_event_that_is_set_aside_is_told(world: World, logged: list[MutableMapping[str, Any]]) -> None:
    """With its class, and without a value."""
    held, _ = updates(world, world.known(2))
    world.hold(held)
    world.work(world.member(), PATIENCE_S + 4)

    [told] = [one for one in logged if one["action"] == "event_failed"]
    assert (ErrorClass.LOCKED, str(held.outbox_id)) == (told["error_class"], told["outbox_id"])
