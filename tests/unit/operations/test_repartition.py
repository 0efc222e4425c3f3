"""More partitions: drain, alter, resume, and what is refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import pytest

from connectors.connect_client import ConnectClient
from operations.kafka import PartitionLag
from operations.kafka_group import GroupAdmin, GroupMember
from operations.repartition import RepartitionError, check, repartition
from tests.unit.connectors.fake_connect import FakeConnect, state

TOPICS: Final = ("emrsync.patient", "emrsync.order")
MEMBER: Final = GroupMember("consumer-1", "127.0.0.1", (("emrsync.patient", 0),))
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


def changed(broker: Broker, fake: FakeConnect, wanted: int = 12) -> list[str]:
    """Run the procedure in a time that passes at once; return what it said."""
    said: list[str] = []
    client = ConnectClient(
        "http://connect", retry_limit_s=0.0, transport=fake.transport(), sleep=fake.sleep, clock=fake.clock
    )
    repartition(
        broker, client, connector="outbox", group="emrsync", topics=TOPICS, wanted=wanted, say=said.append,
        drain_limit_s=30.0, sleep=fake.sleep, clock=fake.clock,
    )  # fmt: skip
    return said


def asked(fake: FakeConnect) -> list[str]:
    """Give what the connector was told."""
    return [call.rsplit("/", 1)[1] for call in fake.calls if call.startswith("PUT")]


def test_partitions_are_added_when_the_connector_has_stopped_and_all_is_settled() -> None:
    """And not before; then the connector goes on."""
    fake = FakeConnect(states=[RUNNING, state("STOPPED", "RUNNING"), STOPPED, RUNNING])
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


def test_only_topics_that_have_fewer_are_altered() -> None:
    """What an interrupted run has begun is completed."""
    fake = FakeConnect(states=[STOPPED, RUNNING])
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
