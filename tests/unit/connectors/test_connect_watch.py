"""Keeping a connector running, in a time that passes at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from connectors.connect_client import ConnectClient
from connectors.connect_errors import ConnectForbiddenError, WatchGaveUpError
from connectors.connect_progress import Progress
from connectors.connect_watch import Look, WatchAction, WatchEvent, WatchPolicy, watch
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

    with pytest.raises(WatchGaveUpError, match="emrsync connector reset-offsets"):
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


def flowing(fake: FakeConnect, looks: Callable[[], Look], until_s: float) -> list[WatchEvent]:
    """Watch with a look at the flow."""
    told: list[WatchEvent] = []
    client = ConnectClient("http://connect", retry_limit_s=0.0, transport=fake.transport(), sleep=fake.sleep)
    watch(
        client, "outbox", report=told.append, look=looks, policy=POLICY, stopped=lambda: fake.now_s >= until_s,
        sleep=fake.sleep, clock=fake.clock,
    )  # fmt: skip
    return told


def test_what_runs_and_moves_nothing_is_restarted_whole_and_in_the_end_given_up() -> None:
    """A restart of what failed would leave it alone; the pauses and the end are those of failures."""
    fake = FakeConnect(states=[RUNNING])

    with pytest.raises(WatchGaveUpError, match=r"4 restarts did not help\.\nit runs and moves nothing"):
        flowing(fake, lambda: Look(Progress(1, 1, None)), until_s=10_000.0)

    asked = [call for call in fake.calls if "restart" in call]
    assert asked == ["POST /connectors/outbox/restart?includeTasks=true&onlyFailed=false"] * 4


def test_nothing_is_restarted_while_progress_cannot_be_asked() -> None:
    """A source or broker that is away is no fault of the connector."""
    fake = FakeConnect(states=[RUNNING])

    told = flowing(fake, lambda: Look(None, ("source log unknown: gone",)), until_s=300.0)

    assert restarts(fake) == 0
    assert [event.action for event in told] == [WatchAction.WARNING, WatchAction.RUNNING]


def test_an_answer_that_makes_no_sense_is_waited_out_and_a_refused_password_is_not() -> None:
    """While the workers elect another leader they answer 500; a wrong password stays wrong."""
    running = httpx.Response(200, json=RUNNING)
    answers = [httpx.Response(500, json={"message": "IO Error trying to forward"}), running, httpx.Response(401)]
    client = ConnectClient("http://connect", transport=httpx.MockTransport(lambda _: answers.pop(0)))
    told: list[WatchEvent] = []

    with pytest.raises(ConnectForbiddenError):
        watch(client, "outbox", report=told.append, policy=POLICY, sleep=lambda _: None)

    assert [event.action for event in told] == [WatchAction.UNREACHABLE, WatchAction.RUNNING]


def test_a_flow_that_came_back_makes_earlier_restarts_forgotten() -> None:
    """And the sum of all is told, for a counter."""
    fake = FakeConnect(states=[RUNNING])
    stalled = iter([*[1] * 8, *range(2, 14), *[99] * 20])

    told = flowing(fake, lambda: Look(Progress(next(stalled), 1, None)), until_s=140.0)

    counted = [(event.restarts, event.restarts_total) for event in told if event.action is WatchAction.RESTARTED]
    assert counted == [(1, 1), (1, 2)]


@pytest.mark.parametrize("seen", [RUNNING, FAILED, state("RUNNING")], ids=["running", "failed", "no task"])
def test_what_the_source_has_lost_ends_the_watch_whatever_the_states_say(seen: dict[str, Any]) -> None:
    """With a lost slot the task tries for half an hour, and shows no state meanwhile."""
    fake = FakeConnect(states=[seen])

    with pytest.raises(WatchGaveUpError, match="slot:emrsync: gone"):
        flowing(fake, lambda: Look(None, lost="slot:emrsync: gone"), until_s=100.0)

    assert restarts(fake) == 0


@pytest.mark.parametrize(
    "cause",
    [
        'PSQLException: ERROR: can no longer get changes from replication slot "emrsync"',
        'PSQLException: ERROR: cannot read from logical replication slot "emrsync"',
        "requested WAL segment 000000010000000000000001 has already been removed",
    ],
)
def test_a_lost_slot_is_not_restarted_and_its_cure_is_named(cause: str) -> None:
    """PostgreSQL's words differ by version."""
    fake = FakeConnect(states=[state("RUNNING", "FAILED", trace=cause)])

    with pytest.raises(WatchGaveUpError, match="emrsync connector reset-offsets"):
        watched(fake, until_s=100.0)

    assert restarts(fake) == 0
