"""What every Target promises; expectations are written by hand."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import datetime as dt
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import pytest

from connectors.events import EntityKey, Event
from connectors.outbox import EntityType, Operation
from connectors.payloads import read_payload
from consumer.drafting import Draft, Drafting
from consumer.openemr.target import OpenEmrTarget
from consumer.outcome import Applied, ErrorClass, Failed, Stale, Waiting
from consumer.ports import (
    Change,
    LockedError,
    Mapped,
    RaceError,
    RefusedError,
    RestoredError,
    StreamPosition,
    Target,
    TargetTransaction,
)
from tests import clinic
from tests.acceptance import encounter_shown, order_shown, patient_shown
from tests.fakes import Clock, FakeOpenEmr, FakeTarget
from tests.integration.consumer.openemr.sites import REFUSING, Site, installed_site, open_target
from tests.made_events import event, key_of

PROTOCOLS = (Target, TargetTransaction, Draft, Drafting)
IMPLEMENTATIONS = {"fake": FakeTarget, "openemr": OpenEmrTarget}

DELETE = Operation.DELETE


class System(Protocol):
    """One database with its ledger, and how to look into it."""

    @property
    def target(self) -> Target: ...  # noqa: D102
    def other_target(self) -> Target: ...  # noqa: D102
    def shows(self, key: EntityKey) -> bool: ...  # noqa: D102
    def position(self, topic: str, partition: int) -> int | None: ...  # noqa: D102
    def refuse(self, key: EntityKey) -> None: ...  # noqa: D102
    def held(self, key: EntityKey) -> contextlib.AbstractContextManager[None]: ...  # noqa: D102
    def now(self) -> dt.datetime: ...  # noqa: D102


class FakeSystem:
    """In memory."""

    def __init__(self) -> None:
        self._clock = Clock()
        self._openemr = FakeOpenEmr(self._clock)
        self.target = FakeTarget(self._openemr)

    def other_target(self) -> Target:
        """Give another member's target."""
        return FakeTarget(self._openemr)

    def shows(self, key: EntityKey) -> bool:
        """Tell whether OpenEMR shows the entity."""
        return key in self._openemr.rows

    def position(self, topic: str, partition: int) -> int | None:
        """Give what the ledger knows of the stream."""
        return self._openemr.positions.get((topic, partition))

    def refuse(self, key: EntityKey) -> None:
        """Let the database refuse the entity's row."""
        self._openemr.refused.add(key)

    @contextlib.contextmanager
    def held(self, key: EntityKey) -> Iterator[None]:
        """Hold an entity's row for the time of a block."""
        self._openemr.locked.add(key)
        yield
        self._openemr.locked.remove(key)

    def now(self) -> dt.datetime:
        """Give an instant after all that was done."""
        self._clock.now += dt.timedelta(seconds=1)
        return self._clock.now


class RealSystem:
    """On MariaDB."""

    def __init__(self, site: Site, held: contextlib.ExitStack) -> None:
        self._site = site
        self._held = held
        self.target: Target = site.target

    def other_target(self) -> Target:
        """Give another member's target."""
        other = open_target(self._site.writer_url, self._site.ledger)
        self._held.callback(other.close)
        return other

    def shows(self, key: EntityKey) -> bool:
        """Ask as OpenEMR's own screens do."""
        if key.entity_type is EntityType.PATIENT:
            return bool(patient_shown(self._site.clerk, key.entity_id))
        [row] = self._site.rows(
            f"SELECT uuid FROM {self._site.ledger}.entity_map WHERE (entity_type, entity_id) IN %s",
            ((key.entity_type.value, key.entity_id),),
        ) or [{"uuid": b""}]
        shown = encounter_shown if key.entity_type is EntityType.ENCOUNTER else order_shown
        return bool(shown(self._site.clerk, row["uuid"]))

    def position(self, topic: str, partition: int) -> int | None:
        """Give what the ledger knows of the stream."""
        rows = self._site.rows(
            f"SELECT next_offset FROM {self._site.ledger}.stream_position WHERE topic = %s AND partition_no = %s",
            topic,
            partition,
        )
        return int(rows[0]["next_offset"]) if rows else None

    def refuse(self, key: EntityKey) -> None:
        """Let the trigger of the site refuse the patient."""
        self._site.change("INSERT INTO refused_id VALUES (%s)", key.entity_id)

    @contextlib.contextmanager
    def held(self, key: EntityKey) -> Iterator[None]:
        """Hold a patient's row, as a clerk's transaction does."""
        with self._site.clerk.engine.connect() as clerk:
            known = f"SELECT local_id FROM {self._site.ledger}.entity_map WHERE entity_id = %s"
            [pid] = clerk.exec_driver_sql(known, (key.entity_id,)).one()
            clerk.exec_driver_sql(f"SELECT id FROM {self._site.database}.patient_data WHERE pid = {pid} FOR UPDATE")
            yield
            clerk.rollback()

    def now(self) -> dt.datetime:
        """Give an instant after all that was done."""
        return dt.datetime.now(dt.UTC)


