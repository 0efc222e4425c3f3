"""The watch as a process: it goes on serving what it saw after it has given up, and a signal ends it at once."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from connectors.connect_client import ConnectClient
from connectors.connect_progress import Progress
from connectors.connect_watch import Look, WatchPolicy
from operations.config import OperationsSettings
from operations.connector_health import Told
from operations.flow import Flow
from operations.parts import Unavailable
from operations.source_log import SourceLog
from operations.watching import watch_until_stopped
from tests.e2e.members import wait_for
from tests.scraping import Samples, free_port, scraped, value
from tests.unit.connectors.fake_connect import FakeConnect, state

LOST = SourceLog("slot:emrsync", False, True, None, None, 10.0, None)
FLOW = Flow(Progress(heartbeats=1, records=2, unsent=None), heartbeat_age_s=3.0, unsent_rows=0, unsent_age_s=None)
POLICY = WatchPolicy(poll_s=0.05)
LIMIT_S = 8.0


@contextlib.contextmanager
def stopped_after(
    ready: Callable[[], bool], seen: list[str], number: signal.Signals = signal.SIGTERM
) -> Iterator[None]:
    """Send this process a signal once ready() holds, and note whether it ever did."""

    def stop() -> None:
        try:
            wait_for(ready, LIMIT_S, lambda: "not ready")
            seen.append("ready")
        finally:
            os.kill(os.getpid(), number)

    # A watch that has ended by itself must not leave the signal to the tests.
    before = signal.signal(number, signal.SIG_IGN)
    thread = threading.Thread(target=stop)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        signal.signal(number, before)


def client(fake: FakeConnect) -> ConnectClient:
    """Give a client of the fake."""
    return ConnectClient("http://connect", retry_limit_s=0.0, transport=fake.transport())


@pytest.fixture
def port() -> int:
    """Give a port for the metrics."""
    return free_port()


@pytest.fixture
def settings(bare: None, port: int) -> OperationsSettings:
    """Give the settings of a watch that is scraped, and whose systems are all away."""
    return OperationsSettings.read(metrics_port=port, connector_name="outbox")


def lost_look(_settings: OperationsSettings, _client: ConnectClient, told: Told | None) -> Callable[[], Look]:
    """Look at a slot that is lost."""

    def look() -> Look:
        assert told is not None
        told(FLOW, LOST)
        return Look(FLOW.progress, lost="slot:emrsync: gone")

    return look


def test_a_lost_slot_is_scraped_after_the_watch_has_given_up(
    settings: OperationsSettings, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The alerts are made of this; the signal that ends it finds a watch that has given up."""
    seen: list[str] = []
    last: list[Samples] = []

    def given_up() -> bool:
        with contextlib.suppress(OSError):
            last.append(scraped(port))
        return len(last) > 3 and value(last[-4], "emrsync_connector_given_up") == 1

    fake = FakeConnect(states=[state("RUNNING", "RUNNING")])
    with stopped_after(given_up, seen):
        gave_up = watch_until_stopped(settings, client(fake), POLICY, make_look=lost_look)

    assert (gave_up, seen) == (True, ["ready"])
    assert value(last[-1], "emrsync_source_log_lost", reader="slot") == 1
    assert not any("restart" in call for call in fake.calls)
    told = capsys.readouterr()
    assert told.out.count('"gave_up"') == 1
    assert told.err == "error: connector outbox: slot:emrsync: gone\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_in_the_middle_of_a_look(settings: OperationsSettings, number: signal.Signals) -> None:
    """Servers that do not answer hold nobody up, and the handlers of before are back."""
    began = threading.Event()

    def slow_look(_settings: OperationsSettings, _client: ConnectClient, _told: Told | None) -> Callable[[], Look]:
        def look() -> Look:
            began.set()
            time.sleep(2 * LIMIT_S)
            return Look(None)

        return look

    seen: list[str] = []
    began_s = time.monotonic()
    with stopped_after(began.is_set, seen, number):
        gave_up = watch_until_stopped(settings, client(FakeConnect()), POLICY, make_look=slow_look)
        assert signal.getsignal(number) == signal.SIG_IGN

    assert (gave_up, seen) == (False, ["ready"])
    assert time.monotonic() - began_s < LIMIT_S


def test_with_no_worker_what_is_not_known_has_no_value(settings: OperationsSettings, port: int) -> None:
    """An old heartbeat's age would look as if it flowed."""
    looks = iter([(FLOW, LOST)])

    def once(told: Told | None) -> Look:
        assert told is not None
        told(*next(looks, (Unavailable("away"), Unavailable("away"))))
        return Look(None)

    def make_look(_settings: OperationsSettings, _client: ConnectClient, told: Told | None) -> Callable[[], Look]:
        return functools.partial(once, told)

    def forgotten() -> bool:
        with contextlib.suppress(OSError):
            samples = scraped(port)
            return (
                next(looks, None) is None
                and value(samples, "emrsync_connector_given_up") == 0
                and value(samples, "emrsync_heartbeat_age_seconds") is None
                and value(samples, "emrsync_source_log_lost", reader="slot") is None
            )
        return False

    seen: list[str] = []
    with stopped_after(forgotten, seen):
        watch_until_stopped(settings, client(FakeConnect(refused_connections=10_000)), POLICY, make_look=make_look)

    assert seen == ["ready"]
