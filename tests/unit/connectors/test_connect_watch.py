"""Keeping a connector running, in a time that passes at once."""

from __future__ import annotations

import pytest

from connectors.connect_client import ConnectClient
from connectors.connect_errors import WatchGaveUpError
from connectors.connect_watch import WatchAction, WatchEvent, WatchPolicy, watch
from tests.unit.connectors.fake_connect import FakeConnect, state

RUNNING = state("RUNNING", "RUNNING")
FAILED = state("RUNNING", "FAILED", trace="java.sql.SQLException: connection lost")
POLICY = WatchPolicy(poll_s=5.0, pause_s=2.0, pause_s_max=10.0, restarts_max=4, steady_s=30.0)


def watched(fake: FakeConnect, until_s: float) -> list[WatchEvent]:
    """Watch the fake until its time is over, and return what was told."""
    told: list[WatchEvent] = []
    client = ConnectClient("http://connect", retry_limit_s=0.0, transport=fake.transport(), sleep=fake.sleep)
    watch(
        client,
        "outbox",
        report=told.append,
        policy=POLICY,
        stopped=lambda: fake.now_s >= until_s,
        sleep=fake.sleep,
        clock=fake.clock,
    )
    return told


def restarts(fake: FakeConnect) -> int:
    """Count the restarts that were asked for."""
    return sum("restart" in call for call in fake.calls)


def test_a_failed_task_is_restarted_and_what_runs_is_told_once() -> None:
    """Repeating what has not changed would hide what has."""
    fake = FakeConnect(states=[RUNNING, RUNNING, FAILED, RUNNING])

    told = watched(fake, until_s=40.0)

    assert [event.action for event in told] == [WatchAction.RUNNING, WatchAction.RESTARTED, WatchAction.RUNNING]
    assert told[1].text == "task 0 failed on w1:8083: java.sql.SQLException: connection lost"
    assert restarts(fake) == 1


def test_pauses_grow_to_their_limit() -> None:
    """Doubling, bounded."""
    assert [POLICY.pause_after_s(count) for count in (1, 2, 3, 4, 50)] == [2.0, 4.0, 8.0, 10.0, 10.0]


def test_it_gives_up_loudly_after_the_last_restart() -> None:
    """A person must look, with the cause at hand."""
    fake = FakeConnect(states=[FAILED])

    with pytest.raises(WatchGaveUpError, match=r"4 restarts did not help\.\n.*connection lost"):
        watched(fake, until_s=10_000.0)

    assert restarts(fake) == 4


def test_running_for_long_enough_makes_earlier_restarts_forgotten() -> None:
    """A failure a day must not add up."""
    fake = FakeConnect(states=[*[FAILED] * 3, *[RUNNING] * 8, *[FAILED] * 3, RUNNING])

    watched(fake, until_s=120.0)

    assert restarts(fake) == 6


def test_a_purged_binlog_is_not_restarted_as_that_cannot_help() -> None:
    """The message says what does."""
    purged = "ServerException: Could not find first log file name in binary log index file Error code: 1236"
    fake = FakeConnect(states=[state("RUNNING", "FAILED", trace=purged)])

    with pytest.raises(WatchGaveUpError, match="delete its offsets"):
        watched(fake, until_s=100.0)

    assert restarts(fake) == 0


def test_a_worker_that_is_away_is_waited_for() -> None:
    """It takes its connectors up again by itself."""
    fake = FakeConnect(states=[RUNNING], refused_connections=3)

    told = watched(fake, until_s=40.0)

    assert [event.action for event in told] == [WatchAction.UNREACHABLE, WatchAction.RUNNING]


@pytest.mark.parametrize("wrong", [{"poll_s": 0.0}, {"restarts_max": 0}, {"pause_s": 9.0, "pause_s_max": 1.0}])
def test_a_policy_that_would_spin_or_never_act_is_refused(wrong: dict[str, float]) -> None:
    """Wrong settings fail at once."""
    with pytest.raises(ValueError, match="must"):
        WatchPolicy(**wrong)  # type: ignore[arg-type]  # the point of the test
