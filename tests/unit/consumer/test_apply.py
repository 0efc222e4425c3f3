"""Events become the newest valid state, once, and each gets its own outcome."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from connectors.events import EntityKey, Event
from connectors.outbox import EntityType, Operation
from connectors.payloads import AnyPayload
from consumer.apply import DRAFTS_MAX, RACES_MAX, apply_events
from consumer.drafting import Draft
from consumer.outcome import Applied, Duplicate, ErrorClass, Failed, Outcome, Stale, Waiting
from consumer.ports import OutdatedError, RaceError, StreamPosition, TransientError
from tests import clinic
from tests.fakes import Clock, FakeOpenEmr, FakeTarget, Faults, digest
from tests.made_events import event, key_of

DELETE, UPDATE = Operation.DELETE, Operation.UPDATE


class World:
    """A target whose applied outcomes are easy to ask for."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.faults = Faults()
        self.openemr = FakeOpenEmr(self.clock)
        self.target = FakeTarget(self.openemr, self.faults)

    def apply(self, *events: Event, positions: Sequence[StreamPosition] = ()) -> list[Outcome]:
        """Apply in one call, and give the outcomes in the order of the arguments, copies in the order given."""
        settlements = list(apply_events(self.target, events, positions, clock=self.clock))
        found = []
        for one in events:
            place = next(index for index, settled in enumerate(settlements) if settled.event is one)
            found.append(settlements.pop(place).outcome)
        return found

    def shows(self, one: Event) -> bool:
        """Tell whether OpenEMR's row is what this event says."""
        return self.openemr.rows.get(one.key) == digest(one.payload)


@pytest.fixture
def world() -> World:
    """Give an empty OpenEMR."""
    return World()


def test_an_event_that_the_ledger_has_settled_is_a_duplicate(world: World) -> None:
    """A second delivery, in another batch."""
    created = event(clinic.patient())
    world.apply(created)

    assert [Duplicate()] == world.apply(created)
    assert [created.seq] == world.openemr.effects[created.key]


def test_a_second_copy_in_one_batch_is_a_duplicate(world: World) -> None:
    """The connector's restart sends both into one poll."""
    created = event(clinic.patient())

    assert [Applied(), Duplicate()] == world.apply(created, created)


def test_a_second_copy_of_a_failed_event_failed_too(world: World) -> None:
    """Calling it a duplicate would mark the row done, and the event would be lost."""
    bad = event(clinic.patient(given_name="A" * 256))
    expected = Failed(ErrorClass.TOO_LONG, "given_name: is longer than the column")

    assert [expected, expected] == world.apply(bad, bad)


def test_a_second_copy_of_a_waiting_event_waits_too(world: World) -> None:
    """For the same reason."""
    child = event(clinic.encounter("P-1"))
    expected = Waiting(EntityKey(EntityType.PATIENT, "P-1"))

    assert [expected, expected] == world.apply(child, child)


def test_ten_deliveries_have_one_effect(world: World) -> None:
    """Five in one batch, five in batches of their own."""
    created = event(clinic.patient())
    world.apply(*[created] * 5)
    for _ in range(5):
        world.apply(created)

    assert {created.key: [created.seq]} == world.openemr.effects


def test_an_event_that_comes_after_later_ones_is_stale(world: World) -> None:
    """It was never applied, and must not be now."""
    fields = clinic.patient()
    older, newer = event(fields), event({**fields, "given_name": "Grace"}, UPDATE)
    world.apply(newer)

    assert [Stale()] == world.apply(older)
    assert world.shows(newer)


def test_the_events_of_an_entity_are_folded_into_one_write_of_the_newest(world: World) -> None:
    """All are applied, whatever their order in the batch."""
    fields = clinic.patient()
    first, second, third = (event({**fields, "given_name": name}) for name in ("Ada", "Grace", "Mary"))

    assert [Applied()] * 3 == world.apply(third, first, second)
    assert world.shows(third)
    assert [third.seq] == world.openemr.effects[third.key]


def test_an_unreadable_event_in_the_middle_fails_alone(world: World) -> None:
    """The events around it are applied."""
    fields = clinic.patient()
    first, bad, last = event(fields), event({**fields, "sex": "f"}, UPDATE), event({**fields, "sex": "other"}, UPDATE)

    outcomes = world.apply(first, bad, last)

    assert isinstance(outcomes[1], Failed)
    assert [Applied(), Applied()] == [outcomes[0], outcomes[2]]
    assert world.shows(last)


