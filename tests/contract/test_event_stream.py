"""What every EventStream promises: in memory, and on a real broker in both group protocols."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from consumer import kafka
from consumer.dead_letters import added_headers
from consumer.kafka import KafkaEventStream
from consumer.kafka_options import consumer_options, producer_options
from consumer.ports import EventStream, Place, Record, StreamPosition, TransientError
from tests.fakes import FakeBroker, FakeEventStream, Faults

PROTOCOLS = (EventStream,)
IMPLEMENTATIONS = {"fake": FakeEventStream, "consumer": KafkaEventStream, "classic": KafkaEventStream}

PARTITIONS = 2
ANSWER_LIMIT_S = 60.0
COMMIT_LIMIT_S = 2.0

Headers = Sequence[tuple[str, bytes | None]]


class System(Protocol):
    """One topic with two partitions, one group, a dead-letter topic, and how to look at them."""

    topic: str

    def produce(self, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None: ...  # noqa: D102
    def member(self) -> EventStream: ...  # noqa: D102
    def member_without_dead_letter_topic(self) -> EventStream: ...  # noqa: D102
    def committed(self) -> dict[int, int]: ...  # noqa: D102
    def dead_letters(self) -> Sequence[tuple[bytes | None, bytes | None, Mapping[str, bytes | None]]]: ...  # noqa: D102


class FakeSystem:
    """In memory."""

    topic = "emrsync.patient"

    def __init__(self) -> None:
        self._broker = FakeBroker(PARTITIONS)

    def produce(self, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Append a record."""
        self._broker.produce(self.topic, key, value, headers)

    def member(self) -> EventStream:
        """Join the group."""
        return FakeEventStream(self._broker)

    def member_without_dead_letter_topic(self) -> EventStream:
        """Join the group with nowhere to put dead letters."""
        faults = Faults()
        faults.plan("stream.park", TransientError("no such topic"))
        return FakeEventStream(self._broker, faults)

    def committed(self) -> dict[int, int]:
        """Give the group's offsets by partition."""
        return {place[1]: offset for place, offset in self._broker.committed.items() if place[0] == self.topic}

    def dead_letters(self) -> Sequence[tuple[bytes | None, bytes | None, Mapping[str, bytes | None]]]:
        """Give key, value and headers of what was parked."""
        found = []
        for record, reason in self._broker.dead_letters:
            headers = {**dict(record.headers), **dict(added_headers(record, reason))}
            found.append((record.key, record.value, headers))
        return found


