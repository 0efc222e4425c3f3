"""The loop keeps the order of things: dead letter, apply, mark, offset; and it ends in a known way."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from typing import Any

import pytest
import structlog

from consumer.dead_letters import DeadLetterLimits, RecordReader, TooManyDeadLettersError
from consumer.loop import LoopLimits
from consumer.ports import PausedError, TransientError
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


def later(world: Pipeline, seconds: float = 5) -> None:
    """Let time pass: every delay is over."""
    world.clock.now += dt.timedelta(seconds=seconds)


@pytest.mark.parametrize("step", ["target.commit", "target.committed", "marker.mark", "marker.marked", "stream.commit"])
def test_the_offset_stays_while_anything_before_it_fails(world: Pipeline, step: str) -> None:
    """And moves when that works again: one effect, and no attempt is charged to the event."""
    created = world.happen(clinic.patient())
    loop = world.member()
    world.faults.plan(step, TransientError("away"))

    loop.run_once()
    assert 0 == committed(world)

    later(world)
    loop.run_once()
    assert 1 == committed(world)
    assert [created.seq] == world.openemr.effects[created.key]
    assert ("done", 0) == (world.row(created).status, world.row(created).retry_count)
    assert [] == violations_at_rest(world.snapshot())


def test_while_openemr_is_away_the_member_polls_and_fetches_nothing(world: Pipeline) -> None:
    """The rows stay pending; when it is back, everything flows by itself."""
    early = world.happen(clinic.patient())
    loop = world.member()
    world.faults.plan("target.begin", *[TransientError("away")] * 4)
    loop.run_once()
    late = world.happen(clinic.patient())
    for _ in range(3):
        later(world)
        loop.run_once()

    assert 4 == world.faults.passed.count("stream.poll")
    assert [("pending", None)] * 2 == world.state(early, late)

    for _ in range(2):
        later(world)
        loop.run_once()
    assert [("done", "applied")] * 2 == world.state(early, late)
    assert 2 == committed(world)


def test_a_pause_is_told_once_for_each_reason(world: Pipeline) -> None:
    """It lasts for hours, and is no outage that somebody watches."""
    happened = world.happen(clinic.patient())
    loop = world.member()
    reasons = [*["maintenance"] * 5, *["tables have changed"] * 5]
    world.faults.plan("target.begin", *[PausedError(reason) for reason in reasons])
    with structlog.testing.capture_logs() as logs:
        for _ in range(12):
            later(world)
            loop.run_once()

    assert ["maintenance", "tables have changed"] == [one["reason"] for one in logs if one["action"] == "paused"]
    assert ["resumed"] == [one["action"] for one in logs if one["action"] == "resumed"]
    assert ("done", 0) == (world.row(happened).status, world.row(happened).retry_count)


def test_a_lost_system_is_asked_again_only_after_a_delay(world: Pipeline) -> None:
    """Turns in between only poll."""
    world.happen(clinic.patient())
    loop = world.member()
    world.faults.plan("target.begin", TransientError("away"))
    for _ in range(5):
        loop.run_once()

    assert 1 == world.faults.passed.count("target.begin")


def test_while_the_source_is_away_events_are_applied_and_marks_wait(world: Pipeline) -> None:
    """Up to the limit; no offset passes an unmarked event."""
    world.limits = LoopLimits(records_max=1, unmarked_events_max=3)
    events = [world.happen(clinic.patient()) for _ in range(5)]
    loop = world.member()
    world.faults.plan("marker.mark", *[TransientError("away")] * 100)
    for _ in range(10):
        later(world, 0.01)
        loop.run_once()

    assert 3 == len(world.openemr.applied)
    assert [("pending", None)] * 5 == world.state(*events)
    assert 0 == committed(world)

    world.faults.clear()
    later(world)
    world.drain([loop])
    assert [("done", "applied")] * 5 == world.state(*events)
    assert 5 == committed(world)
    assert [[one.seq] for one in events] == [world.openemr.effects[one.key] for one in events]


def test_a_mark_that_is_tried_again_does_not_apply_again(world: Pipeline) -> None:
    """What OpenEMR holds is remembered."""
    failing = world.happen(clinic.patient(sex="f"))
    loop = world.member()
    world.faults.plan("marker.mark", TransientError("away"))
    loop.run_once()
    later(world)
    loop.run_once()

    assert 1 == world.faults.passed.count("target.record")
    assert ("failed", 1) == (world.row(failing).status, world.row(failing).retry_count)


def test_an_offset_that_kafka_does_not_take_charges_no_attempt(world: Pipeline) -> None:
    """It goes along with the next one."""
    failing = world.happen(clinic.patient(sex="f"))
    loop = world.member()
    world.faults.plan("stream.commit", TransientError("away"))
    loop.run_once()
    world.happen(clinic.patient())
    loop.run_once()

    assert 2 == committed(world)
    assert ("failed", 1) == (world.row(failing).status, world.row(failing).retry_count)


def test_what_is_in_hand_goes_to_the_next_owner_of_its_partition(world: Pipeline) -> None:
    """A rebalance during an outage."""
    created = world.happen(clinic.patient())
    loop = world.member()
    world.faults.plan("target.begin", TransientError("away"))
    loop.run_once()
    world.broker.revoke_all()
    later(world)
    loop.run_once()
    assert [("pending", None)] == world.state(created)

    world.broker.rebalance()
    world.drain([loop])
    assert [("done", "applied")] == world.state(created)


def test_what_is_marked_is_committed_before_its_partition_goes(world: Pipeline) -> None:
    """The last moment; the next owner repeats nothing."""
    world.happen(clinic.patient())
    loop = world.member()
    world.faults.plan("stream.commit", TransientError("away"))
    loop.run_once()
    assert 0 == committed(world)

    world.broker.revoke_all()
    assert 1 == committed(world)


def test_children_that_cannot_be_released_now_are_released_by_the_chores(world: Pipeline) -> None:
    """Their place in the waiting room leads back to them."""
    patient = clinic.patient()
    child = world.happen(clinic.encounter(patient["patient_id"]))
    loop = world.member()
    loop.run_once()
    parent = world.happen(patient)
    world.faults.plan("target.releasable", TransientError("away"))
    loop.run_once()
    assert [("done", "applied"), ("processing", "waiting")] == world.state(parent, child)

    later(world)
    loop.run_once()
    assert [("done", "applied")] * 2 == world.state(parent, child)


def test_while_the_source_is_away_nothing_is_released(world: Pipeline) -> None:
    """Each try would wait for the source in the loop's thread; the chores do it when the source is back."""
    patient = clinic.patient()
    child = world.happen(clinic.encounter(patient["patient_id"]))
    loop = world.member()
    loop.run_once()
    looks = world.faults.passed.count("target.releasable")
    world.faults.plan("marker.mark", *[TransientError("away")] * 3)
    world.happen(patient)
    for _ in range(3):
        later(world)
        loop.run_once()
    assert looks == world.faults.passed.count("target.releasable")

    for _ in range(2):
        later(world)
        loop.run_once()
    assert [("done", "applied")] == world.state(child)