def test_an_unreadable_newest_event_leaves_the_state_before_it(world: World) -> None:
    """And the map says so, so that a corrected retry of it is newer."""
    fields = clinic.patient()
    good, bad = event(fields), event({**fields, "sex": "f"}, UPDATE)
    world.apply(good, bad)

    assert world.shows(good)
    assert good.seq == world.openemr.mapped[good.key].last_seq


def test_a_newest_event_that_cannot_be_written_does_not_take_older_ones_with_it(world: World) -> None:
    """The result is the same as if each had come in a batch of its own."""
    patient, other = clinic.patient(), clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    world.apply(event(patient), event(other), event(visit))
    update = event({**visit, "reason": "cough"}, UPDATE)
    moved = event({**visit, "patient_id": other["patient_id"]}, UPDATE)

    outcomes = world.apply(update, moved)

    assert Applied() == outcomes[0]
    assert isinstance(outcomes[1], Failed)
    assert world.shows(update)


def test_a_newest_event_that_waits_does_not_hold_older_ones_back(world: World) -> None:
    """An order is placed, then moved to a visit that is not there yet."""
    patient = clinic.patient()
    order = clinic.order(patient["patient_id"])
    world.apply(event(patient))
    placed, moved = event(order), event({**order, "encounter_id": "E-1"}, UPDATE)

    assert [Applied(), Waiting(EntityKey(EntityType.ENCOUNTER, "E-1"))] == world.apply(placed, moved)
    assert world.shows(placed)


def test_a_delete_before_a_waiting_newest_event_is_carried_out(world: World) -> None:
    """The visit is deleted, then created again for a patient who is not there yet."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    world.apply(event(patient), event(visit))
    deleted, again = event(visit, DELETE), event({**visit, "patient_id": "P-unknown"})

    assert [Applied(), Waiting(EntityKey(EntityType.PATIENT, "P-unknown"))] == world.apply(deleted, again)
    assert not world.openemr.mapped[deleted.key].alive


def test_parents_of_the_same_batch_are_written_before_their_children(world: World) -> None:
    """Whatever the order of the topics in the poll."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    order = clinic.order(patient["patient_id"], encounter_id=visit["encounter_id"])
    last, middle, first = event(order, seq=1), event(visit, seq=2), event(patient, seq=3)

    assert [Applied()] * 3 == world.apply(last, middle, first)


@pytest.mark.parametrize("missing", ["patient", "encounter"])
def test_a_child_without_its_parent_waits_and_is_kept(world: World, missing: str) -> None:
    """The outcome names the parent, and nothing of the child is written."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    order = event(clinic.order(patient["patient_id"], encounter_id=visit["encounter_id"]))
    if missing == "encounter":
        world.apply(event(patient))

    [outcome] = world.apply(order)

    assert Waiting(key_of(patient if missing == "patient" else visit)) == outcome
    assert {order.outbox_id} == world.openemr.waiting.keys()
    assert order.key not in world.openemr.rows


def test_the_wait_for_a_deleted_parent_says_so(world: World) -> None:
    """A person must know that it was there."""
    patient = clinic.patient()
    world.apply(event(patient), event(patient, DELETE))

    [outcome] = world.apply(event(clinic.encounter(patient["patient_id"])))

    assert isinstance(outcome, Waiting)
    assert f"patient {patient['patient_id']} was deleted" == outcome.message


def test_a_child_kept_before_keeps_its_place_when_it_comes_again(world: World) -> None:
    """Its wait counts from the first time."""
    child = event(clinic.encounter("P-1"))
    world.apply(child)
    since = world.clock.now
    world.clock.now = since.replace(hour=13)
    world.apply(child)

    assert since == world.openemr.waiting[child.outbox_id].since


def test_children_are_deleted_before_their_parents(world: World) -> None:
    """OpenEMR removes a visit only when nothing hangs on it."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    order = clinic.order(patient["patient_id"], encounter_id=visit["encounter_id"])
    world.apply(event(patient), event(visit), event(order))
    written: list[str] = []
    world.openemr.on_write = lambda one: written.append(one.key.entity_type.value)

    world.apply(event(patient, DELETE), event(visit, DELETE), event(order, DELETE))

    assert ["order", "encounter", "patient"] == written


