"""Outcomes reach the outbox rows, and waiting events are settled when their parents come."""

from __future__ import annotations

import datetime as dt

import pytest

from connectors.events import Event
from connectors.outbox import Operation
from consumer import settle
from consumer.outcome import Applied, Duplicate, ErrorClass, Failed, Stale, Waiting
from consumer.ports import RaceError, Settlement, TransientError
from consumer.settle import newest, release_parked, report_overdue, settle_events
from tests import clinic
from tests.made_events import NOON, event
from tests.pipeline import Pipeline

UPDATE, DELETE = Operation.UPDATE, Operation.DELETE


@pytest.fixture
def world() -> Pipeline:
    """Give empty systems."""
    return Pipeline()


def settled(world: Pipeline, *events: Event) -> None:
    """Write the rows of these events and settle them in one batch."""
    for one in events:
        world.write(one)
    settle_events(world.target, world.marker, events, (), clock=world.clock)


def test_every_outcome_is_marked(world: Pipeline) -> None:
    """Each in the words of the outbox."""
    fields = clinic.patient()
    newer, older = event(fields, seq=12), event(fields, seq=11)
    failing = event(clinic.patient(sex="f"))
    child = event(clinic.encounter("P-unknown"))
    settled(world, newer, failing, child)
    settled(world, older)

    expected = [("done", "applied"), ("done", "stale"), ("failed", "failed"), ("processing", "waiting")]
    assert expected == world.state(newer, older, failing, child)
    assert "patient P-unknown is not in OpenEMR yet" == world.row(child).error_message


def test_a_replayed_batch_is_marked_as_duplicate(world: Pipeline) -> None:
    """The process was killed between the target's commit and the mark."""
    created = event(clinic.patient())
    world.faults.plan("marker.mark", TransientError("source away"))
    with pytest.raises(TransientError):
        settled(world, created)

    settled(world, created)

    assert [("done", "duplicate")] == world.state(created)


def test_a_failed_event_delivered_twice_in_a_batch_is_marked_failed(world: Pipeline) -> None:
    """The second copy must not make it done."""
    failing = event(clinic.patient(sex="f"))
    settled(world, failing, failing)

    assert [("failed", "failed")] == world.state(failing)
    assert 1 == world.row(failing).retry_count


def test_an_applied_event_delivered_twice_in_a_batch_is_marked_applied(world: Pipeline) -> None:
    """And its business row synced."""
    created = event(clinic.patient())
    settled(world, created, created)

    assert [("done", "applied")] == world.state(created)
    assert {created.key: NOON} == world.source.last_synced_at


def test_a_child_is_applied_right_after_its_parent(world: Pipeline) -> None:
    """In the same call."""
    patient = clinic.patient()
    child, parent = event(clinic.encounter(patient["patient_id"])), event(patient)
    settled(world, child)
    settled(world, parent)

    assert [("done", "applied"), ("done", "applied")] == world.state(child, parent)
    assert {} == world.openemr.waiting


def test_generations_are_released_one_after_the_other(world: Pipeline) -> None:
    """The patient frees the visit, the visit the order."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    order = event(clinic.order(patient["patient_id"], encounter_id=visit["encounter_id"]))
    child = event(visit)
    settled(world, order)
    settled(world, child)
    settled(world, event(patient))

    assert [("done", "applied"), ("done", "applied")] == world.state(child, order)


def test_children_are_released_in_seq_order(world: Pipeline) -> None:
    """The newest state of a child wins, whichever arrived first."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    created, updated = event(visit), event({**visit, "reason": "cough"}, UPDATE)
    settled(world, updated)
    settled(world, created)
    settled(world, event(patient))

    assert [("done", "applied"), ("done", "applied")] == world.state(created, updated)
    assert world.openemr.mapped[created.key].last_seq == updated.seq


