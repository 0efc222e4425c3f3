"""Members of one group on one OpenEMR database, in the interleavings that hurt, made to happen by gates."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from connectors.events import EntityKey, Event
from connectors.outbox import Operation
from connectors.payloads import AnyPayload
from consumer.drafting import Draft, Drafting
from consumer.openemr import identifiers
from consumer.openemr.target import OpenEmrTarget
from consumer.outcome import Failed, Waiting
from consumer.ports import Settlement, TargetTransaction
from consumer.settle import settle_events
from tests import clinic
from tests.fakes import FakeMarker, FakeRow, FakeSource
from tests.integration.consumer.openemr.sites import Site, installed_site, medication, open_target
from tests.made_events import event

ANSWER_LIMIT_S = 60.0


class Gate:
    """A place where one member stops until the test lets it go on; the second pass is free."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> None:
        """Stop here."""
        self.reached.set()
        assert self.open.wait(ANSWER_LIMIT_S), "the test did not open the gate"

    def await_member(self) -> None:
        """Wait until the member stands here."""
        assert self.reached.wait(ANSWER_LIMIT_S), "no member came to the gate"


class GatedTarget:
    """A Target that does something of the test's before it commits, after that, or after it has locked."""

    def __init__(self, target: OpenEmrTarget) -> None:
        self._target = target
        self.after_lock: Callable[[], None] = _nothing
        self.before_commit: Callable[[], None] = _nothing
        self.after_commit: Callable[[], None] = _nothing

    def draft(self, one: Event, payload: AnyPayload) -> Draft | Failed:
        """See ports.Target."""
        return self._target.draft(one, payload)

    def drafting(self) -> Drafting:
        """See ports.Target."""
        return self._target.drafting()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[TargetTransaction]:
        """See ports.Target."""
        with self._target.transaction() as transaction:
            lock, commit = transaction.lock, transaction.commit

            def gated_lock(keys: Sequence[EntityKey]) -> Any:
                found = lock(keys)
                self.after_lock()
                return found

            def gated_commit() -> None:
                self._target._packet.send()  # what was written is on the server, and not committed
                self.before_commit()
                commit()

            gated: Any = transaction
            gated.lock, gated.commit = gated_lock, gated_commit
            yield gated
        self.after_commit()

    def lock_wait(self, seconds: int) -> contextlib.AbstractContextManager[None]:
        """See ports.Target."""
        return self._target.lock_wait(seconds)

    def releasable(self, limit: int, keys: Sequence[EntityKey] | None) -> Sequence[Event]:
        """See ports.Target."""
        return self._target.releasable(limit, keys)

    def forget(self, outbox_ids: Sequence[Any]) -> None:
        """See ports.Target."""
        self._target.forget(outbox_ids)

    def overdue(self, since: dt.datetime, limit: int) -> Sequence[tuple[Event, Waiting]]:
        """See ports.Target."""
        return self._target.overdue(since, limit)

    def reported_overdue(self, outbox_ids: Sequence[Any]) -> None:
        """See ports.Target."""
        self._target.reported_overdue(outbox_ids)


def _nothing() -> None:
    """Go on."""


