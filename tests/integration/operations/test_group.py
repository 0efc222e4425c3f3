"""The group and its partitions on a real broker: what is seen of members and lag, and how partitions are added."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import confluent_kafka
import pytest

from connectors.connect_client import ConnectClient
from connectors.topics import entity_topics, topics
from consumer.kafka_options import consumer_options, producer_options
from operations.config import OperationsSettings
from operations.errors import KafkaRefusedError
from operations.group import read_group
from operations.kafka_group import GROUP_SETTINGS, GroupAdmin
from operations.repartition import check, repartition
from tests.e2e.members import wait_for
from tests.unit.connectors.fake_connect import FakeConnect, state

KEYS: Final = 40


class Reader:
    """A member of the group that keeps the order in which each key's values came, and commits."""

    def __init__(self, servers: str, group: str, names: tuple[str, ...], *, classic: bool, assignor: str) -> None:
        options = consumer_options(
            bootstrap_servers=servers, group_id=group, client_id="reader", classic=classic, assignor=assignor
        )
        self._consumer = confluent_kafka.Consumer(dict(options))
        self._consumer.subscribe(list(names))
        self._ended = threading.Event()
        self.values: dict[bytes, list[int]] = defaultdict(list)
        self.read_on = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """Leave the group."""
        self._ended.set()
        self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        while not self._ended.is_set():
            if not self.read_on.wait(0.1):
                self._consumer.poll(0) if not self._consumer.assignment() else None
                continue
            message = self._consumer.poll(0.1)
            if message is not None and message.error() is None:
                self.values[message.key() or b""].append(int(message.value() or b"0"))
                self._consumer.commit(message=message, asynchronous=False)


class Topics:
    """Entity topics under a prefix of their own, with a group."""

    def __init__(self, servers: str) -> None:
        self.servers = servers
        self.prefix = f"group-{uuid.uuid4().hex[:8]}"
        self.settings = OperationsSettings.of(
            {
                "EMRSYNC_KAFKA_BOOTSTRAP_SERVERS": servers,
                "EMRSYNC_TOPIC_PREFIX": self.prefix,
                "EMRSYNC_CONSUMER_GROUP": self.prefix,
            }
        )
        self.names = entity_topics(self.prefix)
        self.admin = GroupAdmin(servers)
        wanted = [one for one in topics(prefix=self.prefix, partitions=2) if one.name in self.names]
        self.admin.ensure_topics(wanted, report=lambda _line: None)
        self._sent = 0

    def send(self) -> None:
        """Send one value, a larger one each time, for every key."""
        self._sent += 1
        producer = confluent_kafka.Producer(dict(producer_options(bootstrap_servers=self.servers, client_id="test")))
        for number in range(KEYS):
            producer.produce(self.names[0], key=f"K-{number}".encode(), value=str(self._sent).encode())
        assert producer.flush(10) == 0

    def counts(self) -> Mapping[str, int]:
        """Give the partitions of each topic."""
        return self.admin.partition_counts(self.names)


@pytest.fixture
def made(chain: Mapping[str, str]) -> Topics:
    """Give topics that nobody has read."""
    return Topics(chain["EMRSYNC_KAFKA_BOOTSTRAP_SERVERS"])


@contextlib.contextmanager
def reader(made: Topics, *, reads: bool, classic: bool = False, assignor: str = "uniform") -> Iterator[Reader]:
    """Give a member that reads, or only joins."""
    one = Reader(made.servers, made.prefix, made.names, classic=classic, assignor=assignor)
    try:
        wait_for(lambda: sum(len(m.partitions) for m in made.admin.members(made.prefix)) == 6, 30, lambda: "no share")
        if reads:
            one.read_on.set()
        yield one
    finally:
        one.close()


def test_by_range_each_topic_is_dealt_out_to_all_members(made: Topics) -> None:
    """The brokers do it; by uniform one member may get all of a topic."""
    with reader(made, reads=True, assignor="range"), reader(made, reads=True, assignor="range"):

        def shares() -> list[list[str]]:
            return [sorted(topic for topic, _ in member.partitions) for member in made.admin.members(made.prefix)]

        wait_for(lambda: shares() == [sorted(made.names)] * 2, 30, shares)


