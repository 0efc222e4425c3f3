"""Failed rows are tried again: what is taken, what is charged, when it stops, and what a killed retrier leaves."""

from __future__ import annotations

import datetime as dt
from collections.abc import MutableMapping
from typing import Any

import pytest

from connectors.events import Event
from connectors.outbox import Operation
from consumer.crash_points import Point, arm
from consumer.outcome import Applied, ErrorClass, Failed
from consumer.ports import FailedRow, MisconfiguredError, TransientError
from consumer.retry_failed import Retrier, RetryLimits, StormBreaker, retry_chosen, retry_failed_outbox
from consumer.settle import settle_events
from tests import clinic
from tests.fakes import FakeFailedRows, FakeMarker, FakeTarget
from tests.invariants import violations_at_any_time, violations_at_rest
from tests.made_events import NOON, event
from tests.pipeline import Pipeline
from tests.unit.consumer.crashes import CrashError

DAY = dt.timedelta(days=1)
LIMITS = RetryLimits(storm_failures=5)


class World(Pipeline):
    """A clinic whose OpenEMR refuses some entities for a while."""

    def refused(self, one: Event) -> Event:
        """Let an event come and fail."""
        self.openemr.refused.add(one.key)
        self.deliver(self.write(one))
        member = self.member()
        self.drain([member])
        self.crash(member)
        assert [("failed", "failed")] == self.state(one)
        return one

    def cure(self, *events: Event) -> None:
        """Let OpenEMR take what it refused."""
        self.openemr.refused -= {one.key for one in events}

    def retrier(self, limits: RetryLimits = LIMITS) -> Retrier:
        """Start a retrier."""
        target, marker = FakeTarget(self.openemr, self.faults), FakeMarker(self.source, self.faults)
        failed = FakeFailedRows(self.source, self.faults)
        return Retrier(failed, target, marker, StormBreaker(limits), limits, self.clock)

    def retry(self, limits: RetryLimits = LIMITS) -> dict[str, int]:
        """Retry what is due, a day later."""
        self.clock.now += DAY
        return dict(retry_failed_outbox(self.retrier(limits)).outcomes)


@pytest.fixture
def world() -> World:
    """Give empty systems."""
    return World()


def refused(world: World, count: int = 1) -> list[Event]:
    """Let new patients fail."""
    return [world.refused(event(clinic.patient())) for _ in range(count)]


def test_a_row_succeeds_when_its_cause_is_gone(world: World) -> None:
    """By itself, and shows how often it was tried."""
    [one] = refused(world)
    world.cure(one)

    assert {"applied": 1} == world.retry()
    assert [("done", "applied")] == world.state(one)
    assert (1, None, None) == (world.row(one).retry_count, world.row(one).next_attempt_at, world.row(one).error_class)
    assert {} == world.retry()


def test_a_row_that_fails_again_is_charged_until_its_attempts_are_used_up(world: World) -> None:
    """Then a person may still choose it."""
    [one] = refused(world)

    for attempts in range(2, 7):
        assert {"failed": 1} == world.retry()
        assert ("failed", attempts) == (world.row(one).status, world.row(one).retry_count)
    assert {} == world.retry()

    world.cure(one)
    assert {"applied": 1} == dict(retry_chosen(world.retrier(), [one.outbox_id]).outcomes)


def test_an_old_event_of_an_entity_that_has_moved_on_is_stale(world: World) -> None:
    """And overwrites nothing."""
    fields = clinic.patient()
    old = world.refused(event(fields))
    world.cure(old)
    newer = world.happen({**fields, "given_name": "Grace"}, Operation.UPDATE)
    world.drain([world.member()])

    assert {"stale": 1} == world.retry()
    assert [("done", "stale"), ("done", "applied")] == world.state(old, newer)
    assert [newer.seq] == world.openemr.effects[old.key]


def test_a_parent_that_succeeds_releases_its_children(world: World) -> None:
    """In the same call; and what waits is never taken."""
    patient = clinic.patient()
    child = world.happen(clinic.encounter(patient["patient_id"]))
    parent = world.refused(event(patient))
    assert {"failed": 1} == world.retry()
    world.cure(parent)

    assert {"applied": 1} == world.retry()
    assert [("done", "applied")] * 2 == world.state(parent, child)