class Group:
    """Two members on one database, each with a thread of its own, and the outbox that both mark."""

    def __init__(self, site: Site, held: contextlib.ExitStack) -> None:
        self.site = site
        self.source = FakeSource()
        self._marker = FakeMarker(self.source)
        self._threads = held.enter_context(ThreadPoolExecutor(2))
        self.members = [self._member(held), self._member(held)]

    def _member(self, held: contextlib.ExitStack) -> GatedTarget:
        target = open_target(self.site.writer_url, self.site.ledger)
        held.callback(target.close)
        return GatedTarget(target)

    def settle(self, number: int, *events: Event) -> Future[Sequence[Settlement]]:
        """Let a member settle events in its thread."""
        for one in events:
            self.source.outbox.setdefault(one.outbox_id, FakeRow(one))
        return self._threads.submit(
            settle_events, self.members[number], self._marker, events, (), clock=lambda: dt.datetime.now(dt.UTC)
        )

    def statuses(self, *events: Event) -> set[str]:
        """Give the statuses of the events' rows."""
        return {self.source.outbox[one.outbox_id].status for one in events}

    def await_lock_wait(self) -> None:
        """Wait until some transaction waits for a lock of another."""
        deadline = time.monotonic() + ANSWER_LIMIT_S
        # innodb_trx would show who waits, but from a copy that is not renewed as long as somebody keeps reading it.
        waiting = "SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'"
        while int(self.site.row(waiting)["Value"]) == 0:
            assert time.monotonic() < deadline, "nobody waits for a lock"

    def waiting(self, *events: Event) -> int:
        """Count those of the events that are in the waiting room."""
        return len(
            self.site.rows(
                f"SELECT 1 AS one FROM {self.site.ledger}.waiting_event WHERE outbox_id IN %s",
                [one.outbox_id.bytes for one in events],
            )
        )


@pytest.fixture(scope="module")
def site(openemr_admin_url: str) -> Iterator[Site]:
    """Give a site that the tests share; each uses ids of its own."""
    with installed_site(openemr_admin_url, "8.2.0-dev") as one:
        yield one


@pytest.fixture
def group(site: Site) -> Iterator[Group]:
    """Give two members."""
    with contextlib.ExitStack() as held:
        yield Group(site, held)


def answer(future: Future[Any]) -> Any:
    """Give what a member's thread comes to."""
    return future.result(ANSWER_LIMIT_S)


def words(settlements: Sequence[Settlement]) -> list[str]:
    """Name the outcomes."""
    return [type(one.outcome).__name__ for one in settlements]


def test_a_member_that_looked_before_the_other_inserted_takes_the_event_for_a_duplicate(group: Group) -> None:
    """Both have the same event, after a rebalance; the first has seen no row yet when the second commits."""
    fields = clinic.patient()
    created = event(fields)
    gate = group.members[0].after_lock = Gate()
    first = group.settle(0, created)
    gate.await_member()
    second = answer(group.settle(1, created))
    gate.open.set()

    assert (["Duplicate"], ["Applied"]) == (words(answer(first)), words(second))
    assert_one_row(group, fields)
    assert {"done"} == group.statuses(created)


def test_a_member_that_inserts_while_the_other_has_not_committed_waits_and_loses(group: Group) -> None:
    """The key decides, not who looked first."""
    fields = clinic.patient()
    created = event(fields)
    gate = group.members[0].before_commit = Gate()
    first = group.settle(0, created)
    gate.await_member()
    second = group.settle(1, created)
    group.await_lock_wait()
    gate.open.set()

    assert (["Applied"], ["Duplicate"]) == (words(answer(first)), words(answer(second)))
    assert_one_row(group, fields)


@pytest.mark.parametrize("entity", ["patient", "encounter", "order", "medication"])
def test_an_older_event_that_loses_the_race_is_stale(group: Group, entity: str) -> None:
    """One row, with the newer state, of every kind."""
    parent = clinic.patient()
    group.site.put(parent)
    fields = {
        "patient": clinic.patient(),
        "encounter": clinic.encounter(parent["patient_id"]),
        "order": clinic.order(parent["patient_id"]),
        "medication": medication(parent["patient_id"]),
    }[entity]
    older, newer = event(fields, seq=1_000_001), event(fields, Operation.UPDATE, seq=1_000_002)
    gate = group.members[0].after_lock = Gate()
    first = group.settle(0, older)
    gate.await_member()
    second = answer(group.settle(1, newer))
    gate.open.set()

    assert (["Stale"], ["Applied"]) == (words(answer(first)), words(second))
    assert_one_row(group, fields)
    assert newer.seq == group.site.mapped(fields)["last_seq"]


