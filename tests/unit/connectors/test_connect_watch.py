"""Keeping a connector running, in a time that passes at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from connectors.connect_client import ConnectClient
from connectors.connect_errors import ConnectForbiddenError, ConnectorAbsentError, WatchGaveUpError
from connectors.connect_progress import Progress
from connectors.connect_watch import Look, WatchAction, WatchEvent, WatchPolicy, watch
from tests.unit.connectors.fake_connect import FakeConnect, state

RUNNING = state("RUNNING", "RUNNING")
FAILED = state("RUNNING", "FAILED", trace="java.sql.SQLException: connection lost")
STOPPED = state("STOPPED")
REBALANCING = httpx.Response(409, json={"message": "rebalance in progress"})
POLICY = WatchPolicy(poll_s=5.0, pause_s=2.0, pause_s_max=10.0, restarts_max=4, steady_s=30.0, stall_s=20.0)
ENDING = dataclasses.replace(POLICY, exits=True)


def watched(fake: FakeConnect, until_s: float, policy: WatchPolicy = POLICY) -> list[WatchEvent]:
    """Watch the states of the fake until its time is over, and return what was told."""
    return flowing(fake, None, until_s, policy)


def flowing(
    fake: FakeConnect, look: Callable[[], Look] | None, until_s: float, policy: WatchPolicy = POLICY
) -> list[WatchEvent]:
    """Watch with a look at the flow."""
    told: list[WatchEvent] = []
    client = ConnectClient("http://connect", retry_limit_s=0.0, transport=fake.transport(), sleep=fake.sleep)
    watch(
        client, "outbox", report=told.append, look=look, policy=policy, stopped=lambda: fake.now_s >= until_s,
        sleep=fake.sleep, clock=fake.clock,
    )  # fmt: skip
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
    assert [POLICY.pause_after_s(count) for count in (1, 2, 3, 4, 5_000)] == [2.0, 4.0, 8.0, 10.0, 10.0]


def test_it_gives_up_loudly_after_the_last_restart() -> None:
    """A person must look, with the cause at hand."""
    fake = FakeConnect(states=[FAILED])

    with pytest.raises(WatchGaveUpError, match=r"4 restarts did not help\.\n.*connection lost"):
        watched(fake, until_s=10_000.0, policy=ENDING)

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
        watched(fake, until_s=100.0, policy=ENDING)

    assert restarts(fake) == 0


def test_a_worker_that_is_away_is_waited_for() -> None:
    """It takes its connectors up again by itself."""
    fake = FakeConnect(states=[RUNNING], refused_connections=3)

    told = watched(fake, until_s=40.0)

    assert [event.action for event in told] == [WatchAction.UNREACHABLE, WatchAction.RUNNING]


@pytest.mark.parametrize(
    "wrong",
    [{"poll_s": 0.0}, {"restarts_max": 0}, {"pause_s": 9.0, "pause_s_max": 1.0}, {"stall_s": 60.0, "steady_s": 60.0}],
)
def test_a_policy_that_would_spin_or_never_act_is_refused(wrong: dict[str, float]) -> None:
    """Wrong settings fail at once."""
    with pytest.raises(ValueError, match="must"):
        WatchPolicy(**wrong)  # type: ignore[arg-type]  # the point of the test


def test_what_runs_and_moves_nothing_is_restarted_whole_and_in_the_end_given_up() -> None:
    """A restart of what failed would leave it alone; the pauses and the end are those of failures."""
    fake = FakeConnect(states=[RUNNING])

    with pytest.raises(WatchGaveUpError, match=r"4 restarts did not help\.\nit runs and moves nothing"):
        flowing(fake, lambda: Look(Progress(1, 1, None)), until_s=10_000.0, policy=ENDING)

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

    told = flowing(fake, lambda: Look(Progress(next(stalled), 1, None)), until_s=135.0)

    counted = [(event.restarts, event.restarts_total) for event in told if event.action is WatchAction.RESTARTED]
    assert counted == [(1, 1), (1, 2)]


@pytest.mark.parametrize("seen", [RUNNING, FAILED, state("RUNNING")], ids=["running", "failed", "no task"])
def test_what_the_source_has_lost_is_given_up_whatever_the_states_say(seen: dict[str, Any]) -> None:
    """With a lost slot the task tries for half an hour, and shows no state meanwhile."""
    fake = FakeConnect(states=[seen])

    with pytest.raises(WatchGaveUpError, match="slot:emrsync: gone"):
        flowing(fake, lambda: Look(None, lost="slot:emrsync: gone"), until_s=100.0, policy=ENDING)

    assert restarts(fake) == 0


@pytest.mark.parametrize(
    "cause",
    [
        "Cannot replicate because the master purged required binary logs. Error code: 1236; SQLSTATE: HY000.",
        "Client requested master to start replication from position > file size Error code: 1236",
        "Could not find GTID state requested by slave in any binlog files. Error code: 1236",
        "trying to read change stream starting at X, but this is no longer available on the server.",
        'PSQLException: ERROR: can no longer get changes from replication slot "emrsync"',
        'PSQLException: ERROR: cannot read from logical replication slot "emrsync"',
        "requested WAL segment 000000010000000000000001 has already been removed",
    ],
)
def test_a_log_that_is_gone_is_not_restarted_and_its_cure_is_named(cause: str) -> None:
    """The servers' words differ by version."""
    fake = FakeConnect(states=[state("RUNNING", "FAILED", trace=cause)])

    with pytest.raises(WatchGaveUpError, match="emrsync connector reset-offsets"):
        watched(fake, until_s=100.0, policy=ENDING)

    assert restarts(fake) == 0