@pytest.fixture(scope="module")
def site(openemr_admin_url: str) -> Iterator[Site]:
    """Give a site that the tests share; each uses ids of its own."""
    with installed_site(openemr_admin_url, "8.2.0-dev", *REFUSING) as one:
        yield one


@pytest.fixture(params=IMPLEMENTATIONS)
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    """Give each implementation in turn."""
    if request.param == "fake":
        yield FakeSystem()
        return
    with contextlib.ExitStack() as held:
        yield RealSystem(request.getfixturevalue("site"), held)


def draft_of(target: Target, one: Event) -> Draft:
    """Draft an event that the site can hold."""
    draft = target.draft(one, read_payload(one.key.entity_type, one.payload_version, one.payload))
    assert not isinstance(draft, Failed)
    return draft


def change_of(
    target: Target, transaction: TargetTransaction, one: Event, *, known: Mapped | str | None = "look"
) -> Change:
    """Make the change of one event, with what the ledger knows, or is said to know."""
    draft = None if one.operation is DELETE else draft_of(target, one)
    wanted = () if draft is None else draft.parents
    found = transaction.find(wanted)
    mapped = transaction.lock([one.key]).get(one.key) if isinstance(known, str) else known
    return Change(one, draft, mapped, [found[parent] for parent in wanted], fhir=False)


def write(target: Target, *events: Event) -> Mapping[EntityKey, Applied | Failed]:
    """Write events one after the other in one transaction, record what was applied, and commit."""
    outcomes: dict[EntityKey, Applied | Failed] = {}
    with target.transaction() as transaction:
        for one in events:
            outcomes |= transaction.write([change_of(target, transaction, one)])
        settled = [(one, outcome) for one in events if isinstance(outcome := outcomes[one.key], Applied)]
        transaction.record(settled, ())
        transaction.commit()
    return outcomes


def found(target: Target, key: EntityKey) -> Mapped | None:
    """Give what the ledger has of an entity."""
    with target.transaction() as transaction:
        return transaction.find([key]).get(key)


def park(target: Target, one: Event, parent: EntityKey) -> None:
    """Put an event into the waiting room."""
    with target.transaction() as transaction:
        transaction.park([(one, Waiting(parent))])
        transaction.commit()


def test_what_is_committed_is_there(system: System) -> None:
    """Row, map and settled event, for another member too."""
    created = event(clinic.patient())

    assert created.key in write(system.target, created)

    mapped = found(system.other_target(), created.key)
    assert mapped is not None
    assert (True, created.seq, None) == (mapped.alive, mapped.last_seq, mapped.deleted_at)
    assert system.shows(created.key)
    with system.other_target().transaction() as transaction:
        assert {created.outbox_id} == transaction.settled([created.outbox_id, uuid.uuid4()])


def test_a_row_that_somebody_holds_ends_the_transaction_when_the_wait_is_over(system: System) -> None:
    """Everything of it is rolled back; after the release the same is done. The wait is as long as was asked for."""
    fields = clinic.patient()
    write(system.target, event(fields))
    changed, other = event({**fields, "given_name": "Grace"}, Operation.UPDATE), event(clinic.patient())
    with system.held(changed.key):
        begun_s = time.monotonic()
        with system.target.lock_wait(1), pytest.raises(LockedError):
            write(system.target, other, changed)
        assert time.monotonic() - begun_s < 8
        assert found(system.target, other.key) is None
        with system.target.lock_wait(1):
            assert {other.key: Applied()} == write(system.target, other)

    assert {changed.key: Applied()} == write(system.target, changed)


def test_a_transaction_left_without_commit_rolls_back(system: System) -> None:
    """Nothing of it stays."""
    created = event(clinic.patient())
    with system.target.transaction() as transaction:
        transaction.write([change_of(system.target, transaction, created)])
        transaction.record([(created, Applied())], [StreamPosition("left", 0, 7)])
        transaction.park([(created, Waiting(created.key))])

    assert_nothing_of(system, created)
    assert system.position("left", 0) is None


def test_an_error_inside_a_transaction_rolls_back_and_passes(system: System) -> None:
    """Whatever the error is."""
    created = event(clinic.patient())

    def fail() -> None:
        with system.target.transaction() as transaction:
            transaction.write([change_of(system.target, transaction, created)])
            raise KeyError("ours")

    with pytest.raises(KeyError):
        fail()

    assert_nothing_of(system, created)


