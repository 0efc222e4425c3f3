"""The client of Kafka Connect against the answers that real workers were seen to give."""

from __future__ import annotations

import httpx
import pytest

from connectors.connect_client import ConnectClient, ConnectorStatus, TaskStatus
from connectors.connect_errors import (
    ConnectBusyError,
    ConnectError,
    ConnectForbiddenError,
    ConnectorAbsentError,
    ConnectorNotRunningError,
    ConnectorRefusedError,
    ConnectUnreachableError,
    SourceUnreachableError,
    causes,
)
from tests.unit.connectors.fake_connect import FakeConnect, state

CONFIG = {"connector.class": "X", "tasks.max": "1"}
RUNNING = state("RUNNING", "RUNNING")
TRACE = """org.apache.kafka.connect.errors.ConnectException: Error while processing event at offset {lsn=1}
\tat io.debezium.pipeline.EventDispatcher.dispatch(EventDispatcher.java:1)
Caused by: org.apache.kafka.connect.errors.DataException: bad row Struct{outbox_id=1,payload={"family_name": "Kim"}}
\tat org.apache.kafka.connect.Data.x(Data.java:2)
\t... 7 more"""


def client(fake: FakeConnect) -> ConnectClient:
    """Talk to the fake, in its time."""
    return ConnectClient("http://connect", transport=fake.transport(), sleep=fake.sleep, clock=fake.clock)


@pytest.mark.parametrize(
    ("connector", "tasks", "running"),
    [
        ("RUNNING", ["RUNNING"], True),
        ("RUNNING", ["RUNNING", "RUNNING"], True),
        ("RUNNING", [], False),
        ("RUNNING", ["FAILED"], False),
        ("RUNNING", ["RUNNING", "UNASSIGNED"], False),
        ("PAUSED", ["RUNNING"], False),
        ("UNASSIGNED", ["RUNNING"], False),
    ],
)
def test_running_means_the_connector_and_at_least_one_task_and_every_task(
    connector: str, tasks: list[str], running: bool
) -> None:
    """HTTP 200 and a running connector say nothing of its tasks."""
    status = ConnectorStatus(
        "outbox", connector, "w1", tuple(TaskStatus(number, task, "w1") for number, task in enumerate(tasks))
    )

    assert status.running is running


def test_a_new_connector_is_waited_for_through_every_state_of_its_start() -> None:
    """No state yet, no task yet, not assigned yet: none of them is a failure."""
    fake = FakeConnect(states=[{}, state("RUNNING"), state("RUNNING", "UNASSIGNED"), RUNNING])

    status = client(fake).apply("outbox", CONFIG)

    assert status.summary == "connector RUNNING, task 0 RUNNING"
    assert fake.config == {**CONFIG, "name": "outbox"}


def test_a_task_that_runs_for_a_moment_and_fails_is_no_success() -> None:
    """A task shows RUNNING before it has opened its connection."""
    fake = FakeConnect(states=[RUNNING, RUNNING, RUNNING, state("RUNNING", "FAILED", trace=TRACE)])

    with pytest.raises(ConnectorNotRunningError, match="DataException"):
        client(fake).apply("outbox", CONFIG)


def test_a_connector_that_never_runs_is_named_with_its_state_after_the_limit() -> None:
    """Waiting ends."""
    fake = FakeConnect(states=[state("RUNNING", "UNASSIGNED")])

    with pytest.raises(ConnectorNotRunningError, match=r"after 10 s .connector RUNNING, task 0 UNASSIGNED"):
        client(fake).apply("outbox", CONFIG, limit_s=10)


def test_the_same_configuration_of_a_running_connector_is_not_sent_again() -> None:
    """Provisioning twice must not interrupt the stream."""
    fake = FakeConnect(config={**CONFIG, "name": "outbox"}, states=[RUNNING])

    client(fake).apply("outbox", CONFIG)

    assert "PUT /connectors/outbox/config" not in fake.calls


def test_a_failed_task_is_restarted_when_the_configuration_is_applied() -> None:
    """Connect leaves it failed when the configuration is the same."""
    fake = FakeConnect(config={**CONFIG, "name": "outbox"}, states=[state("RUNNING", "FAILED", trace=TRACE), RUNNING])

    client(fake).apply("outbox", CONFIG)

    assert "POST /connectors/outbox/restart?includeTasks=true&onlyFailed=true" in fake.calls


def test_a_failure_shows_the_causes_and_neither_frames_nor_rows() -> None:
    """A trace may quote the row it stumbled over."""
    shown = causes(TRACE)

    assert shown == (
        "org.apache.kafka.connect.errors.ConnectException: Error while processing event at offset {lsn=1}\n"
        "Caused by: org.apache.kafka.connect.errors.DataException: bad row Struct{…}"
    )


def test_refused_connections_and_rebalances_are_tried_again() -> None:
    """Both pass by themselves."""
    busy = httpx.Response(409, json={"message": "Cannot complete request because of a conflicting operation"})
    fake = FakeConnect(refused_connections=2, put_answers=[busy], states=[RUNNING])

    assert client(fake).apply("outbox", CONFIG).running


def test_a_worker_that_stays_away_is_named_with_its_address() -> None:
    """The reader learns what to start or to set."""
    fake = FakeConnect(refused_connections=1_000)
    away = ConnectClient("http://connect:8083", retry_limit_s=0.0, transport=fake.transport(), sleep=fake.sleep)

    with pytest.raises(ConnectUnreachableError, match=r"http://connect:8083.*EMRSYNC_CONNECT_URL"):
        away.names()


