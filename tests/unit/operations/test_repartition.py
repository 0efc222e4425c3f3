"""More partitions: drain, alter, resume, and what is refused."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Collection, Mapping
from typing import Final

import pytest
from typer.testing import CliRunner

from connectors.connect_client import ConnectClient
from connectors.connect_errors import ConnectorAbsentError, ConnectUnreachableError
from connectors.topics import entity_topics
from operations import group_commands
from operations.kafka import PartitionLag
from operations.kafka_group import GroupAdmin, GroupMember
from operations.repartition import RepartitionError, check, repartition
from tests.unit.connectors.fake_connect import FakeConnect, state

TOPICS: Final = ("emrsync.patient", "emrsync.order")
MEMBER: Final = GroupMember("consumer-1", "127.0.0.1", (("emrsync.patient", 0),), "m-1")
RUNNING: Final = state("RUNNING", "RUNNING")
STOPPED: Final = state("STOPPED")


class Broker(GroupAdmin):
    """Two topics; each look at the lag finds the next one, the last for ever."""

    def __init__(
        self, *lags: int, counts: Mapping[str, int] | None = None, members: int = 1, halted: bool = False
    ) -> None:
        self.counts = dict.fromkeys(TOPICS, 6) if counts is None else dict(counts)
        self.lags = list(lags) or [0]
        self.halted = halted
        self.count = members
        self.steps: list[str] = []

    def partition_counts(self, topics: Collection[str]) -> Mapping[str, int]:
        """See GroupAdmin."""
        return {name: self.counts[name] for name in topics if name in self.counts}

    def lag(self, group: str, topics: Collection[str]) -> tuple[PartitionLag, ...]:  # noqa: ARG002 - the base's
        """See KafkaAdmin."""
        lag = self.lags[0] if len(self.lags) == 1 else self.lags.pop(0)
        self.steps.append(f"lag {lag}")
        return (PartitionLag(TOPICS[0], 0, committed=5, end=5 + lag, lag=lag, halted=self.halted),)

    def members(self, group: str) -> tuple[GroupMember, ...]:  # noqa: ARG002 - the base's
        """See GroupAdmin."""
        return (MEMBER,) * self.count

    def add_partitions(self, topics: Collection[str], wanted: int) -> None:
        """See GroupAdmin."""
        self.steps.append("alter")
        self.counts |= dict.fromkeys(topics, wanted)


def changed(
    broker: Broker, fake: FakeConnect, wanted: int = 12, stopped: Callable[[], bool] = lambda: False
) -> list[str]:
    """Run the procedure in a time that passes at once; return what it said."""
    said: list[str] = []
    client = ConnectClient(
        "http://connect", retry_limit_s=0.0, transport=fake.transport(), sleep=fake.sleep, clock=fake.clock
    )
    repartition(
        broker, client, connector="outbox", group="emrsync", topics=TOPICS, wanted=wanted, say=said.append,
        stopped=stopped, drain_limit_s=30.0, sleep=fake.sleep, clock=fake.clock,
    )  # fmt: skip
    return said


def asked(fake: FakeConnect) -> list[str]:
    """Give what the connector was told."""
    return [call.rsplit("/", 1)[1] for call in fake.calls if call.startswith("PUT")]


def test_partitions_are_added_when_the_connector_has_stopped_and_all_is_settled() -> None:
    """And not before; then the connector goes on."""
    fake = FakeConnect(states=[RUNNING, RUNNING, state("STOPPED", "RUNNING"), STOPPED])
    broker = Broker(40, 20, 0)

    changed(broker, fake)

    assert ["lag 40", "lag 20", "lag 0", "alter"] == broker.steps
    assert ["stop", "resume"] == asked(fake)
    assert dict.fromkeys(TOPICS, 12) == broker.counts


def test_a_group_that_does_not_drain_changes_nothing_and_the_connector_goes_on() -> None:
    """Nothing of the application waits longer than the limit."""
    fake = FakeConnect(states=[STOPPED])
    broker = Broker(7)

    with pytest.raises(RepartitionError, match=r"7 records were not settled.*within 30 s; nothing was changed"):
        changed(broker, fake)

    assert "alter" not in broker.steps
    assert ["stop", "resume"] == asked(fake)


def test_a_connector_that_does_not_stop_changes_nothing() -> None:
    """Its producer may still write by the old number."""
    fake = FakeConnect(states=[RUNNING])
    broker = Broker(0)

    with pytest.raises(RepartitionError, match="did not stop"):
        changed(broker, fake)

    assert [] == broker.steps
    assert ["stop", "resume"] == asked(fake)


def test_whoever_ends_it_early_changes_nothing_and_the_connector_goes_on() -> None:
    """Ctrl-C, or a service that is told to stop."""
    fake = FakeConnect(states=[STOPPED])
    broker = Broker(7)
    looks = iter([False, False, True])

    with pytest.raises(RepartitionError, match="told to stop; nothing was changed: 7 records were not settled"):
        changed(broker, fake, stopped=lambda: next(looks))

    assert "alter" not in broker.steps
    assert ["stop", "resume"] == asked(fake)


def test_a_stop_whose_answer_is_lost_may_have_been_carried_out_and_is_undone() -> None:
    """The worker stops the connector, and its connection breaks before it says so."""
    fake = FakeConnect(states=[STOPPED], failures={"stop": 1})

    with pytest.raises(ConnectUnreachableError):
        changed(Broker(0), fake)

    assert ["stop", "resume"] == asked(fake)


@pytest.mark.parametrize(("lag", "broken"), [(0, "alter"), (7, "drain")])
def test_a_worker_that_restarts_meanwhile_is_told_again_to_go_on(lag: int, broken: str) -> None:
    """In the end of a good run as in that of a failed one."""
    fake = FakeConnect(states=[STOPPED], failures={"resume": 20})

    with contextlib.nullcontext() if broken == "alter" else pytest.raises(RepartitionError, match="within 30 s"):
        changed(Broker(lag), fake)

    assert asked(fake) == ["stop", *["resume"] * 21]


@pytest.mark.parametrize(
    ("lag", "words"),
    [
        (0, "each topic has 12 partitions; connector outbox is still stopped"),
        (7, "7 records were not settled.*nothing was changed.*; connector outbox is still stopped"),
    ],
    ids=["altered", "not drained"],
)
def test_a_connector_that_stays_stopped_is_told_with_what_to_do(lag: int, words: str) -> None:
    """Its slot fills the source's disk until somebody does it."""
    fake = FakeConnect(states=[STOPPED], failures={"resume": 1_000})
    broker = Broker(lag)

    with pytest.raises(RepartitionError, match=words) as told:
        changed(broker, fake)

    assert "call `emrsync connector resume`" in str(told.value)
    assert 60 <= fake.now_s - (30 if lag else 0) < 65
    assert ("alter" in broker.steps) is (lag == 0)