def assert_nothing_of(system: System, one: Event) -> None:
    """Look everywhere."""
    assert found(system.target, one.key) is None
    assert not system.shows(one.key)
    with system.target.transaction() as transaction:
        assert frozenset() == transaction.settled([one.outbox_id])
    assert [] == list(system.target.releasable(10, [one.key]))


def test_a_transaction_sees_what_it_wrote(system: System) -> None:
    """Children of the same batch need their parents."""
    created = event(clinic.patient())
    with system.target.transaction() as transaction:
        assert {} == transaction.find([created.key])
        transaction.write([change_of(system.target, transaction, created)])
        assert transaction.find([created.key])[created.key].alive


def test_lock_returns_the_entities_that_exist(system: System) -> None:
    """In whatever order they are asked for."""
    events = [event(clinic.patient()) for _ in range(3)]
    write(system.target, *events[:2])

    with system.target.transaction() as transaction:
        assert {one.key for one in events[:2]} == transaction.lock([one.key for one in reversed(events)]).keys()


def test_no_ids_and_no_keys_are_no_question(system: System) -> None:
    """An empty batch."""
    with system.target.transaction() as transaction:
        assert frozenset() == transaction.settled([])
        assert {} == transaction.lock([])
        assert {} == transaction.find([])
        transaction.record([], [])
        transaction.commit()


def test_stale_events_are_settled_too(system: System) -> None:
    """So that their next delivery is a duplicate."""
    one = event(clinic.patient())
    with system.target.transaction() as transaction:
        transaction.record([(one, Stale())], ())
        transaction.commit()

    with system.target.transaction() as transaction:
        assert {one.outbox_id} == transaction.settled([one.outbox_id])


def test_an_event_is_recorded_once(system: System) -> None:
    """The second member to do it has lost a race, and its transaction is gone."""
    one, other = event(clinic.patient()), event(clinic.patient())
    write(system.target, one)

    def record_again() -> None:
        with system.target.transaction() as transaction:
            transaction.write([change_of(system.target, transaction, other)])
            transaction.record([(other, Applied()), (one, Applied())], ())
            transaction.commit()

    with pytest.raises(RaceError):
        record_again()

    assert_nothing_of(system, other)


def test_an_entity_is_inserted_once(system: System) -> None:
    """A member that did not see the other's row loses."""
    one, again = (event(clinic.patient(patient_id=f"P-once-{id(system)}")) for _ in range(2))
    write(system.target, one)

    def insert_again() -> None:
        with system.target.transaction() as transaction:
            transaction.write([change_of(system.target, transaction, again, known=None)])
            transaction.commit()

    with pytest.raises(RaceError):
        insert_again()


def test_the_stream_s_positions_move(system: System) -> None:
    """With the transaction; back only where nothing is known, as of a topic made anew, and not by a late member."""
    topic = f"topic-{uuid.uuid4().hex}"
    for offset, reached, there in ((3, 0, 3), (7, 3, 7), (5, 3, 7), (2, 0, 2)):
        with system.target.transaction() as transaction:
            transaction.record((), [StreamPosition(topic, 0, offset, reached), StreamPosition(topic, 1, 1)])
            transaction.commit()
        assert (there, 1, None) == (system.position(topic, 0), system.position(topic, 1), system.position(topic, 2))


def test_nothing_is_written_into_a_ledger_that_was_further(system: System) -> None:
    """As after a restore: its position is an older one, or there is none; one that is as far as it was takes it."""
    topic, created = f"topic-{uuid.uuid4().hex}", event(clinic.patient())
    with system.target.transaction() as transaction:
        transaction.record((), [StreamPosition(topic, 0, 9), StreamPosition(topic, 1, 8)])
        transaction.commit()
    for reached, lasts in (((9, 9), False), ((9, 8, 1), False), ((9, 8, 0), True)):
        refused = contextlib.nullcontext() if lasts else pytest.raises(RestoredError, match="resume --from-ledger")
        with refused, system.target.transaction() as transaction:
            transaction.require([StreamPosition(topic, number, 10, offset) for number, offset in enumerate(reached)])
            transaction.write([change_of(system.target, transaction, created)])
            transaction.commit()
        assert lasts is system.shows(created.key)


def test_a_newer_state_replaces_the_older(system: System) -> None:
    """The same row, at the newer seq."""
    fields = clinic.patient()
    write(system.target, event(fields))
    updated = event({**fields, "given_name": "Grace"})
    write(system.target, updated)

    mapped = found(system.target, updated.key)
    assert mapped is not None
    assert (True, updated.seq) == (mapped.alive, mapped.last_seq)
    assert system.shows(updated.key)


