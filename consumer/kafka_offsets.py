"""What offsets the group has committed, as one of its members or as somebody who only asks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import confluent_kafka

from consumer.deadline import ends_process_after
from consumer.ports import Place, TransientError

ANSWER_LIMIT_S: Final = 10.0

CLOSE_LIMIT_S: Final = 60.0
"""The client leaves the group within seconds, if no commit hangs."""

_NOT_ALLOWED: Final = frozenset(
    {
        confluent_kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED,
        confluent_kafka.KafkaError.GROUP_AUTHORIZATION_FAILED,
    }
)


def group_offsets(consumer: Mapping[str, Any], topics: Collection[str]) -> Mapping[Place, int]:
    """Return a group's offsets without joining it; none where topics are missing or access is, as members say that.

    Raises:
        TransientError: Kafka does not tell.
    """
    asking = confluent_kafka.Consumer(dict(consumer))
    try:
        seen = asking.list_topics(timeout=ANSWER_LIMIT_S).topics
        places = [(name, partition) for name in topics if name in seen for partition in seen[name].partitions]
        asked = [confluent_kafka.TopicPartition(*place) for place in places]
        found = asking.committed(asked, timeout=ANSWER_LIMIT_S) if asked else ()
    except confluent_kafka.KafkaException as error:
        if error.args[0].code() in _NOT_ALLOWED:
            return {}
        raise TransientError(f"Kafka did not tell the group's offsets ({error.args[0].name()})") from error
    finally:
        with ends_process_after(CLOSE_LIMIT_S):
            asking.close()
    return {(one.topic, one.partition): one.offset for one in found if one.offset >= 0}


def committed(
    consumer: confluent_kafka.Consumer, places: Collection[Place]
) -> Sequence[confluent_kafka.TopicPartition]:
    """Return what is known beside partitions, with metadata; an offset below 0 is none. Raises as group_offsets."""
    asked = [confluent_kafka.TopicPartition(topic, partition) for topic, partition in sorted(places)]
    try:
        return consumer.committed(asked, timeout=ANSWER_LIMIT_S)
    except confluent_kafka.KafkaException as error:
        raise TransientError(f"Kafka did not tell the group's offsets ({error.args[0].name()})") from error
