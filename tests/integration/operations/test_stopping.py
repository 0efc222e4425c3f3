"""A signal in the middle of a long command: the portion in hand is finished, and the next command explains the rest."""

from __future__ import annotations

import contextlib
import datetime as dt
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from connectors.events import Event
from connectors.outbox import sync_outbox
from operations.kafka import KafkaAdmin
from tests import clinic as made
from tests.integration.consumer.openemr.sites import Site
from tests.integration.operations.letters import LIMIT_S
from tests.integration.operations.replay_world import ReplayWorld

ROWS = 1_100
"""More than two portions of purge and sweep."""

STOPS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name)
OLD = dt.datetime.now(dt.UTC) - dt.timedelta(days=40)
WHY = ("--apply", "--why", "a drill")


@pytest.fixture
def world(world: ReplayWorld, urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> ReplayWorld:
    """Let the administrator of the source purge."""
    monkeypatch.setenv("EMRSYNC_SOURCE_ADMIN_URL", urls[0])
    return world


@pytest.fixture
def openemr_admin(openemr_admin_url: str) -> Iterator[sa.Engine]:
    """Give the administrator of OpenEMR's server."""
    engine = sa.create_engine(openemr_admin_url)
    yield engine
    engine.dispose()


@contextlib.contextmanager
def held(world: ReplayWorld, outbox_id: uuid.UUID) -> Iterator[Callable[[], bool]]:
    """Hold an outbox row, so that a command stands still at it; give whether one does."""
    waiting = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )

    def is_waited_for() -> bool:
        with world.admin.connect() as connection:
            return bool(connection.scalar(waiting))

    with world.admin.begin() as holder:
        holder.execute(sa.select(sync_outbox.c.seq).where(sync_outbox.c.outbox_id == outbox_id).with_for_update())
        yield is_waited_for


@contextlib.contextmanager
def held_table(admin: sa.Engine, site: Site, table: str) -> Iterator[Callable[[], bool]]:
    """Hold a table of the ledger, so that a command stands still at it; give whether one does."""
    waiting = sa.text("SELECT COUNT(*) FROM information_schema.processlist WHERE state LIKE 'Waiting for table%'")

    def is_waited_for() -> bool:
        with admin.connect() as connection:
            return bool(connection.scalar(waiting))

    with admin.connect() as holder:
        holder.exec_driver_sql(f"LOCK TABLES {site.ledger}.{table} WRITE")
        try:
            yield is_waited_for
        finally:
            holder.exec_driver_sql("UNLOCK TABLES")


def interrupt(running: subprocess.Popen[str], number: signal.Signals, is_there: Callable[[], bool]) -> None:
    """Send a signal when the command stands where it was held up."""
    deadline_s = time.monotonic() + LIMIT_S
    while not is_there():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline_s, "the command does not come to it"
        time.sleep(0.02)
    running.send_signal(number)
    if number is signal.SIGKILL:
        running.wait(LIMIT_S)


def actions(site: Site, command: str) -> list[tuple[str, str]]:
    """Give what was noted of a command, and take it away."""
    rows = site.rows(f"SELECT action, why FROM {site.ledger}.recovery_action WHERE command = %s ORDER BY action_id",
                     command)  # fmt: skip
    site.change(f"DELETE FROM {site.ledger}.recovery_action WHERE command = %s", command)
    return [(row["action"], row["why"]) for row in rows]


def ended(running: subprocess.Popen[str], number: signal.Signals, words: str) -> None:
    """See how a command ended: by itself, with one line, or killed."""
    out, err = running.communicate(timeout=LIMIT_S)
    if number is signal.SIGKILL:
        assert running.returncode == -signal.SIGKILL
    else:
        assert (running.returncode, out.count("stopped"), words in out) == (1, 1, True), out + err


def noted(number: signal.Signals, word: str, why: str | None = "a drill") -> list[tuple[str, str | None]]:
    """Give what must have been noted, when the command goes on to its end afterwards."""
    stopped = [] if number is signal.SIGKILL else [("stopped", why)]
    return [("started", why), *stopped, ("started", why), (word, why)]


def old(world: ReplayWorld, events: list[Event], **values: object) -> None:
    """Let rows be old."""
    with world.admin.begin() as connection:
        wanted = sync_outbox.c.outbox_id.in_([one.outbox_id for one in events])
        connection.execute(sa.update(sync_outbox).where(wanted).values(created_at=OLD, **values))