def test_an_overdue_child_that_a_person_retries_waits_on_and_is_reported_again(world: World) -> None:
    """Nothing is forgotten, and its parent still releases it."""
    world.limits = type(world.limits)(parent_wait=dt.timedelta(seconds=10))
    patient = clinic.patient()
    child = world.happen(clinic.encounter(patient["patient_id"]))
    member = world.member()
    world.drain([member])
    world.clock.now += dt.timedelta(seconds=20)
    world.drain([member])
    assert ("failed", "parent_missing") == (world.row(child).status, world.row(child).error_class)

    assert {} == world.retry()
    assert {"waiting": 1} == dict(retry_chosen(world.retrier(), [child.outbox_id]).outcomes)
    assert [("processing", "waiting")] == world.state(child)
    world.drain([member])
    assert ("failed", "parent_missing") == (world.row(child).status, world.row(child).error_class)

    world.happen(patient)
    world.drain([member])
    assert [("done", "applied")] == world.state(child)


@pytest.mark.parametrize("step", ["target.begin", "target.commit", "marker.mark"])
@pytest.mark.parametrize("error", [TransientError, MisconfiguredError])
def test_a_lost_system_charges_nothing_and_the_rows_are_given_back(
    world: World, step: str, error: type[Exception]
) -> None:
    """They are due again a moment later, when others had their turn."""
    [one] = refused(world)
    world.cure(one)
    world.faults.plan(step, error("away"))

    with pytest.raises(error):
        world.retry()

    row = world.row(one)
    assert ("failed", "failed", 1) == (row.status, row.outcome, row.retry_count)
    assert world.clock.now + LIMITS.uncharged_delay == row.next_attempt_at
    assert 1 == sum(world.retry().values())
    assert "done" == world.row(one).status


def test_rows_that_could_not_be_given_back_come_back_when_their_hold_has_lapsed(world: World) -> None:
    """The source was away too."""
    [one] = refused(world)
    world.cure(one)
    world.faults.plan("marker.mark", TransientError("source away"))
    world.faults.plan("failed.give_back", TransientError("source away"))

    with pytest.raises(TransientError, match="source away"):
        world.retry()

    assert [("processing", "retrying")] == world.state(one)
    assert {"duplicate": 1} == world.retry()


def test_two_retriers_share_the_rows(world: World) -> None:
    """None is applied twice."""
    events = refused(world, 6)
    world.cure(*events)
    world.clock.now += DAY
    one, other = world.retrier(), world.retrier()
    taken = one.failed.claim_due(3, now=world.clock(), held_until=world.clock() + LIMITS.hold, paused=())

    assert {"applied": 3} == dict(retry_failed_outbox(other).outcomes)
    assert 3 == len(taken)
    world.clock.now += DAY
    assert {"applied": 3} == dict(retry_failed_outbox(one).outcomes)
    assert [[event.seq] for event in events] == [world.openemr.effects[event.key] for event in events]


def test_a_row_under_way_is_nobody_elses(world: World) -> None:
    """Neither for what is due nor for what is chosen."""
    due, chosen = refused(world, 2)
    world.cure(due, chosen)
    world.row(chosen).next_attempt_at = None
    seen = []

    def look(_event: Event) -> None:
        other = world.retrier()
        ids = [one.outbox_id for one in (due, chosen) if world.row(one).status == "processing"]
        seen.append((len(ids), retry_failed_outbox(other).rows, retry_chosen(other, ids).rows))

    world.openemr.on_write = look
    assert {"applied": 1} == world.retry()
    retry_chosen(world.retrier(), [chosen.outbox_id])

    assert [(1, 0, 0)] * 2 == seen


def test_a_retrier_that_was_slow_beside_another_changes_nothing(world: World) -> None:
    """Its hold lapsed, and both tried: the ledger settles it once, and a failure is charged once."""
    good, bad = refused(world, 2)
    world.cure(good)
    world.clock.now += DAY
    slow = world.retrier()
    rows = slow.failed.claim_due(2, now=world.clock(), held_until=world.clock() + LIMITS.hold, paused=())
    world.clock.now += DAY
    world.retry()
    settle_events(slow.target, slow.marker, [one.event for one in rows], (), clock=world.clock)

    assert [("done", "applied"), ("failed", "failed")] == world.state(good, bad)
    assert [good.seq] == world.openemr.effects[good.key]
    assert 2 == world.row(bad).retry_count