def test_a_deleted_entity_is_mapped_and_not_alive(system: System) -> None:
    """Its seq keeps older events out; it can come back."""
    fields = clinic.patient()
    deleted, again = event(fields, DELETE), event(fields)
    deleted, again = (dataclasses.replace(one, seq=one.seq + 10) for one in (deleted, again))
    write(system.target, event(fields))
    write(system.target, deleted)

    mapped = found(system.target, deleted.key)
    assert mapped is not None
    assert (False, deleted.seq) == (mapped.alive, mapped.last_seq)
    assert not system.shows(deleted.key)

    write(system.target, again)
    mapped = found(system.target, deleted.key)
    assert mapped is not None
    assert (True, again.seq) == (mapped.alive, mapped.last_seq)
    assert system.shows(deleted.key)


@pytest.mark.parametrize("entity", ["patient", "encounter", "order"])
def test_a_delete_of_what_was_never_there_leaves_a_mark(system: System, entity: str) -> None:
    """Older events of it are stale from then on."""
    fields = {"patient": clinic.patient(), "encounter": clinic.encounter("P-0"), "order": clinic.order("P-0")}[entity]
    deleted = event(fields, DELETE)
    write(system.target, deleted)

    mapped = found(system.target, deleted.key)
    assert mapped is not None
    assert (False, deleted.seq) == (mapped.alive, mapped.last_seq)


def test_children_are_written_under_their_parents(system: System) -> None:
    """A patient, a visit, an order in one transaction."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    order = clinic.order(patient["patient_id"], encounter_id=visit["encounter_id"])
    events = [event(fields) for fields in (patient, visit, order)]
    write(system.target, *events)

    assert [True] * 3 == [system.shows(one.key) for one in events]


def test_an_entity_that_changes_its_patient_fails_and_stays(system: System) -> None:
    """OpenEMR's rows cannot follow."""
    one, other = clinic.patient(), clinic.patient()
    visit = clinic.encounter(one["patient_id"])
    created = event(visit)
    write(system.target, event(one), event(other), created)

    moved = event({**visit, "patient_id": other["patient_id"]})
    message = "patient_id: differs from the patient this was created for"

    assert {moved.key: Failed(ErrorClass.CONFLICT, message)} == write(system.target, moved)
    mapped = found(system.target, moved.key)
    assert mapped is not None
    assert created.seq == mapped.last_seq


def test_a_refused_row_refuses_the_transaction(system: System) -> None:
    """With the reason; the caller finds out which event it was."""
    good, bad = event(clinic.patient()), event(clinic.patient())
    system.refuse(bad.key)

    def write_both() -> None:
        with system.target.transaction() as transaction:
            transaction.write([change_of(system.target, transaction, one) for one in (good, bad)])
            transaction.commit()

    with pytest.raises(RefusedError) as caught:
        write_both()

    assert ErrorClass.REFUSED is caught.value.failure.error_class
    assert_nothing_of(system, good)
    write(system.target, good)
    assert system.shows(good.key)


def test_a_draft_names_the_parents_outermost_first(system: System) -> None:
    """A patient has none."""
    visit = clinic.encounter("P-1", encounter_id="E-1")
    patient, encounter = EntityKey(EntityType.PATIENT, "P-1"), EntityKey(EntityType.ENCOUNTER, "E-1")

    def parents(fields: Mapping[str, object]) -> list[EntityKey]:
        return list(draft_of(system.target, event(fields)).parents)

    assert [] == parents(clinic.patient())
    assert [patient] == parents(visit)
    assert [patient] == parents(clinic.order("P-1"))
    assert [patient, encounter] == parents(clinic.order("P-1", encounter_id="E-1"))


def test_a_field_that_is_too_long_for_the_site_is_named_in_the_draft(system: System) -> None:
    """At the limit it is not."""
    draft_of(system.target, event(clinic.patient(given_name="é" * 255)))
    long = event(clinic.patient(given_name="é" * 256))

    failed = system.target.draft(long, read_payload(EntityType.PATIENT, 1, long.payload))

    assert isinstance(failed, Failed)
    assert ErrorClass.TOO_LONG is failed.error_class
    assert failed.message.startswith("given_name: ")