def first_of_topic(world: ReplayWorld, one: Event) -> uuid.UUID:
    """Give the id of the first record of partition 0, which a purge reads first."""
    topic = world.clinic.topic(one)
    admin = KafkaAdmin(world.clinic.servers)
    first, _ = admin.kept(topic).offsets[0]
    record = next(admin.records(topic, 0, first, first + 1))
    return uuid.UUID((dict(record.headers)["id"] or b"").decode())


def count(world: ReplayWorld, status: str) -> int:
    """Count outbox rows."""
    with world.admin.connect() as connection:
        asked = sa.select(sa.func.count()).select_from(sync_outbox).where(sync_outbox.c.status == status)
        return connection.scalar(asked) or 0


@STOPS
def test_a_purge_that_is_stopped_goes_on_with_what_is_left(
    world: ReplayWorld, site: Site, number: signal.Signals
) -> None:
    """It stands in its first portion when the signal comes."""
    events = world.happened(*(made.patient() for _ in range(ROWS)))
    old(world, events, processed_at=OLD)

    with world.process("purge", *WHY) as running:
        with held(world, first_of_topic(world, events[0])) as is_waited_for:
            interrupt(running, number, is_waited_for)
        ended(running, number, "the same command goes on with what is left")

    left = count(world, "done")
    assert (left == ROWS) if number is signal.SIGKILL else (0 < left < ROWS)
    removed = world.json("purge", *WHY)
    assert (left, 0, False) == (removed["rows"], removed["kept"], removed["stopped"])
    assert noted(number, "removed") == actions(site, "purge")


@STOPS
def test_a_sweep_that_is_stopped_goes_on_with_what_is_left(
    world: ReplayWorld, site: Site, number: signal.Signals
) -> None:
    """It stands at its first mark, with the rows applied, when the signal comes."""
    lost = world.write(*(made.patient() for _ in range(ROWS)))
    old(world, lost)
    world.happened(made.patient())

    with world.process("sweep", *WHY) as running:
        with held(world, lost[0].outbox_id) as is_waited_for:
            interrupt(running, number, is_waited_for)
        ended(running, number, "the same command goes on with what is left")

    left = world.json("sweep")["counts"]
    marked = 0 if number is signal.SIGKILL else 500
    assert ROWS - marked == sum(left.values()) == count(world, "pending")
    assert (500 if number is signal.SIGKILL else 0) == left.get("unmarked", 0)
    world.json("sweep", *WHY)
    assert (0, ROWS + 1) == (count(world, "pending"), count(world, "done"))
    assert noted(number, "settled") == actions(site, "sweep")


@STOPS
def test_an_archive_run_that_is_stopped_goes_on_with_what_is_left(
    world: ReplayWorld, site: Site, openemr_admin: sa.Engine, number: signal.Signals
) -> None:
    """The signal comes before its first partition; this one is finished, and the others are left."""
    world.happened(*(made.patient() for _ in range(50)))

    with world.process("archive", "run", "kept") as running:
        with held_table(openemr_admin, site, "recovery_action") as is_waited_for:
            interrupt(running, number, is_waited_for)
        ended(running, number, "the same command goes on with the others")

    rest = world.json("archive", "run", "kept")["records"]
    assert (rest == 50) if number is signal.SIGKILL else (0 < rest < 50)
    assert {"records": 50, "faults": [], "stopped": False} == world.json("archive", "verify", "kept")
    done = actions(site, "archive")
    # A killed client's row may be written after all, when the table is free again.
    assert noted(number, "archived", None)[-len(done) :] == done
    assert len(done) >= 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
@pytest.mark.parametrize("command", ["sweep", "purge"])
def test_a_look_that_is_stopped_says_so_and_has_changed_nothing(
    world: ReplayWorld, site: Site, openemr_admin: sa.Engine, command: str, number: signal.Signals
) -> None:
    """It stands where it asks the ledger."""
    old(world, world.happened(made.patient()), processed_at=OLD)
    old(world, world.write(made.patient()))

    with world.process(command) as running:
        with held_table(openemr_admin, site, "applied_event") as is_waited_for:
            interrupt(running, number, is_waited_for)
        out, err = running.communicate(timeout=LIMIT_S)

    assert (1, 1) == (running.returncode, (out + err).count("stopped")), out + err
    assert (1, 1) == (count(world, "pending"), count(world, "done"))
    assert [] == actions(site, command)