def test_updates_of_one_entity_by_two_members_are_applied_one_after_the_other(group: Group) -> None:
    """The second waits for the map's row, and sees the first one's seq."""
    fields = clinic.patient()
    group.site.put(fields)
    newer = event({**fields, "given_name": "Grace"}, Operation.UPDATE, seq=2_000_002)
    older = event({**fields, "given_name": "Mary"}, Operation.UPDATE, seq=2_000_001)
    gate = group.members[0].before_commit = Gate()
    first = group.settle(0, newer)
    gate.await_member()
    second = group.settle(1, older)
    group.await_lock_wait()
    gate.open.set()

    assert (["Applied"], ["Stale"]) == (words(answer(first)), words(answer(second)))
    assert "Grace" == group.site.of(fields)["fname"]


def assert_one_row(group: Group, fields: dict[str, Any]) -> None:
    """One row with the entity's uuid, and one registry row."""
    uuid = group.site.of(fields)["uuid"]
    assert 1 == group.site.value("SELECT COUNT(*) AS n FROM uuid_registry WHERE uuid = %s", uuid)


def family() -> tuple[Event, Event]:
    """Give a parent and its child."""
    patient = clinic.patient()
    return event(patient), event(clinic.encounter(patient["patient_id"]))


def assert_released(group: Group, parent: Event, child: Event) -> None:
    """Both applied once, nothing waits."""
    assert {"done"} == group.statuses(parent, child)
    assert 0 == group.waiting(child)
    assert 1 == group.site.value(
        f"SELECT COUNT(*) AS n FROM form_encounter e JOIN {group.site.ledger}.entity_map m ON m.uuid = e.uuid"
        " WHERE m.entity_id = %s",
        child.key.entity_id,
    )


def test_a_child_that_commits_after_its_parent_looked_for_children_releases_itself(group: Group) -> None:
    """The parent's member could not see it yet."""
    parent, child = family()
    gate = group.members[0].before_commit = Gate()
    waiting = group.settle(0, child)
    gate.await_member()
    assert ["Applied"] == words(answer(group.settle(1, parent)))
    gate.open.set()

    assert ["Waiting", "Applied"] == words(answer(waiting))
    assert_released(group, parent, child)


def test_a_parent_that_is_written_after_its_child_looked_for_it_releases_the_child(group: Group) -> None:
    """The child's member could not see it yet."""
    parent, child = family()
    gate = group.members[0].after_lock = Gate()
    applied = group.settle(0, parent)
    gate.await_member()
    assert ["Waiting"] == words(answer(group.settle(1, child)))
    gate.open.set()

    assert ["Applied", "Applied"] == words(answer(applied))
    assert_released(group, parent, child)


def test_a_child_whose_parent_is_written_and_not_committed_waits_for_the_commit(group: Group) -> None:
    """And is applied at the first try."""
    parent, child = family()
    gate = group.members[0].before_commit = Gate()
    applied = group.settle(0, parent)
    gate.await_member()
    following = group.settle(1, child)
    group.await_lock_wait()
    gate.open.set()

    assert (["Applied"], ["Applied"]) == (words(answer(applied)), words(answer(following)))
    assert_released(group, parent, child)


def test_two_members_that_release_the_same_child_apply_it_once(group: Group) -> None:
    """Both committed before either looked; one of them finds a duplicate or nothing."""
    parent, child = family()
    gates = [Gate(), Gate()]
    for member, gate in zip(group.members, gates, strict=True):
        member.after_commit = gate
    futures = [group.settle(0, child)]
    gates[0].await_member()
    futures.append(group.settle(1, parent))
    gates[1].await_member()
    for gate in gates:
        gate.open.set()

    outcomes = [words(answer(future)) for future in futures]
    assert 3 <= len(outcomes[0]) + len(outcomes[1]) <= 4
    assert 1 == outcomes[0][1:].count("Applied") + outcomes[1][1:].count("Applied")
    assert_released(group, parent, child)