def test_more_children_than_one_transaction_takes_are_all_released(
    world: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In as many rounds as that needs."""
    monkeypatch.setattr(settle, "RELEASE_EVENTS_MAX", 3)
    patient = clinic.patient()
    children = [event(clinic.encounter(patient["patient_id"])) for _ in range(10)]
    settled(world, *children)
    settled(world, event(patient))

    assert [("done", "applied")] * 10 == world.state(*children)


def test_an_older_parked_event_of_an_entity_that_moved_on_is_stale(world: Pipeline) -> None:
    """The visit was deleted while its create waited."""
    visit = clinic.encounter("P-unknown")
    created, deleted = event(visit), event(visit, DELETE)
    settled(world, created)
    settled(world, deleted)

    assert [("done", "stale"), ("done", "applied")] == world.state(created, deleted)
    assert {} == world.openemr.waiting


def test_a_released_event_that_is_refused_fails_and_leaves_the_room(world: Pipeline) -> None:
    """Its siblings are applied."""
    patient = clinic.patient()
    bad, good = (event(clinic.encounter(patient["patient_id"])) for _ in range(2))
    world.openemr.refused.add(bad.key)
    settled(world, bad, good)
    settled(world, event(patient))

    assert [("failed", "failed"), ("done", "applied")] == world.state(bad, good)
    assert {} == world.openemr.waiting


def test_a_released_event_that_misses_its_next_parent_goes_on_waiting(world: Pipeline) -> None:
    """The row names the one it waits for now."""
    patient = clinic.patient()
    order = event(clinic.order(patient["patient_id"], encounter_id="E-unknown"))
    settled(world, order)
    settled(world, event(patient))

    assert [("processing", "waiting")] == world.state(order)
    assert "encounter E-unknown is not in OpenEMR yet" == world.row(order).error_message


def test_a_released_event_stays_in_the_room_until_its_row_is_marked(world: Pipeline) -> None:
    """Its offset is long past: after a crash nothing else leads back to it."""
    patient = clinic.patient()
    child = event(clinic.encounter(patient["patient_id"]))
    settled(world, child)
    world.faults.plan("marker.mark", None, TransientError("source away"))
    with pytest.raises(TransientError):
        settled(world, event(patient))

    release_parked(world.target, world.marker, None, clock=world.clock)

    assert [("done", "duplicate")] == world.state(child)
    assert {} == world.openemr.waiting


def test_a_lock_that_is_lost_while_an_event_leaves_the_room_is_a_transient_error(world: Pipeline) -> None:
    """Two members may forget the same events; the next round does it."""
    patient = clinic.patient()
    child = event(clinic.encounter(patient["patient_id"]))
    settled(world, child)
    world.faults.plan("target.forget", RaceError("deadlock"))
    with pytest.raises(TransientError):
        settled(world, event(patient))

    release_parked(world.target, world.marker, None, clock=world.clock)

    assert [("done", "applied")] == world.state(child)
    assert {} == world.openemr.waiting


def test_what_waits_too_long_is_marked_failed_once_and_released_all_the_same(world: Pipeline) -> None:
    """A late parent is still welcome."""
    patient = clinic.patient()
    child = event(clinic.encounter(patient["patient_id"]))
    settled(world, child)
    wait_limit = dt.timedelta(minutes=1)

    def report() -> int:
        return report_overdue(world.target, world.marker, wait_limit=wait_limit, clock=world.clock)

    assert 0 == report()
    world.clock.now += dt.timedelta(minutes=2)
    assert 1 == report()
    assert 0 == report()
    row = world.row(child)
    assert ("failed", "parent_missing") == (row.status, row.error_class)
    assert f"patient {patient['patient_id']} is not in OpenEMR yet; applied by itself when that arrives" == (
        row.error_message
    )

    settled(world, event(patient))
    assert [("done", "applied")] == world.state(child)


def test_the_last_word_on_an_event_counts_and_a_duplicate_is_no_word_on_the_first_copy() -> None:
    """What mark gets holds each event once."""
    first, second = event(clinic.patient()), event(clinic.patient())
    failed = Failed(ErrorClass.REFUSED, "is out of range")
    waiting = Waiting(first.key)

    def kept(*outcomes: Applied | Duplicate | Stale | Failed | Waiting) -> object:
        [one, other] = newest(
            [*(Settlement(first, outcome, NOON) for outcome in outcomes), Settlement(second, Stale(), NOON)]
        )
        assert (Stale(), second) == (other.outcome, other.event)
        return one.outcome

    assert failed == kept(failed, Duplicate())
    assert Applied() == kept(Applied(), Duplicate())
    assert Applied() == kept(waiting, Applied())
    assert Duplicate() == kept(Duplicate(), Duplicate())
