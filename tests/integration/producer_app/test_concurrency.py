"""Two changes of one entity at the same time: the row's lock makes the order of seq the order of commits."""

from __future__ import annotations

import concurrent.futures
import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from connectors.outbox import EntityType
from producer_app import services, views
from producer_app.bootstrap import Application
from producer_app.errors import AlreadyExistsError, BusyError, DeletedError, InvalidChangeError
from producer_app.unit_of_work import UnitOfWork
from tests import clinic
from tests.integration.producer_app.conftest import Inspection, database, migrate


class HeldUnitOfWork(UnitOfWork):
    """Stops before its commit until it may go on."""

    def __init__(self, application: Application) -> None:
        super().__init__(application.engine, application.targets)
        self.arrived = threading.Event()
        self.may_commit = threading.Event()

    def commit(self) -> None:
        """Say that all is written, wait, commit."""
        self.arrived.set()
        assert self.may_commit.wait(timeout=10)
        super().commit()


@pytest.fixture(params=["postgresql", "mariadb"])
def app_url(request: pytest.FixtureRequest, source_admin_url: str, openemr_admin_url: str) -> Iterator[str]:
    """Give the URL of a new database with all tables, on one server after the other."""
    if request.param == "postgresql":
        with database(source_admin_url, request.getfixturevalue("template")) as url:
            yield url
    else:
        with database(openemr_admin_url) as url:
            migrate(url)
            yield url


@pytest.fixture
def threads() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    """Give threads for requests."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        yield pool


def overtaken(
    application: Application,
    threads: concurrent.futures.ThreadPoolExecutor,
    slow: Callable[[UnitOfWork], object],
    fast: Callable[[UnitOfWork], object],
) -> concurrent.futures.Future[object]:
    """Run slow up to its commit, start fast, see that it waits, let slow commit; return what becomes of fast."""
    held = HeldUnitOfWork(application)
    first = threads.submit(slow, held)
    assert held.arrived.wait(timeout=10)
    second = threads.submit(fast, application.unit_of_work())
    with pytest.raises(TimeoutError):
        second.result(timeout=0.3)
    held.may_commit.set()
    first.result(timeout=10)
    return second


def test_an_update_waits_for_the_one_before_it(
    application: Application, inspection: Inspection, threads: concurrent.futures.ThreadPoolExecutor
) -> None:
    """It gets its seq after the other's commit."""
    patient = clinic.patient()
    patient_id = patient["patient_id"]
    services.create_patient(application.unit_of_work(), patient)

    overtaken(
        application,
        threads,
        lambda uow: services.update_patient(uow, patient_id, {**patient, "given_name": "First"}),
        lambda uow: services.update_patient(uow, patient_id, {**patient, "given_name": "Second"}),
    ).result(timeout=10)

    names = [json.loads(row["payload"])["given_name"] for row in inspection.outbox()]
    assert names == ["Ada", "First", "Second"]
    assert views.entity_view(application.engine, EntityType.PATIENT, patient_id).state["given_name"] == "Second"


def test_an_update_that_waited_for_a_delete_is_refused(
    application: Application, inspection: Inspection, threads: concurrent.futures.ThreadPoolExecutor
) -> None:
    """It must see what was committed while it waited, not what it saw before."""
    patient = clinic.patient()
    services.create_patient(application.unit_of_work(), patient)

    update = overtaken(
        application,
        threads,
        lambda uow: services.delete_patient(uow, patient["patient_id"]),
        lambda uow: services.update_patient(uow, patient["patient_id"], patient),
    )

    with pytest.raises(DeletedError):
        update.result(timeout=10)
    assert [row["operation"] for row in inspection.outbox()] == ["create", "delete"]


def test_a_creation_that_waited_for_another_of_the_same_id_is_refused(
    application: Application, inspection: Inspection, threads: concurrent.futures.ThreadPoolExecutor
) -> None:
    """The insert is the lock of a row that is not there yet."""
    patient = clinic.patient()

    second = overtaken(
        application,
        threads,
        lambda uow: services.create_patient(uow, patient),
        lambda uow: services.create_patient(uow, patient),
    )

    with pytest.raises(AlreadyExistsError):
        second.result(timeout=10)
    assert len(inspection.outbox()) == 1


