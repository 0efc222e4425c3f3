"""What every FailedRows promises: in memory, and on the two kinds of source, with the marker's own rights."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
import uuid
from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

import pytest
import sqlalchemy as sa

from connectors.events import Event
from connectors.outbox import payload_text, sync_outbox
from consumer import failed_rows
from consumer.failed_rows import SqlFailedRows
from consumer.outcome import ErrorClass
from consumer.ports import FailedRow, FailedRows, TransientError
from consumer.source_database import create_engine
from tests import clinic
from tests.fakes import FakeFailedRows, FakeRow, FakeSource, Faults
from tests.made_events import NOON, event
from tests.sources import outbox_columns, source, utc

PROTOCOLS = (FailedRows,)
IMPLEMENTATIONS = {"fake": FakeFailedRows, "postgresql": SqlFailedRows, "mariadb": SqlFailedRows}

MINUTE = dt.timedelta(minutes=1)
HELD_UNTIL = NOON + 5 * MINUTE
LAPSED = HELD_UNTIL + MINUTE

State = tuple[str, str | None, dt.datetime | None]


class System(Protocol):
    """A source, and how to look into it."""

    @property
    def failed(self) -> FailedRows: ...  # noqa: D102
    def other(self) -> FailedRows: ...  # noqa: D102
    def write(self, row: FakeRow) -> Event: ...  # noqa: D102
    def state(self, one: Event) -> State: ...  # noqa: D102
    def without_source(self) -> FailedRows: ...  # noqa: D102


class FakeSystem:
    """In memory."""

    def __init__(self) -> None:
        self._source = FakeSource()
        self.failed: FailedRows = FakeFailedRows(self._source)

    def other(self) -> FailedRows:
        """Give another retrier's."""
        return FakeFailedRows(self._source)

    def write(self, row: FakeRow) -> Event:
        """Insert a row as it is."""
        self._source.outbox[row.event.outbox_id] = row
        return row.event

    def state(self, one: Event) -> State:
        """Give status, outcome and next attempt."""
        row = self._source.outbox[one.outbox_id]
        return row.status, row.outcome, row.next_attempt_at

    def without_source(self) -> FailedRows:
        """Give one whose source is away."""
        faults = Faults()
        for step in ("failed.claim", "failed.give_back"):
            faults.plan(step, *[TransientError("away")] * 2)
        return FakeFailedRows(self._source, faults)


class RealSystem:
    """A database with an outbox; retriers use an account with the marker's rights."""

    def __init__(self, url: str, marker_url: str, held: contextlib.ExitStack) -> None:
        self._marker_url = marker_url
        self._held = held
        self._engine = sa.create_engine(url)
        held.callback(self._engine.dispose)
        # Tests share the database, and "due" asks for all of it.
        with self._engine.begin() as connection:
            connection.execute(sa.delete(sync_outbox))
        self.failed: FailedRows = self._opened(marker_url)

    def _opened(self, url: str) -> SqlFailedRows:
        engine = create_engine(url)
        self._held.callback(engine.dispose)
        return SqlFailedRows(engine)

    def other(self) -> FailedRows:
        """Give another retrier's."""
        return self._opened(self._marker_url)

    def write(self, row: FakeRow) -> Event:
        """Insert a row as it is; the database gives its seq."""
        names = [field.name for field in dataclasses.fields(FakeRow) if field.name != "event"]
        columns = outbox_columns(row.event) | {name: getattr(row, name) for name in names}
        where = sync_outbox.c.outbox_id == row.event.outbox_id
        with self._engine.begin() as connection:
            connection.execute(sa.insert(sync_outbox), columns)
            kept = connection.execute(sa.select(sync_outbox.c.seq, payload_text.label("text")).where(where)).one()
        # PostgreSQL keeps JSON and not its text.
        return dataclasses.replace(row.event, seq=kept.seq, payload=kept.text.encode())

    def state(self, one: Event) -> State:
        """Give status, outcome and next attempt."""
        columns = sync_outbox.c.status, sync_outbox.c.outcome, sync_outbox.c.next_attempt_at
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(*columns).where(sync_outbox.c.outbox_id == one.outbox_id)).one()
        return row.status, row.outcome, utc(row.next_attempt_at)

    def without_source(self) -> FailedRows:
        """Give one whose source is away."""
        return self._opened(sa.make_url(self._marker_url).set(port=1).render_as_string(hide_password=False))