def test_a_grandchild_is_released_when_its_two_parents_come_by_two_members(group: Group) -> None:
    """The order waits for patient and visit; the visit commits while the patient's member looks for children."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    order = event(clinic.order(patient["patient_id"], encounter_id=visit["encounter_id"]))
    answer(group.settle(0, order))
    gate = group.members[0].before_commit = Gate()
    waiting = group.settle(0, event(visit))
    gate.await_member()
    answer(group.settle(1, event(patient)))
    gate.open.set()
    answer(waiting)

    assert {"done"} == group.statuses(order)
    assert 0 == group.waiting(order)


def test_an_order_does_not_lose_its_visit_to_a_delete_in_another_member(group: Group) -> None:
    """The delete sees the order hang on the visit, and hides the visit instead of removing it."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    order = event(clinic.order(patient["patient_id"], encounter_id=visit["encounter_id"]))
    group.site.put(patient, visit)
    gate = group.members[0].before_commit = Gate()
    ordered = group.settle(0, order)
    gate.await_member()
    deleted = group.settle(1, event(visit, Operation.DELETE, seq=3_000_000))
    group.await_lock_wait()
    gate.open.set()
    answer(ordered)
    answer(deleted)

    assert group.site.mapped(visit)["local_id"] is not None


def test_members_that_write_each_others_parents_and_children_come_through(group: Group) -> None:
    """Each holds a visit of its own and needs the other's: the database ends the deadlock, and the loser goes again."""
    patient = clinic.patient()
    visits = [clinic.encounter(patient["patient_id"]) for _ in group.members]
    group.site.put(patient, *visits)
    gates = [Gate(), Gate()]
    futures = []
    for number, gate in enumerate(gates):
        group.members[number].after_lock = gate
        order = clinic.order(patient["patient_id"], encounter_id=visits[1 - number]["encounter_id"])
        updated = event({**visits[number], "reason": "cough"}, Operation.UPDATE, seq=4_000_000 + number)
        futures.append(group.settle(number, updated, event(order)))
    for gate in gates:
        gate.await_member()
    for gate in gates:
        gate.open.set()

    assert [["Applied"] * 2] * 2 == [words(answer(future)) for future in futures]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every block and lease be used up within a few patients."""
    monkeypatch.setattr(identifiers, "PID_BLOCK_SIZE", 7)
    monkeypatch.setattr(identifiers, "PID_LEASE", 3)
    monkeypatch.setattr(identifiers, "SEQUENCE_LEASE", 3)


def test_members_never_give_the_same_number_twice(group: Group, small_blocks: None) -> None:
    """Side by side, through many blocks and leases; a clerk takes numbers of the sequence in between."""
    patients = [[clinic.patient() for _ in range(60)] for _ in group.members]
    numbers_before = group.site.value("SELECT id FROM sequences")

    def work(number: int) -> set[str]:
        found: set[str] = set()
        for start in range(0, 60, 5):
            several = patients[number][start : start + 5]
            visits = [clinic.encounter(one["patient_id"]) for one in several]
            drugs = [medication(one["patient_id"]) for one in several]
            found |= set(words(settled(group, number, *(event(one) for one in (*several, *visits, *drugs)))))
        return found

    with ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(work, number) for number in (0, 1)]
        taken = [clerks_number(group.site) for _ in range(50)]
        assert [{"Applied"}] * 2 == [answer(future) for future in futures]

    ids = [one["patient_id"] for several in patients for one in several]
    assert 120 == len({row["pid"] for row in group.site.rows("SELECT pid FROM patient_data WHERE pubpid IN %s", ids)})
    given = group.site.rows(
        f"SELECT local_id FROM {group.site.ledger}.entity_map WHERE parent_id IN %s AND kind <> 'patient'", ids
    )
    numbers = [row["local_id"] for row in given] + taken
    assert 290 == len(set(numbers)) == len(numbers)
    assert min(numbers) > numbers_before
    assert max(numbers) <= group.site.value("SELECT id FROM sequences")


def settled(group: Group, number: int, *events: Event) -> Sequence[Settlement]:
    """Settle in the caller's thread, as one member."""
    return settle_events(
        group.members[number], FakeMarker(FakeSource()), events, (), clock=lambda: dt.datetime.now(dt.UTC)
    )


