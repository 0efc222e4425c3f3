"""What every OutboxMarker promises: in memory, and on the two kinds of source, with the marker's own rights."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pytest
import sqlalchemy as sa

from connectors.events import EntityKey, Event
from connectors.outbox import EntityType, sync_outbox
from consumer import outbox_marker
from consumer.outbox_marker import SqlOutboxMarker
from consumer.outcome import Applied, Duplicate, ErrorClass, Failed, Outcome, Stale, Waiting
from consumer.ports import OutboxMarker, Settlement, TransientError
from consumer.retry import RetryPolicy
from consumer.source_database import create_engine
from producer_app.tables import BUSINESS_TABLES, patient_cache
from tests import clinic
from tests.fakes import FakeMarker, FakeRow, FakeSource, Faults
from tests.made_events import NOON, event
from tests.sources import outbox_columns, source, utc

PROTOCOLS = (OutboxMarker,)
IMPLEMENTATIONS = {"fake": FakeMarker, "postgresql": SqlOutboxMarker, "mariadb": SqlOutboxMarker}

FAILED = Failed(ErrorClass.REFUSED, "patient_data.DOB: is out of range")
PARENT = EntityKey(EntityType.PATIENT, "P-parent")

Columns = dict[str, Any]


class System(Protocol):
    """A source, and how to look into it."""

    @property
    def marker(self) -> OutboxMarker: ...  # noqa: D102
    def write(self, one: Event) -> None: ...  # noqa: D102
    def row(self, one: Event) -> Columns: ...  # noqa: D102
    def synced(self, one: Event) -> dt.datetime | None: ...  # noqa: D102
    def hold(self, one: Event) -> None: ...  # noqa: D102
    def marker_without_source(self) -> OutboxMarker: ...  # noqa: D102


class FakeSystem:
    """In memory."""

    def __init__(self) -> None:
        self._source = FakeSource()
        self.marker: OutboxMarker = FakeMarker(self._source)

    def write(self, one: Event) -> None:
        """Insert the outbox row and its business row."""
        self._source.outbox[one.outbox_id] = FakeRow(one)

    def row(self, one: Event) -> Columns:
        """Give the outcome columns."""
        row = self._source.outbox[one.outbox_id]
        return {field.name: getattr(row, field.name) for field in dataclasses.fields(row) if field.name != "event"}

    def synced(self, one: Event) -> dt.datetime | None:
        """Give the business row's last_synced_at."""
        return self._source.last_synced_at.get(one.key)

    def hold(self, one: Event) -> None:
        """Do what a retrier's claim does."""
        self._source.outbox[one.outbox_id].status = "processing"

    def marker_without_source(self) -> OutboxMarker:
        """Give a marker whose source is away."""
        faults = Faults()
        faults.plan("marker.mark", TransientError("away"))
        return FakeMarker(self._source, faults)