def test_a_connector_that_is_not_there_is_told_before_anything_else() -> None:
    """There is nothing that could be let go on."""
    fake = FakeConnect(states=[{}])

    with pytest.raises(ConnectorAbsentError):
        changed(Broker(0), fake)

    assert [] == asked(fake)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_command_lets_the_connector_go_on_when_it_is_told_to_end(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real signal at the command itself, while the group drains."""
    fake = FakeConnect(states=[RUNNING, STOPPED])

    class Drained(Broker):
        def lag(self, group: str, topics: Collection[str]) -> tuple[PartitionLag, ...]:
            if "PUT /connectors/emrsync-outbox/stop" in fake.calls:
                os.kill(os.getpid(), number)
            return super().lag(group, topics)

    broker = Drained(7, counts=dict.fromkeys(entity_topics("emrsync"), 6))
    monkeypatch.setenv("EMRSYNC_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setattr("operations.group_commands.GroupAdmin", lambda _servers: broker)
    monkeypatch.setattr(
        "operations.group_commands.connect_client",
        lambda _settings, retry_limit_s: ConnectClient(
            "http://connect", retry_limit_s=retry_limit_s, transport=fake.transport()
        ),
    )
    shown = CliRunner().invoke(group_commands.app, ["partitions", "12", "--yes"])

    assert isinstance(shown.exception, RepartitionError)
    assert "told to stop; nothing was changed" in str(shown.exception)
    assert ["stop", "resume"] == asked(fake)


def test_only_topics_that_have_fewer_are_altered() -> None:
    """What an interrupted run has begun is completed."""
    fake = FakeConnect(states=[STOPPED])
    broker = Broker(0, counts={TOPICS[0]: 12, TOPICS[1]: 6})

    assert check(broker, "emrsync", TOPICS, 12)
    changed(broker, fake)

    assert {12} == set(broker.counts.values())


@pytest.mark.parametrize(
    ("broker", "wanted", "reason"),
    [
        (Broker(0), 5, "Kafka cannot take any away"),
        (Broker(3, members=0), 12, "3 records wait and the group has no member"),
        (Broker(0, halted=True), 12, "given up for too many dead letters"),
        (Broker(0, counts={TOPICS[0]: 6}), 12, "no such topic: emrsync.order"),
    ],
    ids=["fewer", "no member", "halted", "no topic"],
)
def test_what_is_unsafe_is_refused_with_the_reason(broker: Broker, wanted: int, reason: str) -> None:
    """Before anything is stopped."""
    with pytest.raises(RepartitionError, match=reason):
        check(broker, "emrsync", TOPICS, wanted)


def test_the_number_that_is_there_is_nothing_to_do() -> None:
    """Said, and exit code 0."""
    assert not check(Broker(0), "emrsync", TOPICS, 6)


def test_an_idle_group_without_members_may_be_changed() -> None:
    """Nothing waits, so nothing is out of order."""
    assert check(Broker(0, members=0), "emrsync", TOPICS, 12)
