"""The loop keeps the order of things: dead letter, apply, mark, offset; and it ends in a known way."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest

from connectors.topics import entity_topic
from consumer.loop import LoopLimits, TooManyDeadLettersError
from consumer.ports import TransientError
from tests import clinic
from tests.invariants import violations_at_rest
from tests.made_events import event, headers
from tests.pipeline import Pipeline

TOPIC = "emrsync.patient"


@pytest.fixture
def world() -> Pipeline:
    """Give empty systems with one partition per topic."""
    return Pipeline(partitions=1)


def committed(world: Pipeline) -> int:
    """Give the group's offset in the patients' topic."""
    return world.broker.committed.get((TOPIC, 0), 0)


def produce_garbage(world: Pipeline, count: int = 1) -> None:
    """Produce records without headers."""
    for _ in range(count):
        world.broker.produce(TOPIC, b"P-1", b"{}", ())


def test_a_turn_goes_from_poll_to_offset(world: Pipeline) -> None:
    """Effect, mark, offset, in this order."""
    created = world.happen(clinic.patient())
    world.member().run_once()

    steps = [step for step in world.faults.passed if step in {"target.committed", "marker.marked", "stream.committed"}]
    assert ["target.committed", "marker.marked", "stream.committed"] == steps
    assert [("done", "applied")] == world.state(created)
    assert 1 == committed(world)


@pytest.mark.parametrize("step", ["target.commit", "target.committed", "marker.mark", "marker.marked", "stream.commit"])
def test_the_offset_stays_when_anything_before_it_fails(world: Pipeline, step: str) -> None:
    """The error ends the turn."""
    world.happen(clinic.patient())
    loop = world.member()
    world.faults.plan(step, TransientError("away"))

    with pytest.raises(TransientError):
        loop.run_once()
    assert 0 == committed(world)


def test_a_record_that_is_no_event_is_parked_and_passed(world: Pipeline) -> None:
    """Bytes unchanged, with the reason, and its neighbours are applied."""
    before = world.happen(clinic.patient())
    produce_garbage(world)
    after = world.happen(clinic.patient())
    world.member().run_once()

    [(record, reason)] = world.broker.dead_letters
    assert (b"P-1", b"{}", 1, "header id: is absent") == (record.key, record.value, record.offset, reason)
    assert [("done", "applied")] * 2 == world.state(before, after)
    assert 3 == committed(world)


def test_the_offset_stays_when_a_dead_letter_cannot_be_written(world: Pipeline) -> None:
    """And the process ends, and leaves the group."""
    produce_garbage(world)
    loop = world.member()
    world.faults.plan("stream.park", TransientError("no dead-letter topic"))

    with pytest.raises(TransientError):
        loop.run()
    assert 0 == committed(world)
    assert [] == world.broker.members


def test_too_many_dead_letters_in_a_row_end_the_process(world: Pipeline) -> None:
    """The topic holds something else; parking it all would hide that."""
    world.limits = LoopLimits(dead_letters_in_a_row_max=3)
    produce_garbage(world, 4)

    with pytest.raises(TooManyDeadLettersError, match=r"4 records in a row .* emrsync\.patient partition 0 offset 3"):
        world.member().run()
    assert 3 == len(world.broker.dead_letters)
    assert 0 == committed(world)


def test_dead_letters_between_events_do_not_add_up(world: Pipeline) -> None:
    """Three bad ones, a good one, three bad ones."""
    world.limits = LoopLimits(dead_letters_in_a_row_max=3)
    produce_garbage(world, 3)
    world.happen(clinic.patient())
    produce_garbage(world, 3)
    world.member().run_once()

    assert 6 == len(world.broker.dead_letters)
    assert 7 == committed(world)


def test_dead_letters_are_counted_over_turns(world: Pipeline) -> None:
    """One record per poll must not reset the count."""
    world.limits = LoopLimits(records_max=1, dead_letters_in_a_row_max=3)
    produce_garbage(world, 4)

    with pytest.raises(TooManyDeadLettersError):
        world.member().run()


def test_a_poll_is_split_into_transactions_by_bytes(world: Pipeline) -> None:
    """Each settled and committed by itself; a record above the bound goes alone."""
    world.limits = LoopLimits(bytes_max=1_500)
    for size in (600, 600, 2_000, 600):
        fields = clinic.patient()
        world.happen({**fields, "ignored": "x" * (size - len(json.dumps(fields)))})
    world.member().run_once()

    assert [2, 3, 4] == offsets_committed(world)


def offsets_committed(world: Pipeline) -> list[int]:
    """Give the offsets in the order in which they were committed."""
    return [offset for place, offset in world.broker.commits if place == (TOPIC, 0)]


def test_a_stopped_loop_ends_after_the_batch_in_hand_and_leaves_the_group(world: Pipeline) -> None:
    """What it polled is settled."""
    created = world.happen(clinic.patient())
    loop = world.member()
    world.openemr.on_write = lambda _event: loop.stop()
    loop.run()

    assert [("done", "applied")] == world.state(created)
    assert 1 == committed(world)
    assert [] == world.broker.members


def test_a_loop_that_was_stopped_before_it_ran_does_nothing(world: Pipeline) -> None:
    """A signal during start."""
    world.happen(clinic.patient())
    loop = world.member()
    loop.stop()
    loop.run()

    assert 0 == committed(world)


def test_chores_are_done_when_they_are_due(world: Pipeline) -> None:
    """Not at every turn."""
    loop = world.member()
    for seconds in (0, 0.5, 0.4, 0.2, 0.5, 0.6):
        world.clock.now += dt.timedelta(seconds=seconds)
        loop.run_once()

    assert 3 == world.faults.passed.count("target.overdue")


def test_chores_report_what_waits_too_long(world: Pipeline) -> None:
    """After the stated wait."""
    world.limits = LoopLimits(parent_wait=dt.timedelta(seconds=10))
    child = world.happen(clinic.encounter("P-unknown"))
    loop = world.member()
    loop.run_once()
    world.clock.now += dt.timedelta(seconds=9)
    loop.run_once()
    assert [("processing", "waiting")] == world.state(child)

    world.clock.now += dt.timedelta(seconds=2)
    loop.run_once()
    assert [("failed", "failed")] == world.state(child)


def test_a_partition_that_was_taken_away_is_not_committed(world: Pipeline) -> None:
    """Its next owner repeats the batch, which the ledger makes a duplicate."""
    created = world.happen(clinic.patient())
    first = world.member()
    world.openemr.on_write = lambda _event: world.broker.revoke_all()
    first.run_once()
    assert 0 == committed(world)

    world.openemr.on_write = lambda _event: None
    world.broker.rebalance()
    world.drain([first])
    assert [created.seq] == world.openemr.effects[created.key]
    assert [] == violations_at_rest(world.snapshot())


@pytest.mark.parametrize(
    "name", ["records_max", "bytes_max", "poll_timeout_s", "chores_interval_s", "dead_letters_in_a_row_max"]
)
def test_bounds_that_make_no_sense_are_refused(name: str) -> None:
    """By name."""
    senseless: dict[str, Any] = {name: 0}

    with pytest.raises(ValueError, match=name):
        LoopLimits(**senseless)


def test_each_entity_type_has_its_topic_and_all_are_applied_in_one_turn(world: Pipeline) -> None:
    """Parents and children polled together."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    events = [
        world.happen(clinic.order(patient["patient_id"], encounter_id=visit["encounter_id"])),
        world.happen(visit),
        world.happen(patient),
    ]

    assert 3 == world.member().run_once()
    assert [("done", "applied")] * 3 == world.state(*events)


def test_an_event_in_the_wrong_topic_is_applied_by_its_headers(world: Pipeline) -> None:
    """The topic is only a way to divide the work."""
    created = world.write(event(clinic.patient()))
    topic = entity_topic(created.key.entity_type).replace("patient", "order")
    world.broker.produce(topic, created.key.entity_id.encode(), created.payload, headers(created))
    world.member().run_once()

    assert [("done", "applied")] == world.state(created)