def test_an_encounter_is_not_created_while_its_patient_is_deleted(
    application: Application, threads: concurrent.futures.ThreadPoolExecutor
) -> None:
    """Else it would belong to nobody."""
    patient_id = services.create_patient(application.unit_of_work(), clinic.patient()).entity_id

    creation = overtaken(
        application,
        threads,
        lambda uow: services.delete_patient(uow, patient_id),
        lambda uow: services.create_encounter(uow, clinic.encounter(patient_id)),
    )

    with pytest.raises(InvalidChangeError, match="patient_id: no such patient"):
        creation.result(timeout=10)


def test_who_refers_to_a_patient_does_not_wait_for_others_who_do(
    application: Application, threads: concurrent.futures.ThreadPoolExecutor
) -> None:
    """Nor, on PostgreSQL, does the consumer, which sets last_synced_at meanwhile; MariaDB has no lock so weak."""
    patient_id = services.create_patient(application.unit_of_work(), clinic.patient()).entity_id
    held = HeldUnitOfWork(application)
    first = threads.submit(services.create_encounter, held, clinic.encounter(patient_id))
    assert held.arrived.wait(timeout=10)

    services.create_encounter(application.unit_of_work(), clinic.encounter(patient_id))
    if application.engine.dialect.name == "postgresql":
        with application.engine.begin() as marker:
            marker.execute(sa.text("UPDATE patient_cache SET last_synced_at = now()"))

    held.may_commit.set()
    first.result(timeout=10)


def test_waiting_for_a_row_ends_with_an_error_that_says_so(
    application: Application, threads: concurrent.futures.ThreadPoolExecutor
) -> None:
    """After the lock time-out, and without the row in the text."""
    patient = clinic.patient()
    services.create_patient(application.unit_of_work(), patient)
    held = HeldUnitOfWork(application)
    first = threads.submit(services.update_patient, held, patient["patient_id"], patient)
    assert held.arrived.wait(timeout=10)

    started = time.monotonic()
    with pytest.raises(BusyError, match="another transaction holds the row"):
        services.update_patient(application.unit_of_work(), patient["patient_id"], patient)
    waited = time.monotonic() - started

    held.may_commit.set()
    first.result(timeout=10)
    assert 1.5 < waited < 5


def test_ids_are_given_out_once_and_nobody_waits_for_a_business_transaction(
    application: Application, threads: concurrent.futures.ThreadPoolExecutor
) -> None:
    """The first creation of the year is held before its commit while forty others go through."""
    held = HeldUnitOfWork(application)
    first = threads.submit(services.create_patient, held, clinic.patient(patient_id=None))
    assert held.arrived.wait(timeout=10)

    def create(_number: int) -> str:
        return services.create_patient(application.unit_of_work(), clinic.patient(patient_id=None)).entity_id

    # With the held one, no more at a time than the pool has connections.
    with concurrent.futures.ThreadPoolExecutor(max_workers=3) as few:
        ids = list(few.map(create, range(40)))

    held.may_commit.set()
    ids.append(first.result(timeout=10).entity_id)
    assert len(set(ids)) == 41


def test_a_year_that_another_starts_between_two_statements_is_not_read_unlocked(application: Application) -> None:
    """The update finds no row, the other commits one: the number read then would be given out twice."""
    others: list[str] = []

    def start_the_year(_connection: object, _cursor: object, statement: str, *_arguments: object) -> None:
        if statement.startswith("UPDATE id_counter") and not others:
            others.append("")
            others[0] = application.unit_of_work().new_entity_id(EntityType.ORDER)

    sa.event.listen(application.engine, "after_cursor_execute", start_the_year)

    own = application.unit_of_work().new_entity_id(EntityType.ORDER)

    assert [one[-7:] for one in (*others, own)] == ["-000001", "-000002"]


def test_no_number_is_given_out_twice(application: Application) -> None:
    """Asked of the counter itself: a creation would pass over a number that is taken, and hide the fault."""

    def number(_call: int) -> str:
        return application.unit_of_work().new_entity_id(EntityType.ORDER)

    with concurrent.futures.ThreadPoolExecutor(max_workers=4) as pool:
        ids = list(pool.map(number, range(100)))

    assert len(set(ids)) == 100
    assert max(ids).endswith("-000100")