def stopped_connector(on_stopped: Callable[[], None]) -> ConnectClient:
    """Give a connector that stops at once, and calls this when it is asked to go on."""
    fake = FakeConnect(states=[state("RUNNING", "RUNNING"), state("STOPPED")])

    class Client(ConnectClient):
        def resume(self, name: str) -> None:
            super().resume(name)
            on_stopped()

    return Client("http://connect", transport=fake.transport(), sleep=fake.sleep, clock=fake.clock)


def test_members_lag_and_its_age_are_seen(made: Topics) -> None:
    """A member that owns everything and reads nothing; the age is that of the oldest record."""
    made.send()
    with reader(made, reads=False):
        time.sleep(1.5)
        seen = read_group(made.settings, sample_s=0.2)

    assert [one.client_id for one in seen.members] == ["reader"]
    assert len(seen.partitions) == 6
    assert seen.lag == KEYS
    assert seen.lag_s is not None
    assert 1.5 < seen.lag_s < 60
    assert seen.drain_s is None


def test_a_group_that_nobody_has_joined_is_told_as_such(made: Topics) -> None:
    """No error: the first member is still to come."""
    made.send()
    seen = read_group(made.settings, sample_s=0.1)

    assert seen.members == ()
    assert seen.warnings[0].startswith(f"{KEYS} records wait and the group has no member")


@pytest.mark.parametrize("classic", [False, True], ids=["consumer", "classic"])
def test_partitions_are_added_after_the_drain_and_every_key_keeps_its_order(made: Topics, classic: bool) -> None:
    """What was sent before is read before, and what comes after is read too, from the new partitions as well."""
    made.send()
    with reader(made, reads=False, classic=classic) as one:
        assert check(made.admin, made.prefix, made.names, 5)
        threading.Timer(1.0, one.read_on.set).start()
        with stopped_connector(made.send) as connect:
            repartition(
                made.admin, connect, connector="outbox", group=made.prefix, topics=made.names, wanted=5,
                say=lambda _line: None, stopped=lambda: False, drain_limit_s=30.0,
            )  # fmt: skip
        wait_for(lambda: sum(map(len, one.values.values())) == 2 * KEYS, 30, lambda: dict(one.values))

    assert set(made.counts().values()) == {5}
    assert all(values == [1, 2] for values in one.values.values())
    assert not check(made.admin, made.prefix, made.names, 5)


def test_a_groups_own_settings_are_made_once_and_what_others_have_set_stays(made: Topics) -> None:
    """By a real broker, which takes them for this group alone."""
    wanted = {name: f"{int(value) + 1}" for name, value in GROUP_SETTINGS.items()}

    def told(settings: Mapping[str, str]) -> list[str]:
        said: list[str] = []
        made.admin.ensure_settings(made.prefix, settings, report=said.append)
        return sorted(said)

    assert told(wanted) == ["consumer.heartbeat.interval.ms set to 1001", "consumer.session.timeout.ms set to 6001"]
    # The broker that is asked learns from the controller what it has taken.
    wait_for(lambda: told(wanted) == [], 10, lambda: told(wanted))
    assert [line.endswith("it is left as it is") for line in told(GROUP_SETTINGS)] == [True, True]


def test_the_brokers_of_this_repository_need_no_settings_of_the_group(made: Topics) -> None:
    """They have them for every group."""
    said: list[str] = []
    made.admin.ensure_settings(made.prefix, GROUP_SETTINGS, report=said.append)

    assert said == []


def test_what_the_brokers_bounds_forbid_is_told(made: Topics) -> None:
    """With Kafka's defaults nothing may be shorter than the defaults."""
    with pytest.raises(KafkaRefusedError, match=r"group\.consumer\.min\.heartbeat\.interval\.ms"):
        made.admin.ensure_settings(made.prefix, {"consumer.heartbeat.interval.ms": "10"}, report=lambda _line: None)
