"""Two workers behind a password: one dies, hangs or is restarted, a connection dies in silence, and nothing is lost."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from confluent_kafka import Consumer, Producer, TopicPartition

import connectors.migrations
from connectors.connect_client import ConnectClient
from connectors.connect_errors import ConnectError, ConnectForbiddenError, WatchGaveUpError
from connectors.connect_watch import WatchAction, WatchEvent, WatchPolicy, watch
from operations.config import OperationsSettings
from operations.connect import connect_client
from operations.connector_health import FlowLook, read_health
from operations.connector_plan import read_plan
from operations.connector_removal import remove, reset_offsets, stop
from operations.flow import FlowReader
from operations.kafka import KafkaAdmin
from operations.provision import Choices, provision
from operations.source_log import SlotReader
from operations.topic_check import WORKER_TOPICS
from stack import Stack
from stack.ports import LOOPBACK
from tests.e2e.members import wait_for
from tests.scraping import free_port, scraped, value

LOG = logging.getLogger(__name__)

TAKEOVER_LIMIT_S = 30.0
"""What docs/connect.md states for a killed worker."""

REVIVAL_LIMIT_S = 60.0
"""From the first row that does not come to its record."""

RESUMPTION_LIMIT_S = 120.0
"""A minute of running and flowing, and the start before it."""

SLOT_LIMIT_S = 60.0
"""Three heartbeats, and the server's own note of running transactions every 15 s."""

SLOT_KEPT_MAX = 8 * 1024**2
"""Of the 64 MiB that the test writes."""

_MESSAGE = "pg_logical_emit_message(false, 'x', repeat('x', 1048576))"

_INSERT = """
INSERT INTO sync_outbox (entity_type, entity_id, operation, target_system, payload)
SELECT 'patient', 'P-' || number, 'create', 'openemr', '{}' FROM generate_series(1, :rows) AS number
RETURNING outbox_id"""


class Site:
    """The servers, and the settings that an operator has for them."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.variables = {name: value for name, value in stack.env().items() if "OPENEMR" not in name}
        self.settings = OperationsSettings.of(self.variables)
        self.kafka = self.variables["EMRSYNC_KAFKA_BOOTSTRAP_SERVERS"]
        self.engine = sa.create_engine(self.variables["EMRSYNC_SOURCE_ADMIN_URL"], poolclass=sa.NullPool)

    def client(self) -> ConnectClient:
        """Give a client with user and password, and both workers."""
        return connect_client(self.settings, retry_limit_s=30.0)

    def insert(self, rows: int = 1) -> set[str]:
        """Commit so many rows, and return their ids."""
        with self.engine.begin() as connection:
            return {str(one) for one in connection.scalars(sa.text(_INSERT), {"rows": rows})}

    def holder(self) -> str:
        """Name the worker that has the task."""
        with self.client() as client:
            worker = client.status(self.settings.connector_name).tasks[0].worker
        return next(one.name for one in self.stack.status() if worker.endswith(f":{one.port}"))

    def pid(self, name: str) -> int:
        """Give the process of a program."""
        return next(one.pid for one in self.stack.status() if one.name == name)


class Tail:
    """Reads the records of all patients, from its making on."""

    def __init__(self, site: Site) -> None:
        self._consumer = Consumer({"bootstrap.servers": site.kafka, "group.id": "tail", "enable.auto.commit": False})
        partitions = [TopicPartition("emrsync.patient", number) for number in range(6)]
        for one in partitions:
            one.offset = self._consumer.get_watermark_offsets(one)[1]
        self._consumer.assign(partitions)
        self.came: list[str] = []

    def until(self, wanted: set[str], limit_s: float) -> float:
        """Wait until all of these have come, and return the seconds it took."""
        began_s = time.monotonic()
        missing = wanted - set(self.came)
        while missing:
            waited_s = time.monotonic() - began_s
            assert waited_s < limit_s, f"{len(missing)} of {len(wanted)} rows have no record after {limit_s:.0f} s"
            for message in self._consumer.consume(500, 0.1):
                # The client's own annotation knows neither.
                headers: dict[str, Any] = dict(message.headers() or [])
                self.came.append(headers["id"].decode())
            missing -= set(self.came)
        return time.monotonic() - began_s

    def close(self) -> None:
        """Leave the brokers."""
        self._consumer.close()


class Hanging:
    """A way to the database whose connections can be made to die in silence: held open, and nothing passes."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._frozen: list[threading.Event] = []
        self._server = socket.create_server((LOOPBACK, 0))
        self._sockets = [self._server]
        self.port: int = self._server.getsockname()[1]
        self._threads = [_in_thread(self._accept)]

    def freeze(self) -> None:
        """Let nothing pass on the connections of now; new ones work."""
        for frozen in self._frozen:
            frozen.set()

    def close(self) -> None:
        """End every connection."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._server.accept()
                there = socket.create_connection((LOOPBACK, self._target))
                frozen = threading.Event()
                self._frozen.append(frozen)
                self._sockets += [here, there]
                for one, other in ((here, there), (there, here)):
                    self._threads.append(_in_thread(functools.partial(self._pass, one, other, frozen)))

    @staticmethod
    def _pass(one: socket.socket, other: socket.socket, frozen: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while read := one.recv(65536):
                if frozen.is_set():
                    return  # not even the end of a connection is passed on
                other.sendall(read)
        if not frozen.is_set():
            for end in (one, other):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Give source, broker and two workers that ask who is there, provisioned."""
    with tempfile.TemporaryDirectory(prefix="emrsync-test-") as folder:
        stack = Stack(Path(folder) / "home")
        try:
            stack.up(services=("postgresql", "connect"), workers=2, connect_auth=True)
            one = Site(stack)
            provision(one.settings, Choices(), report=LOG.info)
            yield one
        finally:
            stack.down(purge=True)


