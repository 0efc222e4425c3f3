"""Offsets are sent without waiting, and what Kafka does not take is sent again and never passed by what is older."""

from __future__ import annotations

from typing import Any

import confluent_kafka

from consumer.kafka_offsets import AGAIN_S, OffsetCommits

FIRST, SECOND = ("emrsync.patient", 0), ("emrsync.order", 1)
AWAY = confluent_kafka.KafkaError(confluent_kafka.KafkaError._WAIT_COORD)
MOVED_ON = confluent_kafka.KafkaError(confluent_kafka.KafkaError.STALE_MEMBER_EPOCH)


class Client:
    """What a commit needs of Kafka's client."""

    def __init__(self) -> None:
        self.sent: list[list[confluent_kafka.TopicPartition]] = []
        self.refuses = False

    def commit(self, *, offsets: list[confluent_kafka.TopicPartition], asynchronous: bool) -> None:
        """Note what is sent."""
        assert asynchronous
        self.sent.append(offsets)
        if self.refuses:
            raise confluent_kafka.KafkaException(AWAY)

    @property
    def newest(self) -> dict[tuple[str, int], int]:
        """What was sent last."""
        return {(one.topic, one.partition): one.offset for one in self.sent[-1]}


class World:
    """Commits with a clock."""

    def __init__(self) -> None:
        self.client: Any = Client()
        self.now_s = 100.0
        self.commits = OffsetCommits(clock=lambda: self.now_s)

    def later(self) -> None:
        """Let the time pass after which a refused commit is sent again."""
        self.now_s += AGAIN_S
        self.commits.send_refused(self.client)


def test_what_was_refused_goes_again_when_it_is_time() -> None:
    """And not before."""
    world = World()
    world.commits.send(world.client, {FIRST: 5, SECOND: 7})
    world.commits.answered(AWAY, world.client.sent[0])
    world.commits.send_refused(world.client)
    assert 1 == len(world.client.sent)

    world.later()
    assert {FIRST: 5, SECOND: 7} == world.client.newest
    world.commits.answered(None, world.client.sent[1])
    world.later()
    assert 2 == len(world.client.sent)


def test_what_was_refused_goes_along_with_the_next() -> None:
    """At once."""
    world = World()
    world.commits.send(world.client, {FIRST: 5, SECOND: 7})
    world.commits.answered(AWAY, world.client.sent[0])
    world.commits.send(world.client, {FIRST: 6})
    assert {FIRST: 6, SECOND: 7} == world.client.newest


def test_a_late_refusal_takes_no_offset_back() -> None:
    """The next one is on its way already."""
    world = World()
    world.commits.send(world.client, {FIRST: 5, SECOND: 7})
    world.commits.send(world.client, {FIRST: 6})
    world.commits.answered(AWAY, world.client.sent[0])
    world.later()
    assert {SECOND: 7} == world.client.newest


def test_what_belongs_to_another_member_is_not_sent_again() -> None:
    """Whether the group has moved on, or the partition has gone."""
    world = World()
    world.commits.send(world.client, {FIRST: 5})
    world.commits.answered(MOVED_ON, world.client.sent[0])
    world.commits.send(world.client, {SECOND: 7})
    world.commits.answered(AWAY, world.client.sent[1])
    world.commits.forget([SECOND])
    world.later()
    assert 2 == len(world.client.sent)


def test_a_refusal_that_comes_after_a_partition_has_gone_is_not_sent_again() -> None:
    """Its next owner may be far beyond."""
    world = World()
    world.commits.send(world.client, {FIRST: 5})
    world.commits.forget([FIRST])
    world.commits.answered(AWAY, world.client.sent[0])
    world.later()
    assert 1 == len(world.client.sent)


def test_a_client_that_takes_nothing_is_a_refusal() -> None:
    """It is tried again like one of Kafka's."""
    world = World()
    world.client.refuses = True
    world.commits.send(world.client, {FIRST: 5})
    world.client.refuses = False
    world.later()
    assert (2, {FIRST: 5}) == (len(world.client.sent), world.client.newest)
