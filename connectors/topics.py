"""The Kafka topics of the pipeline, with what each of them must be."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from connectors.outbox import EntityType

PREFIX: Final = "emrsync"
"""First part of every topic name, and the connector's topic.prefix; offsets hang on it, so it is never changed."""

PARTITIONS: Final = 6
RETENTION_DAYS: Final = 14
DEAD_LETTER_RETENTION_DAYS: Final = 90
MESSAGE_BYTES_MAX: Final = 6_000_000
"""The broker's own limit, above the connector's max.request.size, so that no record is refused half way."""

DEAD_LETTER_BYTES_MAX: Final = 2 * MESSAGE_BYTES_MAX
"""Of the dead-letter topic: whatever an entity topic holds, with headers added and compressed by another client."""

BROKER_DEFAULT: Final = -1

_DAY_MS: Final = 24 * 3600 * 1000
_FOR_EVER_MS: Final = -1


@dataclasses.dataclass(frozen=True, slots=True)
class Topic:
    """One topic as it must be; replication_factor -1 is the broker's default."""

    name: str
    partitions: int
    retention_ms: int
    max_message_bytes: int
    min_insync_replicas: int
    replication_factor: int = BROKER_DEFAULT
    cleanup_policy: str = "delete"  # compaction would drop outbox ids

    @property
    def config(self) -> Mapping[str, str]:
        """The topic's settings by Kafka's names."""
        return {
            "cleanup.policy": self.cleanup_policy,
            "retention.ms": str(self.retention_ms),
            "max.message.bytes": str(self.max_message_bytes),
            "min.insync.replicas": str(self.min_insync_replicas),
        }


def entity_topic(entity_type: EntityType, prefix: str = PREFIX) -> str:
    """Name the topic that carries the events of one entity type."""
    return f"{prefix}.{entity_type}"


def entity_topics(prefix: str = PREFIX) -> tuple[str, ...]:
    """Name the topics of all entity types: what the consumer subscribes to."""
    return tuple(entity_topic(entity_type, prefix) for entity_type in EntityType)


def dead_letter_topic(prefix: str = PREFIX) -> str:
    """Name the topic of records that are no events, bytes unchanged."""
    return f"{prefix}.dead-letter"


def notifications_topic(prefix: str = PREFIX) -> str:
    """Name the topic in which the connector tells how far its snapshots are."""
    return f"{prefix}.notifications"


def heartbeat_topic(prefix: str = PREFIX) -> str:
    """Name the topic that the connector writes to while nothing else happens; Debezium chose the name."""
    return f"__debezium-heartbeat.{prefix}"


def schema_history_topic(prefix: str = PREFIX) -> str:
    """Name the topic that holds table definitions for reading the binlog of MySQL and MariaDB."""
    return f"{prefix}.schema-history"


def topics(
    *,
    prefix: str = PREFIX,
    partitions: int = PARTITIONS,
    replication_factor: int = BROKER_DEFAULT,
    min_insync_replicas: int = 1,
) -> tuple[Topic, ...]:
    """Define every topic.

    Args:
        prefix: first part of the names.
        partitions: of each entity topic, and so the largest useful number of consumers.
        replication_factor: copies of each partition; -1 for the broker's default.
        min_insync_replicas: copies that must have a record before it counts as written; 2 on a cluster of three.
    """

    def one(name: str, count: int, retention_ms: int, bytes_max: int = MESSAGE_BYTES_MAX) -> Topic:
        return Topic(name, count, retention_ms, bytes_max, min_insync_replicas, replication_factor)

    return (
        *(one(name, partitions, RETENTION_DAYS * _DAY_MS) for name in entity_topics(prefix)),
        one(dead_letter_topic(prefix), 1, DEAD_LETTER_RETENTION_DAYS * _DAY_MS, DEAD_LETTER_BYTES_MAX),
        one(notifications_topic(prefix), 1, 7 * _DAY_MS),
        one(heartbeat_topic(prefix), 1, _DAY_MS),
        # A definition that has been dropped cannot be made up: the binlog could not be read any more.
        one(schema_history_topic(prefix), 1, _FOR_EVER_MS),
    )