@pytest.fixture
def tail(site: Site) -> Iterator[Tail]:
    """Give a reader, and both workers up with a connector that runs, whatever the test before did."""
    for name in ("connect-1", "connect-2"):
        site.stack.start(name)
    with site.client() as client:
        client.apply(site.settings.connector_name, read_plan(site.settings, client).wanted)
    one = Tail(site)
    yield one
    one.close()


def test_the_interface_asks_who_is_there_and_all_commands_work_behind_it(site: Site) -> None:
    """Also what one worker passes on to the other; the tests of a single worker show it without a password."""
    addresses = site.variables["EMRSYNC_CONNECT_URL"].split(",")
    answers = [httpx.get(f"{url}/connectors", trust_env=False).status_code for url in addresses]
    wrong = [httpx.get(f"{url}/connectors", auth=("emrsync", "x"), trust_env=False).status_code for url in addresses]

    assert (answers, wrong) == ([401, 401], [401, 401])
    with ConnectClient(addresses[0]) as stranger, pytest.raises(ConnectForbiddenError, match="EMRSYNC_CONNECT_USER"):
        stranger.names()
    for url in addresses:
        settings = OperationsSettings.of({**site.variables, "EMRSYNC_CONNECT_URL": url})
        with connect_client(settings, retry_limit_s=30.0) as client:
            assert client.names() == (settings.connector_name,)
            client.restart(settings.connector_name, only_failed=False)
            assert client.wait_running(settings.connector_name).running


def test_a_fresh_site_is_as_planned_and_the_workers_topics_are_kept_for_ever(site: Site, tail: Tail) -> None:
    """Nothing to do, nothing found; a changed topic is."""
    tail.until(site.insert(), TAKEOVER_LIMIT_S)
    admin = KafkaAdmin(site.kafka)
    with site.client() as client:
        plan, health = read_plan(site.settings, client), read_health(site.settings, client)
        wants_three = OperationsSettings.of({**site.variables, "EMRSYNC_KAFKA_PARTITIONS": "3"})
        drift = read_plan(wants_three, client).drift

    kept = admin.described(WORKER_TOPICS)
    assert plan.nothing_to_do
    assert health.findings == ()
    assert {name: (one["cleanup.policy"], one["partitions"]) for name, one in kept.items()} == {
        "emrsync-connect-configs": ("compact", "1"),
        "emrsync-connect-offsets": ("compact", "4"),
        "emrsync-connect-status": ("compact", "2"),
    }
    assert str(drift[0]) == "topic emrsync.patient: partitions is 6, not 3"