@pytest.fixture(scope="module")
def postgresql(source_admin_url: str) -> Iterator[tuple[str, str]]:
    """Give the URLs of a PostgreSQL source that the tests share."""
    with source(source_admin_url, business_tables=False) as urls:
        yield urls


@pytest.fixture(scope="module")
def mariadb(openemr_admin_url: str) -> Iterator[tuple[str, str]]:
    """Give the URLs of a MariaDB source that the tests share."""
    with source(openemr_admin_url, business_tables=False) as urls:
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


def failed(
    system: System, due_at: dt.datetime | None = NOON, error_class: str = "refused", *, one: Event | None = None
) -> Event:
    """Write a failed row."""
    return system.write(
        FakeRow(one or event(clinic.patient()), "failed", "failed", 1, due_at, error_class, "sex: is wrong")
    )


def claim_due(
    rows: FailedRows, limit: int = 10, now: dt.datetime = NOON, paused: Collection[ErrorClass] = ()
) -> Sequence[FailedRow]:
    """Take what is due."""
    return rows.claim_due(limit, now=now, held_until=now + 5 * MINUTE, paused=paused)


def claim(rows: FailedRows, *events: Event, now: dt.datetime = NOON) -> list[Event]:
    """Take these rows."""
    return [one.event for one in rows.claim([one.outbox_id for one in events], now=now, held_until=now + 5 * MINUTE)]


def events_of(rows: Sequence[FailedRow]) -> list[Event]:
    """Give the events."""
    return [one.event for one in rows]


HELD: State = ("processing", "retrying", HELD_UNTIL)


def test_a_due_row_is_taken_with_the_event_that_it_holds(system: System) -> None:
    """Whole; and it says that it is in hand."""
    fields = clinic.patient(given_name="기침 😀 é", title=None)
    one = failed(system, one=event(fields))

    [row] = claim_due(system.failed)

    assert FailedRow(one, ErrorClass.REFUSED, NOON, HELD_UNTIL) == row
    assert fields == json.loads(row.event.payload)
    assert HELD == system.state(one)


def test_what_is_due_longest_comes_first_and_no_more_than_asked_for(system: System) -> None:
    """What is not due yet stays."""
    events = [failed(system, NOON - MINUTE * minutes) for minutes in (0, 2, 1)]
    later = failed(system, NOON + MINUTE)

    assert [events[1], events[2]] == events_of(claim_due(system.failed, 2))
    assert [events[0]] == events_of(claim_due(system.failed, 2))
    assert [] == claim_due(system.failed)
    assert ("failed", "failed", NOON + MINUTE) == system.state(later)


def test_a_row_without_an_attempt_left_is_taken_only_when_it_is_chosen(system: System) -> None:
    """By a person."""
    one = failed(system, None)
    assert [] == claim_due(system.failed)

    assert [one] == claim(system.failed, one)
    assert HELD == system.state(one)


@pytest.mark.parametrize(
    ("status", "outcome", "next_attempt_at"),
    [
        ("pending", None, None),
        ("done", "applied", None),
        ("processing", "waiting", None),
        ("processing", "waiting", NOON - MINUTE),
        ("processing", "retrying", NOON + MINUTE),
    ],
)
def test_what_has_not_failed_is_never_taken(
    system: System, status: str, outcome: str | None, next_attempt_at: dt.datetime | None
) -> None:
    """Nor what waits for its parent, nor what another retrier holds."""
    one = system.write(FakeRow(event(clinic.patient()), status, outcome, 0, next_attempt_at))

    assert [] == claim_due(system.failed)
    assert [] == claim(system.failed, one)
    assert (status, outcome, next_attempt_at) == system.state(one)


def test_a_row_is_in_one_retriers_hands(system: System) -> None:
    """The other gets the rest."""
    events = [failed(system, NOON - MINUTE * minutes) for minutes in (3, 2, 1)]

    assert events[:2] == events_of(claim_due(system.failed, 2))
    assert [] == claim(system.other(), *events[:2])
    assert events[2:] == events_of(claim_due(system.other(), 2))


def test_a_killed_retriers_rows_are_free_when_their_hold_has_lapsed(system: System) -> None:
    """For what is due, and for what is chosen."""
    events = [failed(system), failed(system)]
    claim_due(system.failed)
    assert [] == claim_due(system.other(), now=HELD_UNTIL - MINUTE)
    assert [] == claim(system.other(), events[0], now=HELD_UNTIL - MINUTE)

    assert [events[0]] == claim(system.other(), events[0], now=LAPSED)
    assert [events[1]] == events_of(claim_due(system.other(), now=LAPSED))