def test_a_storm_of_one_class_stops_it_and_spares_the_attempts_of_the_others(world: World) -> None:
    """No more than the limit are tried; other classes go on."""
    events = refused(world, 12)
    other = world.write(event(clinic.patient()))
    row = world.row(other)
    row.status, row.outcome, row.error_class, row.next_attempt_at = "failed", "failed", "too_long", NOON + DAY / 2
    world.clock.now += DAY

    tally = retry_failed_outbox(world.retrier())

    assert ({"failed": 5, "applied": 1}, [ErrorClass.REFUSED]) == (dict(tally.outcomes), tally.storms)
    assert [1] * 7 + [2] * 5 == sorted(world.row(one).retry_count for one in events)
    assert "done" == row.status


def test_a_person_s_choice_stops_at_a_storm_and_counts_what_is_left(world: World) -> None:
    """The same limit."""
    events = refused(world, 12)

    tally = retry_chosen(world.retrier(), [one.outbox_id for one in events])

    assert ({"failed": 5}, [ErrorClass.REFUSED], 7) == (dict(tally.outcomes), tally.storms, tally.left)


def test_a_settled_row_of_the_class_ends_its_row_of_failures(world: World) -> None:
    """Some fail for good, and that is no storm."""
    events = refused(world, 12)
    world.cure(*events[::3])

    tally = retry_chosen(world.retrier(), [one.outbox_id for one in events])

    assert ({"applied": 4, "failed": 8}, [], 0) == (dict(tally.outcomes), tally.storms, tally.left)


def test_the_breaker_leaves_a_class_alone_for_a_while_and_counts_anew() -> None:
    """And never lets more rows be taken than may fail."""
    breaker = StormBreaker(RetryLimits(storm_failures=2, rows_max=10))
    row, other = (FailedRow(event(clinic.patient()), ErrorClass.TOO_LONG, NOON, NOON) for _ in range(2))
    failure = Failed(ErrorClass.TOO_LONG, "given_name: is longer")
    assert 2 == breaker.room

    assert [None, 1] == [breaker.see(row, failure, NOON), breaker.room]
    assert [None, 2] == [breaker.see(row, Applied(), NOON), breaker.room]
    assert [None, ErrorClass.TOO_LONG] == [breaker.see(one, failure, NOON) for one in (row, other)]
    assert (2, frozenset({ErrorClass.TOO_LONG})) == (breaker.room, breaker.paused(NOON))
    assert frozenset() == breaker.paused(NOON + LIMITS.storm_pause)


def test_the_same_row_again_or_a_row_a_day_later_is_no_storm() -> None:
    """A few rows that fail for good must not stop the others of their class."""
    breaker = StormBreaker(RetryLimits(storm_failures=2))
    rows = [FailedRow(event(clinic.patient()), ErrorClass.TOO_LONG, NOON, NOON) for _ in range(3)]
    failure = Failed(ErrorClass.TOO_LONG, "given_name: is longer")

    assert [None] * 3 == [breaker.see(rows[0], failure, NOON) for _ in range(3)]
    assert [None] * 3 == [breaker.see(row, failure, NOON + DAY * day) for day, row in enumerate(rows, 1)]


def test_a_choice_leaves_out_what_is_no_longer_failed(world: World) -> None:
    """Or what another retrier holds."""
    one, other = refused(world, 2)
    world.cure(one, other)
    retry_chosen(world.retrier(), [one.outbox_id])

    tally = retry_chosen(world.retrier(), [one.outbox_id, other.outbox_id])

    assert ({"applied": 1}, 1) == (dict(tally.outcomes), tally.left)