def test_what_is_known_of_the_site_drafts_as_the_target_does_in_another_thread(system: System) -> None:
    """And stays the same object as long as nothing has changed, while its target is at work."""
    wanted = [event(clinic.patient(given_name="é" * length)) for length in (255, 256)]
    drafting = system.target.drafting()

    def drafts(by: Drafting) -> list[Draft | Failed]:
        return [by.draft(one, read_payload(EntityType.PATIENT, 1, one.payload)) for one in wanted]

    with concurrent.futures.ThreadPoolExecutor(1) as thread, system.target.transaction():
        ahead = thread.submit(drafts, drafting).result()

    assert drafts(system.target) == ahead
    assert [False, True] == [isinstance(one, Failed) for one in ahead]
    assert drafting is system.target.drafting()


def test_a_parked_event_is_released_unchanged_when_its_parent_is_there(system: System) -> None:
    """Byte by byte, and again and again until it is forgotten."""
    patient = clinic.patient()
    child = event(clinic.encounter(patient["patient_id"], reason="기침 😀 é"))
    parent = key_of(patient)
    park(system.target, child, parent)
    assert [] == list(system.target.releasable(10, [parent]))

    write(system.target, event(patient))

    assert [child] == list(system.target.releasable(10, [parent]))
    assert child in system.other_target().releasable(1_000, None)
    system.target.forget([child.outbox_id, uuid.uuid4()])
    assert [] == list(system.target.releasable(10, [parent]))


def test_a_deleted_parent_releases_nothing(system: System) -> None:
    """Until it comes back."""
    patient = clinic.patient()
    write(system.target, event(patient))
    write(system.target, event(patient, DELETE))
    park(system.target, event(clinic.encounter(patient["patient_id"])), key_of(patient))

    assert [] == list(system.target.releasable(10, [key_of(patient)]))


def test_parked_events_come_in_seq_order_and_no_more_than_asked_for(system: System) -> None:
    """Whatever the order in which they were parked."""
    patient = clinic.patient()
    children = [event(clinic.encounter(patient["patient_id"])) for _ in range(5)]
    for one in reversed(children):
        park(system.target, one, key_of(patient))
    write(system.target, event(patient))

    assert children == list(system.target.releasable(10, [key_of(patient)]))
    assert children[:2] == list(system.target.releasable(2, [key_of(patient)]))


def test_only_the_keys_asked_for_release(system: System) -> None:
    """Other parents' children are another batch's work; no keys, no events."""
    one, other = clinic.patient(), clinic.patient()
    child = event(clinic.encounter(one["patient_id"]))
    park(system.target, child, key_of(one))
    write(system.target, event(one), event(other))

    assert [] == list(system.target.releasable(10, [key_of(other)]))
    assert [] == list(system.target.releasable(10, []))
    assert [child] == list(system.target.releasable(10, [key_of(other), key_of(one)]))


def test_a_parked_event_whose_entity_has_moved_on_is_released(system: System) -> None:
    """It settles as stale; a newer one waits on."""
    visit = clinic.encounter("P-unknown")
    older, deleted, newer = event(visit), event(visit, DELETE), event(visit)
    for one in (older, newer):
        park(system.target, one, EntityKey(EntityType.PATIENT, "P-unknown"))
    write(system.target, deleted)

    assert [older] == list(system.target.releasable(10, [deleted.key]))


def test_an_event_parked_again_waits_for_its_new_parent_since_the_first_time(system: System) -> None:
    """It is one wait for the person who asks."""
    patient, other = clinic.patient(), clinic.patient()
    child = event(clinic.encounter(patient["patient_id"]))
    park(system.target, child, key_of(patient))
    between = system.now()
    park(system.target, child, key_of(other))
    write(system.target, event(patient), event(other))

    assert [] == list(system.target.releasable(10, [key_of(patient)]))
    assert [child] == list(system.target.releasable(10, [key_of(other)]))
    assert (child, Waiting(key_of(other))) in system.target.overdue(between, 1_000)


def test_what_waits_too_long_is_told_once_and_released_all_the_same(system: System) -> None:
    """With the parent that it waits for."""
    patient = clinic.patient()
    child = event(clinic.encounter(patient["patient_id"]))
    before = system.now()
    park(system.target, child, key_of(patient))

    def overdue(since: dt.datetime) -> Sequence[tuple[Event, Waiting]]:
        return [late for late in system.target.overdue(since, 1_000) if late[0] == child]

    assert [] == overdue(before - dt.timedelta(hours=1))
    assert [(child, Waiting(key_of(patient)))] == overdue(system.now())
    system.target.reported_overdue([child.outbox_id])
    assert [] == overdue(system.now())

    park(system.target, child, key_of(patient))
    assert [(child, Waiting(key_of(patient)))] == overdue(system.now())
    write(system.target, event(patient))
    assert [child] == list(system.target.releasable(10, [key_of(patient)]))