def test_a_password_can_come_from_a_file_of_the_workers_secrets_folder(site: Site, tail: Tail) -> None:
    """And from no other folder."""
    with site.client() as client:
        wanted = read_plan(site.settings, client).wanted
        inside = site.stack.layout.service_data() / "connect-secrets" / "cdc.properties"
        outside = site.stack.layout.service_data() / "cdc.properties"
        for path in (inside, outside):
            path.write_text(f"cdc={site.variables['EMRSYNC_CDC_PASSWORD']}\n", encoding="utf-8")
            path.chmod(0o644)

        client.apply(site.settings.connector_name, {**wanted, "database.password": f"${{file:{inside}:cdc}}"})

        tail.until(site.insert(), TAKEOVER_LIMIT_S)
        with pytest.raises(ConnectError):
            client.apply(site.settings.connector_name, {**wanted, "database.password": f"${{file:{outside}:cdc}}"})


def test_a_killed_workers_task_moves_and_nothing_is_lost(site: Site, tail: Tail) -> None:
    """Rows go on being committed meanwhile; what was in hand may come twice."""
    holder = site.holder()
    ids = site.insert(200)
    site.stack.kill(holder)
    ids |= site.insert(200)

    took_s = tail.until(ids, TAKEOVER_LIMIT_S)

    LOG.info("a killed worker's task moved in %.1f s", took_s)
    assert site.holder() != holder


def test_a_rolling_restart_loses_nothing(site: Site, tail: Tail) -> None:
    """Each worker hands its task over, and takes part again."""
    ids: set[str] = set()
    for name in ("connect-1", "connect-2"):
        site.stack.stop(name)
        ids |= site.insert(50)
        took_s = tail.until(ids, TAKEOVER_LIMIT_S)
        LOG.info("after the stop of %s events flowed within %.1f s", name, took_s)
        site.stack.start(name)

    with site.client() as client:
        assert client.wait_running(site.settings.connector_name).running


def test_a_hanging_workers_task_moves_and_nothing_is_lost(site: Site, tail: Tail) -> None:
    """Its connection still holds the slot, until the server gives it up; a client passes over the hanging worker."""
    holder = site.holder()
    pid = site.pid(holder)
    os.kill(pid, signal.SIGSTOP)
    try:
        took_s = tail.until(site.insert(200), REVIVAL_LIMIT_S)
        with site.client() as client:
            worker = client.status(site.settings.connector_name).tasks[0].worker
    finally:
        os.kill(pid, signal.SIGCONT)

    LOG.info("a hanging worker's task moved in %.1f s", took_s)
    port = next(one.port for one in site.stack.status() if one.name == holder)
    assert not worker.endswith(f":{port}")


def test_a_task_that_runs_and_moves_nothing_is_revived_by_the_watch(site: Site, tail: Tail) -> None:
    """The connection to the database died in silence: the state stays RUNNING, and heartbeats go on."""
    way = Hanging(int(site.variables["EMRSYNC_CDC_PORT"]))
    settings = OperationsSettings.of({**site.variables, "EMRSYNC_CDC_PORT": str(way.port)})
    told: list[WatchEvent] = []
    over = threading.Event()
    with site.client() as client, site.client() as watching:
        client.apply(settings.connector_name, read_plan(settings, client).wanted)
        tail.until(site.insert(), TAKEOVER_LIMIT_S)
        watcher = _in_thread(
            lambda: watch(
                watching,
                settings.connector_name,
                report=told.append,
                look=FlowLook(settings, watching),
                stopped=over.is_set,
            )
        )
        try:
            way.freeze()
            took_s = tail.until(site.insert(3), REVIVAL_LIMIT_S)
            while_stalled = [event for event in told if event.action is WatchAction.NOT_RUNNING]
        finally:
            over.set()
            watcher.join()
            way.close()

    LOG.info("a stalled task was revived in %.1f s", took_s)
    restarts = [event for event in told if event.action is WatchAction.RESTARTED]
    assert len(restarts) == 1
    assert restarts[0].text.startswith("it runs and moves nothing: the patient of seq ")
    assert while_stalled == [] or told.index(while_stalled[0]) > told.index(restarts[0])


