"""The loop keeps the order of things: dead letter, apply, mark, offset; and it ends in a known way."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest

from consumer.dead_letters import DeadLetterLimits, RecordReader, TooManyDeadLettersError
from consumer.loop import LoopLimits
from consumer.ports import TransientError
from tests import clinic
from tests.fakes import FakeEventStream
from tests.invariants import violations_at_rest
from tests.made_events import NOON, event, headers
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


SHARE = DeadLetterLimits(window_records=10, share_max=0.3)
"""Three bad ones among ten records."""


def test_too_many_dead_letters_in_a_batch_park_none_of_it(world: Pipeline) -> None:
    """The batch comes again at every start, and would be parked each time."""
    world.limits = LoopLimits(dead_letters=SHARE)
    produce_garbage(world, 4)

    for last in (3, 0):
        with pytest.raises(
            TooManyDeadLettersError, match=rf"4 of the newest 10 .* partition 0 offset {last}: header id"
        ):
            world.member().run()
    assert [] == world.broker.dead_letters
    assert 0 == committed(world)


def test_dead_letters_are_counted_over_turns(world: Pipeline) -> None:
    """One record per poll must not reset the count."""
    world.limits = LoopLimits(records_max=1, dead_letters=SHARE)
    produce_garbage(world, 4)

    with pytest.raises(TooManyDeadLettersError, match="SHARE_MAX=1 emrsync consumer run"):
        world.member().run()
    assert 3 == len(world.broker.dead_letters)
    assert 3 == committed(world)


def test_a_restarted_member_parks_no_more(world: Pipeline) -> None:
    """Nor does another one that gets the partition: the world is not parked one window at a time."""
    world.limits = LoopLimits(records_max=1, dead_letters=SHARE)
    produce_garbage(world, 9)
    for _ in range(4):
        with pytest.raises(TooManyDeadLettersError):
            world.member().run()

    assert 3 == len(world.broker.dead_letters)
    assert 3 == committed(world)


def test_a_member_that_may_park_everything_goes_on_where_others_gave_up(world: Pipeline) -> None:
    """The setting that the message names."""
    world.limits = LoopLimits(records_max=1, dead_letters=SHARE)
    produce_garbage(world, 9)
    with pytest.raises(TooManyDeadLettersError):
        world.member().run()
    world.limits = LoopLimits(dead_letters=DeadLetterLimits(window_records=10, share_max=1))
    world.drain([world.member()])

    assert 9 == len(world.broker.dead_letters)
    assert set() == world.broker.halted


def test_good_records_after_a_stop_make_room_again(world: Pipeline) -> None:
    """An upgraded consumer that reads what the old one could not needs nobody's permission."""
    world.limits = LoopLimits(records_max=1, dead_letters=SHARE)
    produce_garbage(world, 3)
    world.broker.halted.add((TOPIC, 0))
    world.broker.committed[TOPIC, 0] = 3
    for _ in range(10):
        world.happen(clinic.patient())
    produce_garbage(world, 3)
    world.drain([world.member()])

    assert 3 == len(world.broker.dead_letters)
    assert 16 == committed(world)


def test_a_row_whose_record_was_no_event_says_so(world: Pipeline) -> None:
    """Or it would be pending for ever, and nobody would look for it."""
    one = world.write(event(clinic.patient()))
    wrong = {**dict(headers(one)), "seq": b"x"}
    world.broker.produce(TOPIC, one.key.entity_id.encode(), one.payload, list(wrong.items()))
    world.member().run_once()

    row = world.row(one)
    assert ("failed", "invalid_payload", 1) == (row.status, row.error_class, row.retry_count)
    assert "header seq: is no whole number" in str(row.error_message)
    assert 1 == committed(world)


def test_a_row_that_was_done_stays_done_when_a_bad_copy_comes(world: Pipeline) -> None:
    """A late mark never takes back what was reached."""
    one = world.happen(clinic.patient())
    world.broker.produce(TOPIC, one.key.entity_id.encode(), None, headers(one))
    world.member().run_once()

    assert [("done", "applied")] == world.state(one)
    assert 1 == len(world.broker.dead_letters)


def test_a_batch_that_is_repeated_is_not_parked_twice(world: Pipeline) -> None:
    """The second dead letter could not be written, and the same member tries the batch again."""
    reader = RecordReader(stream := FakeEventStream(world.broker, world.faults), SHARE)
    produce_garbage(world, 3)
    records = stream.poll(records_max=10, timeout_s=0)
    world.faults.plan("stream.park", None, TransientError("away"))
    with pytest.raises(TransientError):
        reader.read(records, now=NOON)
    reader.read(records, now=NOON)

    assert [0, 1, 2] == [record.offset for record, _ in world.broker.dead_letters]


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


@pytest.mark.parametrize("name", ["records_max", "bytes_max", "poll_timeout_s", "chores_interval_s"])
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


def test_an_event_in_the_wrong_topic_is_a_dead_letter(world: Pipeline) -> None:
    """It would not keep its order with the entity's other events; its row says why."""
    created = world.write(event(clinic.patient()))
    world.broker.produce("emrsync.order", created.key.entity_id.encode(), created.payload, headers(created))
    world.member().run_once()

    assert [("failed", "failed")] == world.state(created)
    [(_, reason)] = world.broker.dead_letters
    assert "header entity_type: is not the one of this topic" == reason