def test_chores_that_fail_come_again(world: Pipeline) -> None:
    """And hold up nothing."""
    loop = world.member()
    world.faults.plan("target.overdue", TransientError("away"))
    loop.run_once()
    created = world.happen(clinic.patient())
    later(world)
    loop.run_once()

    assert 2 == world.faults.passed.count("target.overdue")
    assert [("done", "applied")] == world.state(created)


def test_a_stop_during_an_outage_ends_the_loop(world: Pipeline) -> None:
    """What is in hand is left to the others."""
    created = world.happen(clinic.patient())
    loop = world.member()
    world.faults.plan("target.begin", *[TransientError("away")] * 10)
    loop.run_once()
    loop.stop()
    loop.run()

    assert [("pending", None)] == world.state(created)
    assert [] == world.broker.members


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


def test_the_offset_stays_while_a_dead_letter_cannot_be_written(world: Pipeline) -> None:
    """And what was written before is not written twice."""
    produce_garbage(world, 2)
    loop = world.member()
    world.faults.plan("stream.park", None, TransientError("no dead-letter topic"))
    loop.run_once()
    assert 0 == committed(world)

    later(world)
    loop.run_once()
    assert [0, 1] == [record.offset for record, _ in world.broker.dead_letters]
    assert 2 == committed(world)


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
    world.broker.committed[TOPIC, 0] = world.openemr.positions[TOPIC, 0] = 3
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
    """A record above the bound goes alone."""
    world.limits = LoopLimits(bytes_max=1_500)
    for size in (600, 600, 2_000, 600):
        fields = clinic.patient()
        world.happen({**fields, "ignored": "x" * (size - len(json.dumps(fields)))})
    world.member().run_once()

    assert 3 == world.faults.passed.count("target.committed")
    assert 4 == committed(world)


def test_while_a_backlog_is_drained_offsets_are_committed_only_now_and_then(world: Pipeline) -> None:
    """Each commit's answer is waited for; the last batch, and the end, commit what is marked."""
    world.limits = LoopLimits(records_max=2, commit_interval_s=1.0)
    for _ in range(7):
        world.happen(clinic.patient())
    loop = world.member()
    loop.run_once()
    assert 2 == committed(world)
    loop.run_once()
    assert 2 == committed(world)
    world.clock.now += dt.timedelta(seconds=1)
    loop.run_once()
    assert 6 == committed(world)
    loop.run_once()
    assert 7 == committed(world)


def test_a_member_that_ends_within_the_interval_commits_what_is_marked(world: Pipeline) -> None:
    """Its successor has nothing to repeat."""
    world.limits = LoopLimits(records_max=1, commit_interval_s=60.0)
    for _ in range(3):
        world.happen(clinic.patient())
    loop = world.member()
    loop.run_once()
    world.openemr.on_write = lambda _event: loop.stop()
    loop.run()

    assert 1 < committed(world)


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
    "name", [field.name for field in dataclasses.fields(LoopLimits) if field.name != "dead_letters"]
)
def test_bounds_that_make_no_sense_are_refused(name: str) -> None:
    """By name."""
    senseless: dict[str, Any] = {name: dt.timedelta() if name == "parent_wait" else 0}

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

    assert world.member().run_once()
    assert [("done", "applied")] * 3 == world.state(*events)


def test_an_event_in_the_wrong_topic_is_a_dead_letter(world: Pipeline) -> None:
    """It would not keep its order with the entity's other events; its row says why."""
    created = world.write(event(clinic.patient()))
    world.broker.produce("emrsync.order", created.key.entity_id.encode(), created.payload, headers(created))
    world.member().run_once()

    assert [("failed", "failed")] == world.state(created)
    [(_, reason)] = world.broker.dead_letters
    assert "header entity_type: is not the one of this topic" == reason
