"""Topics and consumer lag, asked from the brokers; the only module of this package that names Kafka's client."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the package's own re-exports, not marked as such
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from connectors.topics import Topic
from operations.errors import KafkaRefusedError, KafkaUnreachableError, OperationError

ANSWER_LIMIT_S: Final = 10.0

_UNREACHABLE: Final = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT}  # noqa: SLF001 - librdkafka's public names


_OFFSET_SPEC: Final[Any] = OffsetSpec  # its constructors have no annotations


@dataclasses.dataclass(frozen=True, slots=True)
class TopicDrift:
    """One respect in which an existing topic is not what it must be."""

    topic: str
    setting: str
    wanted: str
    found: str

    def __str__(self) -> str:
        return f"topic {self.topic}: {self.setting} is {self.found}, not {self.wanted}"


@dataclasses.dataclass(frozen=True, slots=True)
class PartitionLag:
    """How many records of a partition the group has not settled; committed is None when it never has."""

    topic: str
    partition: int
    committed: int | None
    end: int
    lag: int


class KafkaAdmin:
    """What the brokers can be asked; every method may raise KafkaUnreachableError or KafkaRefusedError."""

    def __init__(self, bootstrap_servers: str, *, answer_limit_s: float = ANSWER_LIMIT_S) -> None:
        self._servers = bootstrap_servers
        self._answer_limit_s = answer_limit_s
        silent = logging.getLogger("emrsync.kafka.admin")
        silent.addHandler(logging.NullHandler())
        silent.propagate = False
        options: dict[str, Any] = {
            "bootstrap.servers": bootstrap_servers,
            "client.id": "emrsync-operations",
            # The client's own log repeats what the raised error says.
            "log_level": 0,
            "socket.timeout.ms": int(answer_limit_s * 1000),
        }
        self._admin = AdminClient(options, logger=silent)

    def ensure_topics(self, wanted: Sequence[Topic], *, report: Callable[[str], None]) -> tuple[TopicDrift, ...]:
        """Create what is missing and return how existing topics differ; they are never changed."""
        present = self._partition_counts()
        missing = [topic for topic in wanted if topic.name not in present]
        self._create(missing, report)
        existing = [topic for topic in wanted if topic.name in present]
        drift = [
            TopicDrift(topic.name, "partitions", str(topic.partitions), str(present[topic.name]))
            for topic in existing
            if present[topic.name] != topic.partitions
        ]
        return (*drift, *self._config_drift(existing))

    def lag(self, group: str, topics: Collection[str]) -> tuple[PartitionLag, ...]:
        """Return the lag of a consumer group per partition of the topics that exist."""
        counts = self._partition_counts()
        partitions = [TopicPartition(name, number) for name in sorted(topics) for number in range(counts.get(name, 0))]
        if not partitions:
            return ()
        request = ConsumerGroupTopicPartitions(group, partitions)
        answers = self._admin.list_consumer_group_offsets([request], request_timeout=self._answer_limit_s)
        committed = {(one.topic, one.partition): one.offset for one in self._result(answers[group]).topic_partitions}
        starts = self._offsets(partitions, _OFFSET_SPEC.earliest())
        ends = self._offsets(partitions, _OFFSET_SPEC.latest())
        return tuple(
            _lag(one.topic, one.partition, committed.get((one.topic, one.partition), -1), starts, ends)
            for one in partitions
        )

    def _partition_counts(self) -> dict[str, int]:
        try:
            seen = self._admin.list_topics(timeout=self._answer_limit_s).topics
        except KafkaException as error:
            raise self._named(error) from error
        return {name: len(topic.partitions) for name, topic in seen.items() if topic.error is None}

    def _create(self, missing: Sequence[Topic], report: Callable[[str], None]) -> None:
        if not missing:
            return
        new = [
            NewTopic(
                topic.name,
                num_partitions=topic.partitions,
                replication_factor=topic.replication_factor,
                config=dict(topic.config),
            )
            for topic in missing
        ]
        for name, answer in self._admin.create_topics(new, operation_timeout=self._answer_limit_s).items():
            try:
                answer.result(timeout=2 * self._answer_limit_s)
            except KafkaException as error:
                # Two who provision at once.
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise self._named(error) from error
            report(f"topic {name} created")

    def _config_drift(self, existing: Sequence[Topic]) -> list[TopicDrift]:
        if not existing:
            return []
        resources = {topic.name: ConfigResource(ResourceType.TOPIC, topic.name) for topic in existing}
        answers = self._admin.describe_configs(list(resources.values()), request_timeout=self._answer_limit_s)
        drift = []
        for topic in existing:
            found = self._result(answers[resources[topic.name]])
            for setting, value in topic.config.items():
                entry = found.get(setting)
                if entry is not None and entry.value != value:
                    drift.append(TopicDrift(topic.name, setting, value, str(entry.value)))
        return drift

    def _offsets(self, partitions: Sequence[TopicPartition], spec: Any) -> dict[tuple[str, int], int]:
        asked = dict.fromkeys(partitions, spec)
        answers = self._admin.list_offsets(asked, request_timeout=self._answer_limit_s)
        return {(one.topic, one.partition): self._result(answer).offset for one, answer in answers.items()}

    def _result(self, answer: Any) -> Any:
        try:
            return answer.result(timeout=2 * self._answer_limit_s)
        except KafkaException as error:
            raise self._named(error) from error

    def _named(self, error: KafkaException) -> OperationError:
        cause = error.args[0]
        if cause.code() in _UNREACHABLE:
            return KafkaUnreachableError(
                f"Kafka does not answer at {self._servers}: start it, or set EMRSYNC_KAFKA_BOOTSTRAP_SERVERS"
            )
        return KafkaRefusedError(f"Kafka refuses: {cause.str()}")


def _lag(
    topic: str,
    partition: int,
    committed: int,
    starts: dict[tuple[str, int], int],
    ends: dict[tuple[str, int], int],
) -> PartitionLag:
    end = ends[topic, partition]
    # Without a position the group starts at the earliest record that is kept.
    position = committed if committed >= 0 else starts[topic, partition]
    return PartitionLag(topic, partition, committed if committed >= 0 else None, end, max(0, end - position))