def test_a_delete_of_what_was_never_there_is_applied_and_keeps_older_events_out(world: World) -> None:
    """The create was delayed, for example by a retry."""
    fields = clinic.patient()
    created, deleted = event(fields), event(fields, DELETE)

    assert [Applied()] == world.apply(deleted)
    assert [Stale()] == world.apply(created)


def test_a_created_again_entity_is_alive(world: World) -> None:
    """Create, delete, create in one batch."""
    fields = clinic.patient()
    last = event(fields, seq=30)

    assert [Applied()] * 3 == world.apply(event(fields, seq=10), event(fields, DELETE, seq=20), last)
    assert world.openemr.mapped[last.key].alive


@pytest.mark.parametrize("position", [0, 1, 7, 8, 16])
def test_of_a_refused_batch_only_the_guilty_event_fails(world: World, position: int) -> None:
    """Wherever it stands."""
    events = sorted((event(clinic.patient()) for _ in range(17)), key=lambda one: one.key.entity_id)
    guilty = events[position]
    world.openemr.refused.add(guilty.key)

    outcomes = world.apply(*events)

    expected: list[Outcome] = [Applied()] * 17
    expected[position] = Failed(ErrorClass.REFUSED, "patient: is out of range")
    assert expected == outcomes


def test_halving_keeps_the_order_of_an_entitys_events(world: World) -> None:
    """Both halves may hold events of one entity."""
    fields = clinic.patient(patient_id="P-a")
    steps = [event({**fields, "given_name": f"Ada {number}"}) for number in range(9)]
    guilty = event(clinic.patient(patient_id="P-b"))
    world.openemr.refused.add(guilty.key)
    world.apply(*reversed(steps), guilty)

    assert world.shows(steps[-1])
    assert sorted(world.openemr.effects[steps[0].key]) == world.openemr.effects[steps[0].key]


def test_positions_are_recorded_with_the_last_part_of_a_refused_batch(world: World) -> None:
    """An earlier part must not say that the whole batch is through."""
    events = sorted((event(clinic.patient()) for _ in range(4)), key=lambda one: one.key.entity_id)
    world.openemr.refused.add(events[3].key)
    positions = [StreamPosition("emrsync.patient", 0, 4)]
    # The whole batch, its second half and the guilty one are refused; what is committed: first half, third, guilty.
    world.faults.plan("target.commit", None, None, TransientError("gone"))

    with pytest.raises(TransientError):
        world.apply(*events, positions=positions)
    assert {} == world.openemr.positions

    world.apply(*events, positions=positions)
    assert {("emrsync.patient", 0): 4} == world.openemr.positions


def test_a_batch_without_events_still_records_its_positions(world: World) -> None:
    """All of its records were parked as dead letters."""
    assert [] == world.apply(positions=[StreamPosition("emrsync.patient", 0, 4)])
    assert {("emrsync.patient", 0): 4} == world.openemr.positions


def test_a_lost_race_is_run_again(world: World) -> None:
    """The loser sees the winner's rows then."""
    created = event(clinic.patient())
    world.faults.plan("target.write", *[RaceError("lost")] * (RACES_MAX - 1))

    assert [Applied()] == world.apply(created)


def test_races_end_after_a_stated_number(world: World) -> None:
    """As an error that decides nothing about any event."""
    world.faults.plan("target.write", *[RaceError("lost")] * RACES_MAX)

    with pytest.raises(TransientError, match="5 races"):
        world.apply(event(clinic.patient()))
    assert {} == world.openemr.applied


def test_a_race_that_is_met_again_is_the_failure_that_it_names(world: World) -> None:
    """The row is there without the ledger knowing; its neighbours are applied."""
    taken = Failed(ErrorClass.CONFLICT, "patient_data.uuid: is taken")
    first, second = sorted((event(clinic.patient()) for _ in range(2)), key=lambda one: one.key.entity_id)
    # The two together twice, then the first alone twice.
    world.faults.plan("target.write", *[RaceError("lost", taken)] * 4)

    assert [taken, Applied()] == world.apply(first, second)