def test_a_slot_moves_on_while_only_another_database_writes_and_a_restart_sends_nothing_again(
    site: Site, tail: Tail
) -> None:
    """The slot sees nothing of other databases; its position and that of the connector must not part."""
    ids = site.insert(5)
    tail.until(ids, TAKEOVER_LIMIT_S)
    with site.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("CREATE DATABASE other")
    other = sa.create_engine(site.engine.url.set(database="other"), poolclass=sa.NullPool)
    with other.begin() as connection:
        connection.exec_driver_sql(f"SELECT {_MESSAGE} FROM generate_series(1, 64)")
    deadline_s = time.monotonic() + SLOT_LIMIT_S
    while (kept := _retained(site)) > SLOT_KEPT_MAX:
        assert time.monotonic() < deadline_s, f"{kept} bytes are kept for a slot that has been read"
        time.sleep(0.5)

    with site.client() as client:
        client.restart(site.settings.connector_name, only_failed=False)
        client.wait_running(site.settings.connector_name)
    last = site.insert()
    tail.until(last, TAKEOVER_LIMIT_S)

    assert sorted(tail.came) == sorted(ids | last)


def test_forgotten_positions_send_what_is_not_done_and_nothing_else(site: Site, tail: Tail) -> None:
    """In order of seq; the slot stays where it was."""
    done, unfinished = site.insert(5), site.insert(3)
    tail.until(done | unfinished, TAKEOVER_LIMIT_S)
    with site.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE sync_outbox SET status = 'done'")
        marked = sa.text("UPDATE sync_outbox SET status = 'pending' WHERE outbox_id::text = ANY(:ids)")
        connection.execute(marked, {"ids": sorted(unfinished)})
    tail.came.clear()
    said: list[str] = []

    with site.client() as client:
        reset_offsets(site.settings, client, report=said.append)
        last = site.insert()
        tail.until(unfinished | last, TAKEOVER_LIMIT_S)

    assert set(tail.came) == unfinished | last
    assert said == ["connector emrsync-outbox: stopped", "connector emrsync-outbox: positions forgotten"]


def test_rows_of_a_time_without_publication_come_by_a_snapshot(site: Site, tail: Tail) -> None:
    """The running slot never gives them: PostgreSQL decodes with the catalogue of their time."""
    with site.engine.begin() as connection:
        connection.exec_driver_sql("DROP PUBLICATION emrsync")
    ids = site.insert(2)
    connectors.migrations.upgrade(site.variables["EMRSYNC_SOURCE_ADMIN_URL"])

    with site.client() as client:
        reset_offsets(site.settings, client, report=LOG.info)

    tail.until(ids, TAKEOVER_LIMIT_S)


def test_a_lost_slot_is_named_with_its_cure_which_sends_what_is_not_done(site: Site, tail: Tail) -> None:
    """The source threw away what nobody had read; the task shows no state, and a restart would change nothing."""
    with site.client() as client:
        stop(client, site.settings.connector_name)
        ids = site.insert(2)
        lose_slot(site)
        client.resume(site.settings.connector_name)

        with pytest.raises(WatchGaveUpError, match=r"slot:emrsync: .* `emrsync connector reset-offsets`"):
            watch(
                client, site.settings.connector_name, report=LOG.info, look=FlowLook(site.settings, client),
                policy=WatchPolicy(exits=True),
            )  # fmt: skip
        reset_offsets(site.settings, client, report=LOG.info)

    tail.until(ids, TAKEOVER_LIMIT_S)