@pytest.mark.parametrize(
    "cause",
    [
        "A slave with the same server_uuid/server_id as this slave has connected to the master; Error code: 1236",
        "log event entry exceeded max_allowed_packet; Increase max_allowed_packet on master; Error code: 1236",
    ],
)
def test_what_mysql_gives_the_same_number_is_restarted(cause: str) -> None:
    """Another reader of the same server id goes away again; the log is all there."""
    fake = FakeConnect(states=[state("RUNNING", "FAILED", trace=cause), RUNNING])

    watched(fake, until_s=20.0)

    assert restarts(fake) == 1


def test_having_given_up_it_looks_on_says_so_once_and_resumes_when_events_flow_again() -> None:
    """What serves the metrics must not end when they matter most; a person's recovery needs no second one."""
    fake = FakeConnect(states=[*[FAILED] * 30, RUNNING])
    beats = iter(range(1, 10_000))

    told = flowing(fake, lambda: Look(Progress(next(beats), 1, None)), until_s=400.0)

    last = [(event.action, event.restarts) for event in told if event.action is not WatchAction.RESTARTED]
    assert last == [
        (WatchAction.GAVE_UP, 4),
        (WatchAction.NOT_RUNNING, 4),
        (WatchAction.RUNNING, 4),
        (WatchAction.RESUMED, 0),
    ]
    assert restarts(fake) == 4
    assert "connection lost" in next(event.text for event in told if event.action is WatchAction.GAVE_UP)


@pytest.mark.parametrize("after", [Look(Progress(1, 1, None)), Look(None)], ids=["moves nothing", "not known"])
def test_what_runs_again_but_moves_nothing_has_not_come_back(after: Look) -> None:
    """And a look that knows nothing of the flow does not show that it has."""
    fake = FakeConnect(states=[*[FAILED] * 5, RUNNING])
    looks = iter([Look(Progress(1, 1, None))] * 5)

    told = flowing(fake, lambda: next(looks, after), until_s=2_000.0)

    actions = [event.action for event in told]
    assert (actions.count(WatchAction.GAVE_UP), actions.count(WatchAction.RESUMED)) == (1, 0)
    assert restarts(fake) == 4