def test_a_race_that_is_over_at_the_second_look_is_no_failure(world: World) -> None:
    """The other member has committed by then."""
    world.faults.plan("target.write", RaceError("lost", Failed(ErrorClass.CONFLICT, "patient_data.uuid: is taken")))

    assert [Applied()] == world.apply(event(clinic.patient()))


def test_a_race_while_a_failure_is_recorded_is_a_transient_error(world: World) -> None:
    """The callers know no other; the same call may be repeated."""
    guilty = event(clinic.patient())
    world.openemr.refused.add(guilty.key)
    world.faults.plan("target.record", RaceError("deadlock"))

    with pytest.raises(TransientError):
        world.apply(guilty)
    assert [Failed(ErrorClass.REFUSED, "patient: is out of range")] == world.apply(guilty)


def test_a_transient_error_decides_nothing(world: World) -> None:
    """The same call may be repeated."""
    created = event(clinic.patient())
    world.faults.plan("target.commit", TransientError("gone"))

    with pytest.raises(TransientError):
        world.apply(created)
    assert [Applied()] == world.apply(created)


def test_an_unknown_payload_version_fails_and_names_it(world: World) -> None:
    """A newer application; this consumer would misread it."""
    message = "payload_version: 2 of patient is not known to this consumer"

    assert [Failed(ErrorClass.UNKNOWN_VERSION, message)] == world.apply(event(clinic.patient(), payload_version=2))


def test_a_payload_of_another_entity_than_the_key_fails(world: World) -> None:
    """Else one patient's row would get another's content."""
    message = "patient_id: differs from the row's entity_id"
    key = EntityKey(EntityType.PATIENT, "P-other")

    outcomes = world.apply(event(clinic.patient(), key=key))

    assert [Failed(ErrorClass.INVALID_PAYLOAD, message)] == outcomes


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"null", b"\xff", b'{"patient_id": "P-1"}', b'"' + b"x" * 99])
def test_a_payload_that_cannot_be_read_fails(world: World, payload: bytes) -> None:
    """In words of ours."""
    [outcome] = world.apply(event(payload, key=EntityKey(EntityType.PATIENT, "P-1")))

    assert isinstance(outcome, Failed)
    assert ErrorClass.INVALID_PAYLOAD is outcome.error_class


def test_a_delete_needs_no_readable_payload(world: World) -> None:
    """The key says what is to go."""
    created = event(clinic.patient())
    world.apply(created)

    assert [Applied()] == world.apply(event(b"no JSON", DELETE, key=created.key, payload_version=9))
    assert not world.openemr.mapped[created.key].alive


def test_a_fault_of_ours_fails_its_event_and_holds_up_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the place, not what was in hand there."""
    broken, sound = event(clinic.patient()), event(clinic.patient())
    draft = world.target.draft

    def faulty(one: Event, payload: AnyPayload) -> Draft | Failed:
        if one is broken:
            raise KeyError(clinic.FAMILY_NAME)
        return draft(one, payload)

    monkeypatch.setattr(world.target, "draft", faulty)
    failed, applied = world.apply(broken, sound)

    assert isinstance(failed, Failed)
    assert ErrorClass.INTERNAL is failed.error_class
    assert "a fault of emrsync: KeyError in test_apply.py line " in failed.message
    assert clinic.FAMILY_NAME not in failed.message
    assert Applied() == applied


def test_drafts_of_a_target_that_changed_are_made_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenEMR was upgraded under a running writer; the writer has looked again."""
    created = event(clinic.patient())
    drafted: list[Event] = []
    draft = world.target.draft

    def counted(one: Event, payload: AnyPayload) -> Draft | Failed:
        drafted.append(one)
        return draft(one, payload)

    monkeypatch.setattr(world.target, "draft", counted)
    world.faults.plan("target.begin", OutdatedError("a column is gone"))

    assert [Applied()] == world.apply(created)
    assert [created, created] == drafted


def test_a_target_that_keeps_changing_is_tried_again_later(world: World) -> None:
    """Nothing was decided about the event."""
    world.faults.plan("target.begin", *[OutdatedError("a column is gone")] * DRAFTS_MAX)

    with pytest.raises(OutdatedError):
        world.apply(event(clinic.patient()))