class RealSystem:
    """On the broker, with topics and a group of its own."""

    def __init__(self, servers: str, protocol: str, held: contextlib.ExitStack) -> None:
        self._servers = servers
        self._classic = protocol == "classic"
        self._held = held
        self._group = f"contract-{uuid.uuid4().hex}"
        self.topic = f"{self._group}.patient"
        self._dead = f"{self._group}.dead-letter"
        self._admin = AdminClient({"bootstrap.servers": servers})
        topics = [NewTopic(self.topic, PARTITIONS, 1), NewTopic(self._dead, 1, 1)]
        for created in self._admin.create_topics(topics).values():
            created.result(ANSWER_LIMIT_S)
        held.callback(self._drop)
        self._producer = confluent_kafka.Producer({"bootstrap.servers": servers})

    def _drop(self) -> None:
        for dropped in self._admin.delete_topics([self.topic, self._dead]).values():
            dropped.result(ANSWER_LIMIT_S)

    def produce(self, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Produce a record."""
        self._producer.produce(self.topic, value=value, key=key, headers=list(headers))
        assert self._producer.flush(ANSWER_LIMIT_S) == 0

    def member(self, dead_letter_topic: str | None = None) -> EventStream:
        """Join the group; whoever has not left at the end of the test does then."""
        stream = KafkaEventStream(
            consumer_options(
                bootstrap_servers=self._servers,
                group_id=self._group,
                client_id=uuid.uuid4().hex,
                classic=self._classic,
            ),
            producer_options(bootstrap_servers=self._servers, client_id="contract"),
            topics=[self.topic],
            dead_letter_topic=dead_letter_topic or self._dead,
        )
        self._held.callback(stream.close)
        return stream

    def member_without_dead_letter_topic(self) -> EventStream:
        """Join the group with a dead-letter topic that does not exist."""
        return self.member(f"{self._group}.absent")

    def committed(self) -> dict[int, int]:
        """Ask the broker for the group's offsets."""
        partitions = [confluent_kafka.TopicPartition(self.topic, number) for number in range(PARTITIONS)]
        request = confluent_kafka.ConsumerGroupTopicPartitions(self._group, partitions)
        [answer] = self._admin.list_consumer_group_offsets([request]).values()
        found = answer.result(ANSWER_LIMIT_S).topic_partitions
        return {one.partition: one.offset for one in found if one.offset >= 0}

    def dead_letters(self) -> Sequence[tuple[bytes | None, bytes | None, Mapping[str, bytes | None]]]:
        """Read the dead-letter topic to its end."""
        place = confluent_kafka.TopicPartition(self._dead, 0, 0)
        options: dict[str, Any] = {"bootstrap.servers": self._servers, "group.id": "unused"}
        reader = confluent_kafka.Consumer(options)
        end = reader.get_watermark_offsets(place, timeout=ANSWER_LIMIT_S)[1]
        reader.assign([place])
        messages = reader.consume(end, timeout=ANSWER_LIMIT_S)
        reader.close()
        found = []
        for one in messages:
            headers: Any = one.headers() or ()
            found.append((one.key(), one.value(), dict(headers)))
        return found


@pytest.fixture(params=IMPLEMENTATIONS)
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    """Give each implementation in turn."""
    if request.param == "fake":
        yield FakeSystem()
        return
    servers = request.getfixturevalue("chain")["EMRSYNC_KAFKA_BOOTSTRAP_SERVERS"]
    with contextlib.ExitStack() as held:
        yield RealSystem(servers, request.param, held)


def polled(*members: EventStream, count: int) -> list[list[Record]]:
    """Let members poll in turn until they have so many records together, and give each one's."""
    found: list[list[Record]] = [[] for _ in members]
    deadline = time.monotonic() + ANSWER_LIMIT_S
    while sum(map(len, found)) < count:
        assert time.monotonic() < deadline, f"{found} after {ANSWER_LIMIT_S} s"
        for member, share in zip(members, found, strict=True):
            share.extend(member.poll(records_max=100, timeout_s=0.1))
    return found


def next_positions(records: Sequence[Record]) -> list[StreamPosition]:
    """Give the positions after these records."""
    ends = {(one.topic, one.partition): one.offset + 1 for one in sorted(records, key=lambda one: one.offset)}
    return [StreamPosition(topic, partition, offset) for (topic, partition), offset in ends.items()]


def spread(system: System, count: int) -> set[bytes]:
    """Produce records with keys enough for every partition, and give their values."""
    values = {b"value %d" % number for number in range(count)}
    for value in sorted(values):
        system.produce(b"key of " + value, value)
    return values


def test_records_come_as_they_were_produced(system: System) -> None:
    """Key, value and headers byte by byte, absent ones too."""
    system.produce(b"P-1", "기침 😀".encode(), [("id", b"1"), ("odd", b"\xff\x00"), ("empty", None)])
    system.produce(b"P-1", None)
    system.produce(None, b"")

    [records] = polled(system.member(), count=3)

    found = {(one.key, one.value, tuple(one.headers)) for one in records}
    assert {
        (b"P-1", "기침 😀".encode(), (("id", b"1"), ("odd", b"\xff\x00"), ("empty", None))),
        (b"P-1", None, ()),
        (None, b"", ()),
    } == found
    assert {system.topic} == {one.topic for one in records}


def test_records_of_a_key_come_in_order_with_growing_offsets(system: System) -> None:
    """From its one partition."""
    for number in range(20):
        system.produce(b"P-1", b"%d" % number)

    [records] = polled(system.member(), count=20)

    assert [b"%d" % number for number in range(20)] == [one.value for one in records]
    assert list(range(20)) == [one.offset for one in records]
    assert len({one.partition for one in records}) == 1


def test_a_poll_brings_no_more_than_asked_for(system: System) -> None:
    """And the rest next time."""
    values = spread(system, 10)
    member = system.member()
    found: list[Record] = []
    deadline = time.monotonic() + ANSWER_LIMIT_S
    while len(found) < len(values) and time.monotonic() < deadline:
        records = member.poll(records_max=3, timeout_s=0.1)
        assert len(records) <= 3
        found += records

    assert values == {one.value for one in found}
    assert [] == list(member.poll(records_max=3, timeout_s=0.1))


def test_what_was_not_committed_comes_again_to_the_next_member(system: System) -> None:
    """A member that died before its offset moved."""
    values = spread(system, 6)
    first = system.member()
    polled(first, count=6)
    first.close()

    [again] = polled(system.member(), count=6)

    assert values == {one.value for one in again}


def test_what_was_committed_does_not_come_again(system: System) -> None:
    """The next member starts at the committed offsets."""
    spread(system, 6)
    first = system.member()
    [records] = polled(first, count=6)
    first.commit(next_positions(records))
    first.close()  # at once: what was sent arrives before the member leaves
    assert {one.partition: one.next_offset for one in next_positions(records)} == system.committed()
    system.produce(b"P-new", b"new")

    [new] = polled(system.member(), count=1)

    assert [b"new"] == [one.value for one in new]


def test_nothing_is_committed_by_itself(system: System) -> None:
    """Not by polling on, and not by leaving."""
    spread(system, 6)
    member = system.member()
    polled(member, count=6)
    member.poll(records_max=10, timeout_s=0.1)
    member.close()

    assert {} == system.committed()


def test_two_members_divide_the_partitions(system: System) -> None:
    """Each record goes to one of them."""
    members = [system.member(), system.member()]
    shares: list[set[int]] = [set(), set()]
    deadline = time.monotonic() + ANSWER_LIMIT_S
    # The first may have read the second's partition in the turn that took it away; the next turn divides.
    while [len(share) for share in shares] != [1, 1] and time.monotonic() < deadline:
        values = spread(system, 6)
        for share, records in zip(shares, polled(*members, count=6), strict=True):
            share.clear()
            share.update(one.partition for one in records)
            members[0].commit(next_positions(records))
            members[1].commit(next_positions(records))

    assert [1, 1] == [len(share) for share in shares]
    assert shares[0] != shares[1]
    assert len(values) == 6


def test_a_paused_member_fetches_nothing_and_goes_on_where_it_was(system: System) -> None:
    """What was fetched ahead is neither lost nor given twice."""
    first = spread(system, 20)
    member = system.member()
    [before] = polled(member, count=1)
    member.pause(paused=True)
    second = {b"later " + value for value in first}
    for value in sorted(second):
        system.produce(value, value)
    while_paused = [one for _ in range(5) for one in member.poll(records_max=100, timeout_s=0.1)]
    member.pause(paused=False)
    [after] = polled(member, count=40 - len(before))

    assert [] == while_paused
    assert sorted(first | second) == sorted(one.value or b"" for one in (*before, *after))


def test_partitions_that_come_to_a_paused_member_are_paused(system: System) -> None:
    """Else it would get what it cannot work on."""
    spread(system, 6)
    first, second = system.member(), system.member()
    both_own_one(system, first, second)
    first.pause(paused=True)
    second.close()
    spread(system, 6)
    while_paused = [one for _ in range(30) for one in first.poll(records_max=100, timeout_s=0.1)]
    first.pause(paused=False)
    [after] = polled(first, count=6)

    assert [] == while_paused
    assert {0, 1} == {one.partition for one in after}


def test_a_member_commits_for_a_partition_before_it_goes_to_another(system: System) -> None:
    """The other reads on from there, and repeats nothing."""
    first = system.member()
    values = spread(system, 6)
    [records] = polled(first, count=6)
    told: set[tuple[str, int]] = set()

    def settle(places: Collection[Place]) -> None:
        told.update(places)
        first.commit(next_positions(records))

    first.before_revoke(settle)
    second = system.member()
    deadline = time.monotonic() + ANSWER_LIMIT_S
    while not told and time.monotonic() < deadline:
        first.poll(records_max=100, timeout_s=0.1)
        second.poll(records_max=100, timeout_s=0.1)
    first.before_revoke(lambda _places: None)
    first.close()
    more = spread(system, 6)
    [again] = polled(second, count=6)

    assert len(values) == len(records)
    assert system.topic in {topic for topic, _ in told}
    assert sorted(more) == sorted(one.value or b"" for one in again)


def test_partitions_of_others_are_left_out_of_a_commit(system: System) -> None:
    """They moved on while the batch was in hand."""
    spread(system, 6)
    first, second = system.member(), system.member()
    mine = both_own_one(system, first, second)
    before = system.committed()
    far = [StreamPosition(system.topic, number, before.get(number, 0) + 1) for number in range(PARTITIONS)]
    first.commit(far)
    first.close()

    moved = {number for number, offset in system.committed().items() if offset != before.get(number)}
    assert {mine} == moved


def test_the_group_s_offsets_are_told_where_there_are_any(system: System) -> None:
    """To any member, whoever committed them."""
    system.produce(b"P-1", b"1")
    member = system.member()
    [[record]] = polled(member, count=1)
    places = [(system.topic, number) for number in range(PARTITIONS)]
    assert {} == member.committed(places)

    member.commit(next_positions([record]))
    member.close()

    assert {record.place: 1} == system.member().committed(places)


def both_own_one(system: System, first: EventStream, second: EventStream) -> int:
    """Go on until each member owns a partition, everything read is committed; give the first one's partition."""
    deadline = time.monotonic() + ANSWER_LIMIT_S
    while time.monotonic() < deadline:
        spread(system, 6)
        shares = polled(first, second, count=6)
        for member, records in zip((first, second), shares, strict=True):
            member.commit(next_positions(records))
        owned = [{one.partition for one in records} for records in shares]
        if all(len(one) == 1 for one in owned) and owned[0] != owned[1] and are_committed(system, *shares):
            return owned[0].pop()
    raise AssertionError("the group does not settle")


def are_committed(system: System, *shares: Sequence[Record]) -> bool:
    """Wait for offsets that are on their way; tell whether they came, as Kafka refuses them while members change."""
    wanted = {one.partition: one.next_offset for records in shares for one in next_positions(records)}
    deadline = time.monotonic() + COMMIT_LIMIT_S
    while not wanted.items() <= system.committed().items():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_member_that_leaves_hands_its_partitions_over(system: System) -> None:
    """With what it did not commit."""
    spread(system, 6)
    first, second = system.member(), system.member()
    both_own_one(system, first, second)
    first.close()
    values = spread(system, 20)

    [records] = polled(second, count=20)

    assert values <= {one.value for one in records}
    assert set(range(PARTITIONS)) == {one.partition for one in records}


def test_closing_twice_is_harmless(system: System) -> None:
    """The loop closes in every case."""
    member = system.member()
    member.close()
    member.close()


def test_a_parked_record_is_copied_with_reason_and_place(system: System) -> None:
    """Bytes and headers unchanged; absent key and value stay absent."""
    system.produce(b"P-1", b"\xff{", [("id", b"x")])
    system.produce(b"P-1", None)
    member = system.member()
    [records] = polled(member, count=2)
    for one in records:
        member.park(one, "header id: is no UUID")

    [first, second] = system.dead_letters()
    assert (b"P-1", b"\xff{") == first[:2]
    assert {
        "id": b"x",
        "emrsync.reason": b"header id: is no UUID",
        "emrsync.topic": system.topic.encode(),
        "emrsync.partition": str(records[0].partition).encode(),
        "emrsync.offset": b"0",
        "emrsync.timestamp": str(records[0].timestamp_ms).encode(),
    } == first[2]
    assert (b"P-1", None) == second[:2]


def test_a_record_that_cannot_be_parked_is_a_transient_error(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its offset must stay."""
    monkeypatch.setattr(kafka, "DEAD_LETTER_FLUSH_S", 1.0)
    system.produce(b"P-1", b"{")
    member = system.member_without_dead_letter_topic()
    [[record]] = polled(member, count=1)

    with pytest.raises(TransientError, match=r"no such topic|dead-letter topic did not take"):
        member.park(record, "value: is no JSON")


def test_a_partition_that_was_given_up_is_known_to_every_member_until_something_is_settled(system: System) -> None:
    """The note is beside the group's offset, which stays where it is."""
    for _ in range(2):
        system.produce(b"P-1", b"{")
    member = system.member()
    [records] = polled(member, count=2)
    place = (system.topic, records[0].partition)
    other = (system.topic, 1 - records[0].partition)
    assert not member.halted([place, other])

    member.halt(*place)
    assert {place[1]: 0} == {number: offset for number, offset in system.committed().items() if offset == 0}
    member.close()
    second = system.member()
    [again] = polled(second, count=2)
    assert [True, False] == [second.halted([place, other]), second.halted([other])]

    second.commit(next_positions(again[:1]))
    assert not second.halted([place])
    second.halt(*place)
    assert {place[1]: 1} == system.committed()
    assert second.halted([place])


def test_a_record_as_large_as_a_topic_takes_can_be_parked(system: System) -> None:
    """Or it would stop the consumer for ever."""
    value = b"x" * 900_000
    system.produce(b"P-1", value)
    member = system.member()
    [[record]] = polled(member, count=1)
    member.park(record, "value: has 900000 bytes")

    [letter] = system.dead_letters()
    assert (b"P-1", value) == letter[:2]