def test_a_lost_slot_is_told_once_until_a_person_has_made_another() -> None:
    """Also while no worker answers, and though heartbeats may go on meanwhile."""
    beats = iter(range(1, 10_000))
    fake = FakeConnect(states=[RUNNING], refused_connections=3)

    def look() -> Look:
        return Look(Progress(next(beats), 1, None), lost="slot:emrsync: gone" if fake.now_s < 100.0 else None)

    told = flowing(fake, look, until_s=200.0)

    actions = [event.action for event in told]
    assert actions == [WatchAction.GAVE_UP, WatchAction.UNREACHABLE, WatchAction.RUNNING, WatchAction.RESUMED]
    assert told[0].text == "connector outbox: slot:emrsync: gone"


def test_a_connector_that_is_absent_after_the_watch_gave_up_does_not_end_it() -> None:
    """Removing it and applying it anew is a recovery too."""
    fake = FakeConnect(states=[{}])

    told = flowing(fake, lambda: Look(None, lost="slot:emrsync: gone"), until_s=20.0)

    assert [event.action for event in told] == [WatchAction.GAVE_UP, WatchAction.UNREACHABLE]


@pytest.mark.parametrize("seen", [STOPPED, FAILED, state("PAUSED", "PAUSED"), state("UNASSIGNED")])
def test_a_warning_comes_whatever_the_state_is(seen: dict[str, Any]) -> None:
    """A slot fills while nothing reads it."""
    fake = FakeConnect(states=[seen])

    told = flowing(fake, lambda: Look(Progress(1, 1, None), ("slot:emrsync: keeps 600 MiB",)), until_s=6.0)

    assert [event.text for event in told if event.action is WatchAction.WARNING] == ["slot:emrsync: keeps 600 MiB"]


def test_the_flow_is_looked_at_while_no_worker_answers() -> None:
    """The source needs none to be asked, and its log grows meanwhile."""
    fake = FakeConnect(states=[RUNNING], refused_connections=1_000)
    looks: list[float] = []

    def look() -> Look:
        looks.append(fake.now_s)
        return Look(Progress(1, 1, None), ("slot:emrsync: nobody reads it",))

    told = flowing(fake, look, until_s=20.0)

    assert len(looks) == 4
    assert [event.action for event in told] == [WatchAction.WARNING, WatchAction.UNREACHABLE]


def test_a_restart_that_was_not_made_is_not_counted() -> None:
    """The workers were sharing out their work; the stall still stands when they are done."""
    fake = FakeConnect(states=[RUNNING], restart_answers=[REBALANCING] * 6)

    told = flowing(fake, lambda: Look(Progress(1, 1, None)), until_s=60.0)

    made = [event for event in told if event.action is WatchAction.RESTARTED]
    assert [(event.restarts, event.restarts_total) for event in made] == [(1, 1)]
    assert restarts(fake) == 7
    assert WatchAction.GAVE_UP not in {event.action for event in told}


def test_what_fails_during_an_outage_of_the_source_is_not_given_up() -> None:
    """It fails because of the outage; after it there are as many restarts as ever."""
    fake = FakeConnect(states=[FAILED])
    during: list[int] = []

    def look() -> Look:
        if fake.now_s < 300.0:
            return Look(None)
        during.append(restarts(fake))
        return Look(Progress(1, 1, None))

    told = flowing(fake, look, until_s=1_000.0)

    assert during[0] > POLICY.restarts_max
    assert restarts(fake) - during[0] == POLICY.restarts_max
    assert [event.action for event in told].count(WatchAction.GAVE_UP) == 1


def test_a_connector_that_no_worker_has_taken_yet_is_waited_for_and_one_that_does_not_exist_is_not() -> None:
    """Right after its creation it has no state."""
    fake = FakeConnect(states=[{}, {}, RUNNING], config={"name": "outbox"})

    told = watched(fake, until_s=20.0)

    assert [(event.action, event.text) for event in told] == [
        (WatchAction.NOT_RUNNING, "connector UNASSIGNED, no task"),
        (WatchAction.RUNNING, "connector RUNNING, task 0 RUNNING"),
    ]
    with pytest.raises(ConnectorAbsentError, match="apply it first"):
        watched(FakeConnect(states=[{}]), until_s=20.0)