def test_a_person_s_interrupt_gives_the_rows_back(world: World) -> None:
    """And ends the work."""
    [one] = refused(world)
    world.faults.plan("target.write", KeyboardInterrupt())  # type: ignore[arg-type]  # no Exception

    with pytest.raises(KeyboardInterrupt):
        world.retry()

    assert ("failed", 1) == (world.row(one).status, world.row(one).retry_count)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows_max": 0},
        {"storm_failures": 0},
        {"hold": dt.timedelta()},
        {"uncharged_delay": dt.timedelta()},
        {"storm_pause": dt.timedelta()},
    ],
)
def test_senseless_bounds_are_refused_by_name(wrong: dict[str, Any]) -> None:
    """At once."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RetryLimits(**wrong)


def busy(crash_at: int | None = None) -> tuple[World, dict[str, Event], list[str]]:
    """Let four rows fail, cure three, let one move on, and retry with a crash at a step; a new retrier takes over."""
    world = World()
    patient, moved = clinic.patient(), clinic.patient()
    child = world.happen(clinic.encounter(patient["patient_id"]))
    events = {
        "parent": world.refused(event(patient)),
        "cured": world.refused(event(clinic.patient())),
        "moved": world.refused(event(moved)),
        "bad": world.refused(event(clinic.patient())),
        "child": child,
    }
    world.cure(events["parent"], events["cured"], events["moved"])
    world.happen({**moved, "given_name": "Grace"}, Operation.UPDATE)
    world.drain([member := world.member()])
    world.crash(member)
    begun = len(world.faults.passed)
    if crash_at is not None:
        world.faults.plan_at(crash_at, CrashError())
        with pytest.raises(CrashError):
            world.retry()
        world.found += violations_at_any_time(world.snapshot())
    world.retry()
    steps = world.faults.passed[begun:]
    # What was killed between a parent's mark and its children's release is a member's chore.
    world.drain([world.member()])
    return world, events, steps


def test_a_retrier_killed_at_any_step_loses_nothing_and_does_nothing_twice() -> None:
    """Each step in turn; the next retrier ends in the same state, and a failure is charged once or twice."""
    _, _, steps = busy()
    assert {"failed.claim", "failed.claimed", "target.committed", "marker.mark", "marker.marked"} <= set(steps)
    found = []
    for count, step in enumerate(steps):
        world, events, _ = busy(count)
        found += [f"crash at {step} ({count}): {one}" for one in (*world.found, *violations_at_rest(world.snapshot()))]
        rows = {name: world.row(one) for name, one in events.items()}
        statuses = {name: row.status for name, row in rows.items()}
        if statuses != {name: "failed" if name == "bad" else "done" for name in rows}:
            found.append(f"crash at {step} ({count}): {statuses}")
        if rows["bad"].retry_count not in {2, 3}:
            found.append(f"crash at {step} ({count}): {rows['bad'].retry_count} attempts")
        doubled = {
            name: seqs for name, one in events.items() if len(seqs := world.openemr.effects.get(one.key, [])) > 1
        }
        if doubled:
            found.append(f"crash at {step} ({count}): {doubled}")

    assert [] == found


def test_a_planted_bug_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed retrier held is never taken up: it stays in hand for ever."""
    right = FakeFailedRows._claim

    def wrong(self: FakeFailedRows, chosen: Any, limit: int, held_until: dt.datetime) -> Any:
        return right(self, lambda row: row.status == "failed" and chosen(row), limit, held_until)

    monkeypatch.setattr(FakeFailedRows, "_claim", wrong)
    _, _, steps = busy()
    world, _, _ = busy(steps.index("failed.claimed"))

    assert any("nobody holds it" in violation for violation in violations_at_rest(world.snapshot()))


def test_nothing_of_a_payload_is_logged_or_marked(world: World, logged: list[MutableMapping[str, Any]]) -> None:
    """Ids and reasons."""
    one = world.refused(event(clinic.patient()))
    world.retry()

    assert clinic.FAMILY_NAME not in str(world.row(one).error_message)
    assert clinic.FAMILY_NAME not in str(logged)


@pytest.mark.parametrize("point", [Point.BEFORE_RETRY_SETTLE, Point.AFTER_RETRY_SETTLE])
def test_a_retry_passes_the_named_crash_points(world: World, point: Point) -> None:
    """A process killed there leaves a row that comes back."""
    [one] = refused(world)
    world.cure(one)

    def die(reached: Point) -> None:
        if reached is point:
            raise CrashError

    arm(die)
    try:
        with pytest.raises(CrashError):
            world.retry()
    finally:
        arm(None)
    expected = {Point.BEFORE_RETRY_SETTLE: ("processing", "retrying"), Point.AFTER_RETRY_SETTLE: ("done", "applied")}
    assert [expected[point]] == world.state(one)

    world.retry()
    assert "done" == world.row(one).status
