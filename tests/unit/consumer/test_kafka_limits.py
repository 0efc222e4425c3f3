"""What Kafka's client is asked has a limit: a broker that is lost is told, and nobody hangs."""

from __future__ import annotations

from typing import Any

import confluent_kafka
import pytest

from consumer import kafka
from consumer.kafka import KafkaEventStream
from consumer.ports import TransientError

NOBODY = "127.0.0.1:1"


class _LostAfterTheFirstAnswer(confluent_kafka.Consumer):
    """The real client of a broker that is lost when it has said that the group has no offset yet."""

    def committed(
        self, partitions: list[confluent_kafka.TopicPartition], *_: Any, **__: Any
    ) -> list[confluent_kafka.TopicPartition]:
        """Say that there is none."""
        return [confluent_kafka.TopicPartition(one.topic, one.partition, -1001) for one in partitions]


@pytest.mark.timeout(10)
def test_giving_a_partition_up_ends_when_the_broker_is_lost_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own limit of this question is none."""
    options = {"bootstrap.servers": NOBODY, "group.id": "g", "log_level": 0}
    monkeypatch.setattr(confluent_kafka, "Consumer", _LostAfterTheFirstAnswer)
    monkeypatch.setattr(kafka, "ANSWER_LIMIT_S", 0.3)
    stream = KafkaEventStream(options, options, topics=["emrsync.patient"], dead_letter_topic="emrsync.dead-letter")

    with pytest.raises(TransientError, match="Kafka did not"):
        stream.halt("emrsync.patient", 0)

    stream.close()
