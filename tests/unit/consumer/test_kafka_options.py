"""The options whose defaults would lose, repeat or delay events, with the values that must stand."""

from __future__ import annotations

from typing import Any

import confluent_kafka
import pytest

from consumer.kafka_options import consumer_options, producer_options

CONSUMER: dict[str, Any] = {
    "bootstrap.servers": "broker:9092",
    "group.id": "emrsync",
    "client.id": "one",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
    "isolation.level": "read_committed",
    "allow.auto.create.topics": False,
    "reconnect.backoff.max.ms": 1_000,
}


def options(*, classic: bool) -> dict[str, Any]:
    """Give a member's options."""
    return dict(consumer_options(bootstrap_servers="broker:9092", group_id="emrsync", client_id="one", classic=classic))


@pytest.mark.parametrize(
    ("classic", "protocol"),
    [
        (False, {"group.protocol": "consumer", "group.remote.assignor": "uniform"}),
        (
            True,
            {
                "group.protocol": "classic",
                "partition.assignment.strategy": "cooperative-sticky",
                "topic.metadata.refresh.interval.ms": 5_000,
            },
        ),
    ],
)
def test_the_consumers_mandatory_options_are_written_out(classic: bool, protocol: dict[str, str]) -> None:
    """None of them is left to a default."""
    found = options(classic=classic)

    expected = CONSUMER | protocol
    assert expected == {name: found.get(name) for name in expected}


def test_memory_and_latency_are_bounded() -> None:
    """The defaults are 64 MB and 500 ms."""
    found = options(classic=False)

    assert found["queued.max.messages.kbytes"] <= 16_384
    assert found["fetch.wait.max.ms"] <= 100
    assert "session.timeout.ms" not in found, "the broker decides it in the consumer protocol"


@pytest.mark.parametrize("classic", [False, True])
def test_librdkafka_takes_the_consumers_options(classic: bool) -> None:
    """A misspelt name is refused when the client is made; no broker is asked."""
    confluent_kafka.Consumer(options(classic=classic) | {"bootstrap.servers": "", "log_level": 0}).close()


def test_the_dead_letter_producer_waits_for_all_and_takes_what_a_topic_can_hold() -> None:
    """A record that it refused for its size would stop the consumer for ever."""
    found = producer_options(bootstrap_servers="broker:9092", client_id="one")

    expected = {"acks": "all", "enable.idempotence": True, "message.max.bytes": 1_000_000_000}
    assert expected == {name: found.get(name) for name in expected}
    confluent_kafka.Producer({**found, "bootstrap.servers": "", "log_level": 0})