def test_paused_classes_are_left_alone(system: System) -> None:
    """Others are not."""
    refused, unknown, odd = (failed(system, error_class=word) for word in ("refused", "unknown_option", "too_long"))

    paused = {ErrorClass.REFUSED, ErrorClass.TOO_LONG}
    assert [unknown] == events_of(claim_due(system.failed, paused=paused))
    assert {refused.outbox_id, odd.outbox_id} == {one.outbox_id for one in events_of(claim_due(system.failed))}


def test_a_row_that_is_given_back_is_failed_and_due_when_it_is_said(system: System) -> None:
    """One that was not to be tried again by itself stays so."""
    due, chosen = failed(system), failed(system, None)
    rows = system.failed.claim([due.outbox_id, chosen.outbox_id], now=NOON, held_until=HELD_UNTIL)

    system.failed.give_back(rows, due_at=NOON + MINUTE)

    assert ("failed", "failed", NOON + MINUTE) == system.state(due)
    assert ("failed", "failed", None) == system.state(chosen)


def test_only_ones_own_hold_is_given_back(system: System) -> None:
    """Another retrier took the row when the hold had lapsed, or it is done."""
    one = failed(system)
    late = claim_due(system.failed)
    claim_due(system.other(), now=LAPSED)

    system.failed.give_back(late, due_at=LAPSED)

    assert ("processing", "retrying", LAPSED + 5 * MINUTE) == system.state(one)


def test_nothing_to_take_or_give_is_no_question(system: System) -> None:
    """An empty choice."""
    assert [] == claim(system.failed)
    system.failed.give_back([], due_at=NOON)
    assert [] == claim(system.failed, event(clinic.patient()))


def test_a_source_that_is_away_is_a_transient_error(system: System) -> None:
    """For every question."""
    one = failed(system)
    away = system.without_source()
    row = FailedRow(one, None, NOON, HELD_UNTIL)

    for ask in (
        lambda: claim_due(away),
        lambda: claim(away, one),
        lambda: away.give_back([row], due_at=NOON),
    ):
        with pytest.raises(TransientError):
            ask()
    assert ("failed", "failed", NOON) == system.state(one)


@pytest.fixture(params=["postgresql", "mariadb"])
def real(request: pytest.FixtureRequest) -> Iterator[RealSystem]:
    """Give each real source in turn."""
    with contextlib.ExitStack() as held:
        url, marker_url = request.getfixturevalue(request.param)
        yield RealSystem(url, marker_url, held)


def test_rows_that_another_transaction_is_just_taking_are_skipped_and_not_waited_for(real: RealSystem) -> None:
    """Two retriers that look at the same moment share the work; no more rows are locked than are taken."""
    events = [failed(real, NOON - MINUTE * minutes) for minutes in (4, 3, 2, 1)]
    with contextlib.ExitStack() as held:
        engine = create_engine(real._marker_url)
        held.callback(engine.dispose)
        other = held.enter_context(engine.connect())
        where = sa.and_(sync_outbox.c.status == "failed", sync_outbox.c.next_attempt_at <= NOON)
        locked = failed_rows._locked(other, where, 2)
        assert [one.outbox_id for one in events[:2]] == [row.outbox_id for row in locked]

        assert events[2:] == events_of(claim_due(real.failed))
        other.rollback()
    assert events[:2] == events_of(claim_due(real.failed))


def test_payloads_that_do_not_fit_into_one_claim_are_left_for_the_next(
    real: RealSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One always fits."""
    events = [failed(real, NOON - MINUTE * minutes) for minutes in (3, 2, 1)]
    monkeypatch.setattr(failed_rows, "BYTES_MAX", 10)

    assert [[one] for one in events] == [events_of(claim_due(real.failed)) for _ in events]


def test_a_class_that_is_not_known_here_is_no_obstacle(real: RealSystem) -> None:
    """A newer consumer wrote it."""
    one = failed(real, error_class=f"new_{uuid.uuid4().hex[:8]}")

    [row] = claim_due(real.failed, paused=[ErrorClass.REFUSED])
    assert (one, None) == (row.event, row.error_class)