def clerks_number(site: Site) -> int:
    """Take a number as OpenEMR's own code does."""
    site.change("UPDATE sequences SET id = LAST_INSERT_ID(id + 1)")
    return int(site.value("SELECT LAST_INSERT_ID() AS id"))


def test_a_batch_larger_than_what_another_member_left_of_its_block_gets_its_pids(
    group: Group, small_blocks: None
) -> None:
    """One member opens a block of seven; the other waits for it, and needs nine."""
    gate = group.members[0].before_commit = Gate()
    use_up_block(group.site)
    first = group.settle(0, *(event(clinic.patient()) for _ in range(3)))
    gate.await_member()
    second = group.settle(1, *(event(clinic.patient()) for _ in range(9)))
    group.await_lock_wait()
    gate.open.set()

    assert ["Applied"] * 3 == words(answer(first))
    assert ["Applied"] * 9 == words(answer(second))
    next_id, end_id = group.site.row(
        f"SELECT next_id, end_id FROM {group.site.ledger}.id_block WHERE name = 'pid'"
    ).values()
    assert next_id <= end_id


def use_up_block(site: Site) -> None:
    """Leave nothing of the block."""
    site.change(f"UPDATE {site.ledger}.id_block SET next_id = end_id WHERE name = 'pid'")


@pytest.mark.parametrize("saves", ["before our commit", "after our commit"])
def test_a_clerk_who_read_the_highest_pid_while_we_open_a_block_saves_his_patient(group: Group, saves: str) -> None:
    """OpenEMR takes MAX(pid) + 1, without a lock; a guard is left for him, and he waits for nobody."""
    use_up_block(group.site)
    gate = group.members[0].before_commit = Gate()
    ours = group.settle(0, *(event(clinic.patient()) for _ in range(3)))
    gate.await_member()
    pid = group.site.value("SELECT MAX(pid) + 1 AS pid FROM patient_data")
    if saves == "before our commit":
        insert_clerks_patient(group.site, pid)
    gate.open.set()
    assert ["Applied"] * 3 == words(answer(ours))
    if saves == "after our commit":
        insert_clerks_patient(group.site, pid)

    following = group.site.value("SELECT MAX(pid) + 1 AS pid FROM patient_data")
    insert_clerks_patient(group.site, following)
    assert ["Applied"] * 5 == words(answer(group.settle(0, *(event(clinic.patient()) for _ in range(5)))))


def insert_clerks_patient(site: Site, pid: int) -> None:
    """Save a patient as OpenEMR's own form does."""
    assert 1 == site.change("INSERT INTO patient_data (pid, lname) VALUES (%s, 'Clerk')", pid)


def test_a_pid_that_a_clerk_takes_out_of_our_block_is_a_race_and_no_failure(group: Group) -> None:
    """An import wrote explicit pids; the next try takes others."""
    use_up_block(group.site)
    answer(group.settle(0, event(clinic.patient())))
    pid = group.site.value(f"SELECT next_id FROM {group.site.ledger}.id_block WHERE name = 'pid'")
    insert_clerks_patient(group.site, pid)

    assert ["Applied"] * 3 == words(answer(group.settle(1, *(event(clinic.patient()) for _ in range(3)))))


def test_prescriptions_ahead_of_the_sequence_are_stepped_over(group: Group) -> None:
    """OpenEMR's API lets auto_increment give out prescription ids."""
    patient = clinic.patient()
    group.site.put(patient)
    ahead = group.site.value("SELECT id + 1000 AS id FROM sequences")
    group.site.change(
        "INSERT INTO prescriptions (id, patient_id, txDate, usage_category_title, request_intent_title)"
        " VALUES (%s, 1, '2025-01-01', '', '')",
        ahead,
    )
    drugs = [medication(patient["patient_id"]) for _ in range(2)]
    assert ["Applied"] * 2 == words(answer(group.settle(0, *(event(one) for one in drugs))))

    given = [group.site.mapped(one)["local_id"] for one in drugs]
    assert min(given) > ahead
    assert max(given) <= group.site.value("SELECT id FROM sequences")
    assert clerks_number(group.site) > max(given)