class RealSystem:
    """A database with the application's tables; the marker uses an account with the marker's rights."""

    def __init__(self, url: str, marker_url: str, held: contextlib.ExitStack) -> None:
        self._marker_url = marker_url
        self._held = held
        self._engine = sa.create_engine(url)
        held.callback(self._engine.dispose)
        self.marker: OutboxMarker = self._marker(marker_url)

    def _marker(self, url: str) -> SqlOutboxMarker:
        self.marker_engine = create_engine(url)
        self._held.callback(self.marker_engine.dispose)
        return SqlOutboxMarker(self.marker_engine, RetryPolicy(), jitter=lambda: 1)

    def write(self, one: Event) -> None:
        """Insert the outbox row, and a patient's business row."""
        with self._engine.begin() as connection:
            connection.execute(sa.insert(sync_outbox), outbox_columns(one))
            if one.key.entity_type is EntityType.PATIENT:
                patient = {"patient_id": one.key.entity_id, "birth_date": NOON.date(), "state": "{}"}
                names = dict.fromkeys(("family_name", "given_name"), "x")
                times = dict.fromkeys(("created_at", "updated_at"), NOON)
                connection.execute(sa.insert(patient_cache), {**patient, **names, **times})

    def write_slowly(self, one: Event, seconds: float) -> threading.Thread:
        """Insert the outbox row, and commit it only after a while; PostgreSQL's log shows a commit before a query."""
        begun = threading.Event()

        def insert() -> None:
            with self._engine.begin() as connection:
                connection.execute(sa.insert(sync_outbox), outbox_columns(one))
                begun.set()
                time.sleep(seconds)

        writer = threading.Thread(target=insert)
        writer.start()
        assert begun.wait(10)
        return writer

    def cross(self, first: Event, second: Event) -> threading.Thread:
        """Hold the second row, and want the first one when the marker has it and waits for the second."""
        held, met = threading.Event(), threading.Event()

        def look(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
            if statement.startswith("UPDATE sync_outbox"):
                met.set()

        sa.event.listen(self.marker_engine, "after_cursor_execute", look)

        def update(connection: sa.Connection, one: Event, times: int = 1) -> None:
            where = sync_outbox.c.outbox_id == one.outbox_id
            for number in range(times):
                connection.execute(sa.update(sync_outbox).where(where).values(error_message=str(number)))

        def meet() -> None:
            with self._engine.begin() as connection:
                # PostgreSQL ends the one that waited first, MariaDB the one that changed less: the mark, both times.
                update(connection, second, times=20)
                held.set()
                # The marker has the first row, and soon waits for the second.
                assert met.wait(10)
                time.sleep(0.3)
                update(connection, first)

        other = threading.Thread(target=meet)
        other.start()
        assert held.wait(10)
        return other

    def write_before_the_look(self, one: Event) -> None:
        """Commit the outbox row when the marker looks which rows are there, after it has updated none."""
        unwritten = [one]

        def commit(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
            if unwritten and statement.startswith("SELECT sync_outbox.outbox_id, sync_outbox.status"):
                self.write(unwritten.pop())

        sa.event.listen(self.marker_engine, "before_cursor_execute", commit)

    def row(self, one: Event) -> Columns:
        """Give the outcome columns, instants with their zone."""
        names = [field.name for field in dataclasses.fields(FakeRow) if field.name != "event"]
        with self._engine.connect() as connection:
            statement = sa.select(*(sync_outbox.c[name] for name in names))
            found = connection.execute(statement.where(sync_outbox.c.outbox_id == one.outbox_id)).one()
        return {name: utc(value) for name, value in zip(names, found, strict=True)}

    def synced(self, one: Event) -> dt.datetime | None:
        """Give the business row's last_synced_at."""
        table = BUSINESS_TABLES[one.key.entity_type]
        with self._engine.connect() as connection:
            where = table.c[f"{one.key.entity_type}_id"] == one.key.entity_id
            found: dt.datetime | None = utc(connection.scalar(sa.select(table.c.last_synced_at).where(where)))
            return found

    def hold(self, one: Event) -> None:
        """Do what a retrier's claim does."""
        with self._engine.begin() as connection:
            held = sa.update(sync_outbox).where(sync_outbox.c.outbox_id == one.outbox_id).values(status="processing")
            connection.execute(held)

    def marker_without_source(self) -> OutboxMarker:
        """Give a marker whose source is away."""
        url = sa.make_url(self._marker_url).set(port=1)
        return self._marker(url.render_as_string(hide_password=False))


@contextlib.contextmanager
def errors_of(engine: sa.Engine) -> Iterator[list[str]]:
    """Note the errors of an engine for the time of a block."""
    met: list[str] = []

    def note(context: sa.engine.ExceptionContext) -> None:
        met.append(type(context.original_exception).__name__)

    sa.event.listen(engine, "handle_error", note)
    try:
        yield met
    finally:
        sa.event.remove(engine, "handle_error", note)


@pytest.fixture(scope="module")
def postgresql(source_admin_url: str) -> Iterator[tuple[str, str]]:
    """Give the URLs of a PostgreSQL source that the tests share."""
    with source(source_admin_url) as urls:
        yield urls


@pytest.fixture(scope="module")
def mariadb(openemr_admin_url: str) -> Iterator[tuple[str, str]]:
    """Give the URLs of a MariaDB source that the tests share."""
    with source(openemr_admin_url) as urls:
        yield urls


@pytest.fixture(params=IMPLEMENTATIONS)
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    """Give each implementation in turn."""
    if request.param == "fake":
        yield FakeSystem()
        return
    with contextlib.ExitStack() as held:
        url, marker_url = request.getfixturevalue(request.param)
        yield RealSystem(url, marker_url, held)


def mark(system: System, one: Event, outcome: Outcome, at: dt.datetime = NOON) -> Columns:
    """Mark one event, and give its columns."""
    system.marker.mark([Settlement(one, outcome, at)])
    return system.row(one)


def written(system: System, count: int = 1) -> Sequence[Event]:
    """Write new patients."""
    events = [event(clinic.patient()) for _ in range(count)]
    for one in events:
        system.write(one)
    return events


CLEAN: Columns = {
    "status": "done",
    "retry_count": 0,
    "next_attempt_at": None,
    "error_class": None,
    "error_message": None,
    "processed_at": NOON,
}
LATER = NOON + dt.timedelta(minutes=1)


@pytest.mark.parametrize(
    ("outcome", "word"), [(Applied(), "applied"), (Duplicate(), "duplicate"), (Stale(), "stale")], ids=str
)
def test_a_settled_event_is_done_and_says_how(system: System, outcome: Outcome, word: str) -> None:
    """With the time of the target's commit."""
    [one] = written(system)

    assert {**CLEAN, "outcome": word} == mark(system, one, outcome)


@pytest.mark.parametrize("outcome", [Stale(), Duplicate(), FAILED, Waiting(PARENT)], ids=str)
def test_what_is_done_stays_as_it_is(system: System, outcome: Outcome) -> None:
    """A repeated or late mark takes nothing back."""
    [one] = written(system)
    before = mark(system, one, Applied())

    assert before == mark(system, one, outcome, LATER)


def test_a_waiting_event_names_its_parent(system: System) -> None:
    """It is in hand, and no attempt is charged."""
    [one] = written(system)

    assert {
        "status": "processing",
        "outcome": "waiting",
        "retry_count": 0,
        "next_attempt_at": None,
        "error_class": "parent_missing",
        "error_message": "patient P-parent is not in OpenEMR yet",
        "processed_at": None,
    } == mark(system, one, Waiting(PARENT))
    assert {**CLEAN, "outcome": "applied"} == mark(system, one, Applied())


def test_a_failed_event_says_why_and_when_it_is_tried_again(system: System) -> None:
    """Each attempt's next one is later; with the largest jitter, by 30 s, 2 min, 8 min, …."""
    [one] = written(system)

    for attempts, seconds in ((1, 30), (2, 120), (3, 480)):
        assert {
            "status": "failed",
            "outcome": "failed",
            "retry_count": attempts,
            "next_attempt_at": NOON + dt.timedelta(seconds=seconds),
            "error_class": "refused",
            "error_message": "patient_data.DOB: is out of range",
            "processed_at": None,
        } == mark(system, one, FAILED)
        system.hold(one)


@pytest.mark.parametrize(
    ("outcome", "error_class"),
    [(FAILED, "refused"), (Failed(ErrorClass.CONFLICT, "patient_id: differs"), "conflict")],
    ids=["same", "other"],
)
def test_a_failure_is_charged_once_however_often_it_is_marked(
    system: System, outcome: Failed, error_class: str
) -> None:
    """Its event comes again after a crash between mark and offset: the reason may be new, the attempt is not."""
    [one] = written(system)
    before = mark(system, one, FAILED)
    changed = {"error_class": error_class, "error_message": outcome.message}

    assert {**before, **changed} == mark(system, one, outcome, LATER)


LOCKED = Failed(ErrorClass.LOCKED, "its rows are locked by someone else")


def test_an_event_whose_rows_somebody_holds_is_tried_again_soon_and_never_charged(system: System) -> None:
    """However often a retrier meets the lock; what it fails with afterwards is its first attempt."""
    [one] = written(system)

    for at in (NOON, LATER):
        assert {
            "status": "failed",
            "outcome": "failed",
            "retry_count": 0,
            "next_attempt_at": at + dt.timedelta(seconds=5),
            "error_class": "locked",
            "error_message": "its rows are locked by someone else",
            "processed_at": None,
        } == mark(system, one, LOCKED, at)
        system.hold(one)
    mark(system, one, LOCKED)
    assert ("refused", 1) == _class_and_attempts(mark(system, one, FAILED))


def test_a_lock_tells_nothing_new_of_an_event_that_has_failed_in_its_own_right(system: System) -> None:
    """Its event came again; when it is tried the next time stands in its row."""
    [one] = written(system)
    before = mark(system, one, FAILED)
    assert before == mark(system, one, LOCKED, LATER)

    system.hold(one)
    assert ("locked", 1) == _class_and_attempts(mark(system, one, LOCKED, LATER))


def test_an_overdue_event_whose_parent_came_and_whose_rows_are_held_is_tried_again(system: System) -> None:
    """It has left the waiting room."""
    [one] = written(system)
    mark(system, one, Waiting(PARENT).given_up())

    row = mark(system, one, LOCKED)
    assert ("locked", NOON + dt.timedelta(seconds=5)) == (row["error_class"], row["next_attempt_at"])


def _class_and_attempts(row: Columns) -> tuple[str, int]:
    return row["error_class"], row["retry_count"]


def test_an_overdue_event_goes_on_saying_so_and_its_first_attempt_is_charged(system: System) -> None:
    """Its event may come again, and its parent at last, when it may fail in its own right."""
    [one] = written(system)
    mark(system, one, Waiting(PARENT))
    overdue = mark(system, one, Waiting(PARENT).given_up())
    assert ("failed", "parent_missing", 1, None) == tuple(
        overdue[name] for name in ("status", "error_class", "retry_count", "next_attempt_at")
    )

    assert overdue == mark(system, one, Waiting(PARENT), LATER)
    assert overdue == mark(system, one, Waiting(PARENT).given_up(), LATER)
    failed = mark(system, one, FAILED)
    assert ("refused", 2, NOON + dt.timedelta(seconds=120)) == (
        failed["error_class"],
        failed["retry_count"],
        failed["next_attempt_at"],
    )
    assert failed == mark(system, one, FAILED, LATER)


def test_a_failed_event_that_waits_now_has_no_attempt_due(system: System) -> None:
    """Its parent was deleted meanwhile: the waiting room holds it."""
    [one] = written(system)
    mark(system, one, FAILED)

    row = mark(system, one, Waiting(PARENT))
    assert ("processing", "waiting", None, 1) == tuple(
        row[name] for name in ("status", "outcome", "next_attempt_at", "retry_count")
    )


def test_the_last_attempt_names_no_next_one(system: System) -> None:
    """A person takes over."""
    [one] = written(system)
    for _ in range(6):
        row = mark(system, one, FAILED)
        system.hold(one)

    assert (6, None) == (row["retry_count"], row["next_attempt_at"])


def test_a_conflict_is_not_tried_again(system: System) -> None:
    """A person decides."""
    [one] = written(system)
    row = mark(system, one, Failed(ErrorClass.CONFLICT, "patient_id: differs"))

    assert (1, None) == (row["retry_count"], row["next_attempt_at"])


def test_an_event_that_failed_and_was_applied_shows_no_error(system: System) -> None:
    """Only how often it was tried."""
    [one] = written(system)
    mark(system, one, FAILED)

    assert {**CLEAN, "outcome": "applied", "retry_count": 1} == mark(system, one, Applied())


def test_an_applied_event_marks_its_business_row(system: System) -> None:
    """And a duplicate does, when nothing had; others do not."""
    events = written(system, 5)
    outcomes: Sequence[Outcome] = (Applied(), Duplicate(), Stale(), FAILED, Waiting(PARENT))
    system.marker.mark([Settlement(one, outcome, NOON) for one, outcome in zip(events, outcomes, strict=True)])

    assert [NOON, NOON, None, None, None] == [system.synced(one) for one in events]


def test_a_duplicate_marks_a_business_row_that_was_synced_before_the_event_was_made_and_no_other(
    system: System,
) -> None:
    """A killed process had applied it and not marked; a replay of what was marked tells nothing new."""
    [one] = written(system)
    long_before, long_after = one.created_at - dt.timedelta(days=1), one.created_at + dt.timedelta(days=1)
    mark(system, one, Applied(), long_before)
    mark(system, one, Duplicate(), long_after)
    mark(system, one, Duplicate(), long_after + dt.timedelta(days=1))

    assert long_after == system.synced(one)


def test_the_business_row_keeps_the_newest_time(system: System) -> None:
    """A mark that comes late is older."""
    [one] = written(system)
    for at in (NOON, LATER, NOON):
        mark(system, one, Applied(), at)

    assert LATER == system.synced(one)


def test_a_batch_larger_than_one_statement_is_marked_whole(system: System) -> None:
    """With outcomes mixed, and one that this source never wrote."""
    events = written(system, 503)
    settlements = [Settlement(one, Stale() if index % 3 else Applied(), NOON) for index, one in enumerate(events)]
    system.marker.mark([*settlements, Settlement(event(clinic.patient()), Applied(), NOON)])

    assert ["applied", "stale", "stale"] * 167 + ["applied", "stale"] == [system.row(one)["outcome"] for one in events]


def test_nothing_to_mark_needs_no_source(system: System) -> None:
    """An idle chore."""
    system.marker_without_source().mark([])


def test_a_source_that_is_away_is_a_transient_error(system: System) -> None:
    """Nothing was written, and no value is told."""
    [one] = written(system)

    with pytest.raises(TransientError) as caught:
        system.marker_without_source().mark([Settlement(one, Applied(), NOON)])

    assert "pending" == system.row(one)["status"]
    assert caught.value.__cause__ is None
    assert one.key.entity_id not in str(caught.value)


@pytest.mark.parametrize("server", ["source_admin_url", "openemr_admin_url"], ids=["postgresql", "mariadb"])
def test_a_source_without_business_tables_is_marked_all_the_same(server: str, request: pytest.FixtureRequest) -> None:
    """An application that has only the outbox, as the contract allows."""
    with (
        source(request.getfixturevalue(server), business_tables=False) as (url, marker_url),
        contextlib.ExitStack() as held,
    ):
        system = RealSystem(url, marker_url, held)
        one = event(clinic.encounter("P-1"))
        system.write(one)

        assert {**CLEAN, "outcome": "applied"} == mark(system, one, Applied())


@pytest.fixture(params=["postgresql", "mariadb"])
def real(request: pytest.FixtureRequest) -> Iterator[RealSystem]:
    """Give each real source in turn."""
    with contextlib.ExitStack() as held:
        url, marker_url = request.getfixturevalue(request.param)
        yield RealSystem(url, marker_url, held)


@pytest.mark.parametrize(
    "outcome", [Applied(), Duplicate(), FAILED, Waiting(PARENT)], ids=lambda one: type(one).__name__
)
def test_a_row_whose_commit_is_not_visible_yet_is_waited_for(real: RealSystem, outcome: Outcome) -> None:
    """Its event was faster than the commit that made it; without the wait it would stay pending for ever."""
    late = dataclasses.replace(event(clinic.patient()), created_at=dt.datetime.now(dt.UTC))
    seen = dataclasses.replace(event(clinic.patient()), created_at=dt.datetime.now(dt.UTC))
    real.write(seen)
    writer = real.write_slowly(late, 0.5)

    real.marker.mark([Settlement(one, outcome, NOON) for one in (seen, late)])
    writer.join()

    assert "pending" != real.row(late)["status"]
    assert real.row(seen) == {**real.row(late), "next_attempt_at": real.row(seen)["next_attempt_at"]}


@pytest.mark.parametrize(
    "outcome", [Applied(), Duplicate(), FAILED, Waiting(PARENT)], ids=lambda one: type(one).__name__
)
def test_a_row_that_comes_into_sight_between_the_update_and_the_look_is_marked(
    real: RealSystem, outcome: Outcome
) -> None:
    """The look finds it there, and the update had not."""
    late = dataclasses.replace(event(clinic.patient()), created_at=dt.datetime.now(dt.UTC))
    real.write_before_the_look(late)

    real.marker.mark([Settlement(late, outcome, NOON)])

    assert "pending" != real.row(late)["status"]


def test_a_deadlock_with_another_writer_is_tried_again_at_once(real: RealSystem) -> None:
    """Members mark in the order of their own batches, so two of them may meet."""
    done, failed = event(clinic.patient()), event(clinic.patient())
    for one in (done, failed):
        real.write(one)
    other = real.cross(done, failed)

    with errors_of(real.marker_engine) as errors:
        real.marker.mark([Settlement(done, Applied(), NOON), Settlement(failed, FAILED, NOON)])
    other.join()

    assert ["done", "failed"] == [real.row(one)["status"] for one in (done, failed)]
    assert 1 == real.row(failed)["retry_count"]
    assert errors


def test_a_young_row_that_stays_away_holds_its_offset_and_an_old_one_does_not(
    real: RealSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The young one's commit may still hang; the old one's row was removed."""
    monkeypatch.setattr(outbox_marker, "VISIBLE_WAIT_S", 0.05)
    old = event(clinic.patient())
    young = dataclasses.replace(event(clinic.patient()), created_at=dt.datetime.now(dt.UTC))

    real.marker.mark([Settlement(old, Applied(), NOON)])
    with pytest.raises(TransientError, match=str(young.outbox_id)):
        real.marker.mark([Settlement(young, Applied(), NOON)])