@pytest.mark.parametrize(
    ("code", "message", "error"),
    [
        (400, "Connector configuration is invalid: slot.name is required", ConnectorRefusedError),
        (400, "Unable to connect: FATAL: password authentication failed", SourceUnreachableError),
        (500, 'Cannot invoke "Object.getClass()" because "x" is null NullPointerException', SourceUnreachableError),
        (500, "out of disk", ConnectError),
        (404, "Connector outbox not found", ConnectorAbsentError),
        (409, "rebalance", ConnectBusyError),
    ],
    ids=["invalid", "wrong password", "database down", "other", "absent", "busy for ever"],
)
def test_each_refusal_has_its_own_error(code: int, message: str, error: type[ConnectError]) -> None:
    """What a person does next differs."""
    answers = [httpx.Response(code, json={"error_code": code, "message": message}) for _ in range(200)]
    fake = FakeConnect(put_answers=answers, states=[RUNNING])
    hasty = ConnectClient("http://connect", retry_limit_s=0.0, transport=fake.transport(), sleep=fake.sleep)

    with pytest.raises(error) as raised:
        hasty.apply("outbox", CONFIG)

    assert type(raised.value) is error
    assert len(fake.calls) == 2  # /connectors, and one PUT: nothing but a rebalance is worth another


@pytest.mark.parametrize(
    ("code", "before"), [(400, ""), (500, "…rest.errors.BadRequestException: …ConnectException: ")]
)
def test_a_plugin_that_the_workers_lack_is_named(code: int, before: str) -> None:
    """Not every registry has MariaDB's; a worker answers a configuration and its check differently."""
    wanted = "io.debezium.connector.mariadb.MariaDbConnector"
    absent = f"{before}Failed to find any class that implements Connector and which name matches {wanted}, available"
    fake = FakeConnect(put_answers=[httpx.Response(code, json={"message": f"{absent} connectors are: PluginDesc{{}}"})])

    with pytest.raises(ConnectorRefusedError, match=rf"no plugin for {wanted}: put .* plugin.path") as raised:
        client(fake).apply("outbox", CONFIG)

    assert "PluginDesc" not in str(raised.value)


def test_a_whole_restart_reaches_tasks_that_show_running() -> None:
    """After a crash of MySQL a task may show RUNNING and move nothing."""
    fake = FakeConnect()

    client(fake).restart("outbox", only_failed=False)

    assert fake.calls == ["POST /connectors/outbox/restart?includeTasks=true&onlyFailed=false"]


def test_a_worker_that_is_starting_is_waited_for_and_not_taken_for_one_without_the_connector() -> None:
    """Its web server answers 404 in HTML before anything is there."""
    page = httpx.Response(404, text="<html><h2>HTTP ERROR 404 Not Found</h2></html>")
    answers = [page, httpx.Response(503, json={"message": "Worker is still starting"}), httpx.Response(200, json=[])]
    client = ConnectClient(
        "http://connect", transport=httpx.MockTransport(lambda _: answers.pop(0)), sleep=lambda _: None
    )

    assert client.names() == ()
    assert answers == []


def test_a_worker_that_does_not_answer_is_passed_over_and_not_asked_again() -> None:
    """Of several workers any one answers for all."""
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if request.url.host == "one":
            raise httpx.ReadTimeout("timed out", request=request)
        return httpx.Response(200, json=["outbox"])

    client = ConnectClient("http://one:8083, http://two:8083/", transport=httpx.MockTransport(answer))

    assert (client.names(), client.names()) == (("outbox",), ("outbox",))
    assert asked == ["one", "two", "two"]


def test_user_and_password_are_sent_and_asked_for() -> None:
    """The variables are named when they are missing or wrong."""

    def answer(request: httpx.Request) -> httpx.Response:
        known = request.headers.get("Authorization") == "Basic dTpw"
        return httpx.Response(200, json=[]) if known else httpx.Response(401, text="")

    transport = httpx.MockTransport(answer)

    assert ConnectClient("http://connect", login=("u", "p"), transport=transport).names() == ()
    with pytest.raises(ConnectForbiddenError, match="EMRSYNC_CONNECT_USER and EMRSYNC_CONNECT_PASSWORD"):
        ConnectClient("http://connect", transport=transport).names()


def test_what_the_connector_objects_to_is_told_by_setting() -> None:
    """Settings that only a definition is known of have no value."""
    found = [
        {"value": None},
        {"value": {"name": "database.port", "errors": []}},
        {"value": {"name": "database.hostname", "errors": ["Unable to connect:\n refused"]}},
    ]
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={"configs": found}))
    client = ConnectClient("http://connect", transport=transport)

    assert client.objections({"connector.class": "x.Y"}) == ("database.hostname: Unable to connect: refused",)


def test_a_page_of_something_else_is_an_error_that_is_known() -> None:
    """A proxy's page of a success would end the watch with a traceback."""
    page = httpx.MockTransport(lambda _: httpx.Response(200, text="<html>welcome</html>"))

    with ConnectClient("http://connect", transport=page) as one, pytest.raises(ConnectError, match="no Kafka Connect"):
        one.status("outbox")
