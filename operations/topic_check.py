"""Whether Kafka's topics are what the contract says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from connectors.connector_config import SourceEngine
from connectors.topics import Topic, schema_history_topic, topics
from operations.config import OperationsSettings
from operations.kafka import KafkaAdmin, TopicDrift

WORKER_TOPICS: Final = ("emrsync-connect-configs", "emrsync-connect-offsets", "emrsync-connect-status")
"""Where workers of our group keep configurations, positions and states; others may keep them elsewhere."""


@dataclasses.dataclass(frozen=True, slots=True)
class TopicCheck:
    """Topics that are missing, and how the others differ from the contract."""

    missing: tuple[str, ...]
    drift: tuple[TopicDrift, ...]


def wanted_topics(settings: OperationsSettings, engine: SourceEngine) -> tuple[Topic, ...]:
    """Return every topic that a source of this engine needs."""
    wanted = topics(
        prefix=settings.topic_prefix,
        partitions=settings.kafka_partitions,
        replication_factor=settings.kafka_replication_factor,
        min_insync_replicas=settings.kafka_min_insync_replicas,
    )
    if engine is not SourceEngine.POSTGRESQL:
        return wanted
    return tuple(one for one in wanted if one.name != schema_history_topic(settings.topic_prefix))


def check_topics(settings: OperationsSettings, engine: SourceEngine, admin: KafkaAdmin) -> TopicCheck:
    """Ask the brokers, and change nothing."""
    wanted = wanted_topics(settings, engine)
    found = admin.described([*(topic.name for topic in wanted), *WORKER_TOPICS])
    drift = [one for topic in wanted if topic.name in found for one in _drift(topic, found[topic.name])]
    for name in WORKER_TOPICS:
        policy = found.get(name, {}).get("cleanup.policy", "compact")
        if policy != "compact":
            # Deleted by age, the newest position of a quiet connector would be gone.
            drift.append(TopicDrift(name, "cleanup.policy", "compact", policy))
    return TopicCheck(tuple(topic.name for topic in wanted if topic.name not in found), tuple(drift))


def _drift(topic: Topic, found: Mapping[str, str]) -> list[TopicDrift]:
    wanted = {"partitions": str(topic.partitions), **topic.config}
    if topic.replication_factor > 0:
        wanted["replication.factor"] = str(topic.replication_factor)
    return [
        TopicDrift(topic.name, setting, value, found[setting])
        for setting, value in wanted.items()
        if setting in found and found[setting] != value
    ]