def test_the_watch_of_a_lost_slot_can_be_scraped_and_resumes_after_the_recovery(
    site: Site, tail: Tail, tmp_path: Path
) -> None:
    """The command as a service runs it: a signal before the recovery would end it with 1, and afterwards with 0."""
    port = free_port()
    log = tmp_path / "watch.log"

    def shown(name: str, **labels: str) -> float | None:
        with contextlib.suppress(OSError):
            return value(scraped(port), name, **labels)
        return None

    with site.client() as client, log.open("w") as output:
        stop(client, site.settings.connector_name)
        ids = site.insert(2)
        lose_slot(site)
        client.resume(site.settings.connector_name)
        watcher = subprocess.Popen(
            [sys.executable, "-m", "operations", "connector", "watch", "--poll-s", "1", "--stall-s", "20"],
            env={**os.environ, **site.variables, "EMRSYNC_METRICS_PORT": str(port)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for(lambda: shown("emrsync_connector_given_up") == 1, REVIVAL_LIMIT_S, log.read_text)
            assert shown("emrsync_source_log_lost", reader="slot") == 1
            reset_offsets(site.settings, client, report=LOG.info)
            wait_for(lambda: shown("emrsync_connector_given_up") == 0, RESUMPTION_LIMIT_S, log.read_text)
            assert shown("emrsync_source_log_lost", reader="slot") == 0
        finally:
            watcher.terminate()
            code = watcher.wait(REVIVAL_LIMIT_S)

    tail.until(ids, TAKEOVER_LIMIT_S)
    assert (code, log.read_text().count('"gave_up"')) == (0, 1)


def test_records_of_old_rows_hide_none_that_were_sent_before_them(site: Site, tail: Tail) -> None:
    """As after a resync: a watch that begins then must not take what waits for the consumers for unsent."""
    ids = site.insert(12)
    tail.until(ids, TAKEOVER_LIMIT_S)
    old = Producer({"bootstrap.servers": site.kafka})
    for partition in range(6):
        old.produce("emrsync.patient", b"{}", key=b"old", partition=partition, headers={"id": b"old", "seq": b"1"})
    assert old.flush(REVIVAL_LIMIT_S) == 0
    age_pending_rows(site)
    reader = FlowReader(site.settings, KafkaAdmin(site.kafka))

    seen = reader.read()

    assert (seen.unsent_rows, seen.progress.unsent) == (0, None)
    with site.client() as client:
        stop(client, site.settings.connector_name)
        site.insert(2)
        age_pending_rows(site)
        without = [reader.read().unsent_rows, FlowReader(site.settings, KafkaAdmin(site.kafka)).read().unsent_rows]
        client.resume(site.settings.connector_name)
    assert without == [2, 2]


def test_a_removed_connector_leaves_nothing_that_fills_the_sources_disk(site: Site, tail: Tail) -> None:
    """No connector, no slot; and removing it again is no error."""
    tail.until(site.insert(), TAKEOVER_LIMIT_S)
    said: list[str] = []
    with site.client() as client:
        for _ in range(2):
            remove(site.settings, client, report=said.append)
        names = client.names()
    with site.engine.connect() as connection:
        slots = connection.execute(sa.text("SELECT slot_name FROM pg_replication_slots")).all()

    assert (names, slots) == ((), [])
    assert said[2:] == ["connector emrsync-outbox: there is none", "slot emrsync: there is none"]


def _retained(site: Site) -> int:
    log = SlotReader(site.settings).read(sample_s=0.0)
    assert log is not None
    return log.retained_bytes or 0


def age_pending_rows(site: Site) -> None:
    """Let rows be of a minute ago."""
    with site.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE sync_outbox SET created_at = now() - interval '1 minute' WHERE status = 'pending'"
        )


def lose_slot(site: Site) -> None:
    """Write past what PostgreSQL keeps for a slot, with a limit of 16 MB for that time."""
    with site.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'")
        connection.exec_driver_sql("SELECT pg_reload_conf()")
        for _ in range(4):
            connection.exec_driver_sql(f"SELECT {_MESSAGE} FROM generate_series(1, 16)")
            connection.exec_driver_sql("SELECT pg_switch_wal()")
        connection.exec_driver_sql("CHECKPOINT")
        connection.exec_driver_sql("ALTER SYSTEM RESET max_slot_wal_keep_size")
        connection.exec_driver_sql("SELECT pg_reload_conf()")


def _in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread
