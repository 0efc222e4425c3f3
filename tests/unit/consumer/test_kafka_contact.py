"""A client that has lost Kafka for good is told from brokers that are away."""

from __future__ import annotations

import pytest

from consumer.kafka import KafkaEventStream
from consumer.kafka_contact import LOOKS_MAX, SILENCE_S, Contact
from consumer.kafka_options import consumer_options, producer_options
from consumer.ports import ClientLostError


class World:
    """A clock, and who reaches Kafka."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.reaches = False
        self.others = True
        self.looks = 0
        self.contact = Contact(self._look, lambda: self.others, clock=lambda: self.now_s)

    def _look(self) -> bool:
        self.looks += 1
        return self.reaches

    def lost_after(self, seconds: float) -> bool:
        """Let time pass, and ask."""
        self.now_s += seconds
        return self.contact.is_lost()


@pytest.fixture
def world() -> World:
    """Give one in trouble."""
    made = World()
    made.contact.trouble()
    return made


def test_a_client_that_alone_finds_no_broker_is_lost(world: World) -> None:
    """Only after it was looked at more than once: it may be about to recover."""
    assert not world.lost_after(SILENCE_S - 0.1)
    assert [*[False] * (LOOKS_MAX - 1), True] == [world.lost_after(SILENCE_S) for _ in range(LOOKS_MAX)]


def test_brokers_that_are_away_for_all_are_waited_for(world: World) -> None:
    """However long; and the looks of before count no more."""
    assert not world.lost_after(SILENCE_S)
    world.others = False
    assert not any(world.lost_after(SILENCE_S) for _ in range(10))
    world.others = True
    assert not world.lost_after(SILENCE_S)


def test_what_is_heard_ends_the_trouble(world: World) -> None:
    """A record, or an answer to a commit; then nothing is asked."""
    world.contact.heard()
    assert not world.lost_after(60)
    assert (0, False) == (world.looks, world.contact.is_troubled)


def test_a_client_is_looked_at_no_more_often_than_trouble_may_last(world: World) -> None:
    """Two looks in a row would find the same."""
    assert not world.lost_after(SILENCE_S)
    assert not world.lost_after(SILENCE_S - 0.1)
    assert 1 == world.looks


def test_looks_before_an_answer_count_no_more(world: World) -> None:
    """The next trouble is another one."""
    assert not world.lost_after(SILENCE_S)
    world.contact.heard()
    world.contact.trouble()
    assert not world.lost_after(SILENCE_S)


def test_an_idle_client_that_reaches_kafka_is_out_of_trouble(world: World) -> None:
    """One broker of several was away, and no record has come since."""
    world.reaches = True
    assert not world.lost_after(SILENCE_S)
    assert (1, False) == (world.looks, world.contact.is_troubled)


def test_a_stream_whose_client_is_lost_says_so() -> None:
    """Instead of polling for ever; nothing else tells."""
    stream = KafkaEventStream(
        consumer_options(bootstrap_servers="127.0.0.1:1", group_id="g", client_id="c", classic=False),
        producer_options(bootstrap_servers="127.0.0.1:1", client_id="c"),
        topics=("emrsync.patient",),
        dead_letter_topic="emrsync.dead-letter",
    )
    lost = World()
    lost.contact.trouble()
    stream._contact = lost.contact
    lost.now_s += SILENCE_S
    assert () == stream.poll(records_max=1, timeout_s=0)
    lost.now_s += SILENCE_S
    with pytest.raises(ClientLostError, match="and not this one"):
        stream.poll(records_max=1, timeout_s=0)
    stream.close()
