"""Topics, lag and dead letters; with kafka_group and kafka_times all of this package that names Kafka's client."""

from __future__ import annotations

import dataclasses
import logging
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the package's own re-exports, not marked as such
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from connectors.topics import Topic
from consumer.kafka import HALTED, polled_record
from consumer.kafka_options import consumer_options, producer_options
from consumer.ports import Record
from operations.errors import KafkaRefusedError, KafkaUnreachableError, OperationError

ANSWER_LIMIT_S: Final = 10.0

READ_AHEAD_KBYTES: Final = 4_096
READ_RECORDS_MAX: Final = 500

_CLIENT_ID: Final = "emrsync-operations"

_UNREACHABLE: Final = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT}  # noqa: SLF001 - librdkafka's public names

OFFSET_SPEC: Final[Any] = OffsetSpec  # its constructors have no annotations


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
    """How many records of a partition the group has not settled; committed is None when it never has.

    halted: a member gave the partition up there, because of too many dead letters.
    """

    topic: str
    partition: int
    committed: int | None
    end: int
    lag: int
    halted: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class KeptRecords:
    """Which records of a topic are kept: per partition the first offset and the one after the last.

    topic_id tells the topic from one of the same name that was there before.
    """

    topic_id: str
    offsets: tuple[tuple[int, int], ...]

    @property
    def count(self) -> int:
        """How many records there are in all partitions."""
        return sum(end - first for first, end in self.offsets)


class KafkaAdmin:
    """What the brokers can be asked; every method may raise KafkaUnreachableError or KafkaRefusedError."""

    def __init__(self, bootstrap_servers: str, *, answer_limit_s: float = ANSWER_LIMIT_S) -> None:
        self._servers = bootstrap_servers
        self._answer_limit_s = answer_limit_s
        self._producer: Producer | None = None
        options: dict[str, Any] = {
            "bootstrap.servers": bootstrap_servers,
            "client.id": _CLIENT_ID,
            # The client's own log repeats what the raised error says.
            "log_level": 0,
            "socket.timeout.ms": int(answer_limit_s * 1000),
        }
        self._admin = AdminClient(options, logger=silent())

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

    def described(self, names: Collection[str]) -> dict[str, dict[str, str]]:
        """Return the settings of those topics that exist, with partitions and replication.factor among them."""
        present = [name for name in names if name in self._partition_counts()]
        if not present:
            return {}
        resources = {name: ConfigResource(ResourceType.TOPIC, name) for name in present}
        configs = self._asked(self._admin.describe_configs, list(resources.values()))
        shapes = self._asked(self._admin.describe_topics, TopicCollection(present))
        found = {}
        for name in present:
            partitions = self._result(shapes[name]).partitions
            shape = {"partitions": len(partitions), "replication.factor": len(partitions[0].replicas)}
            settings = {one.name: one.value for one in self._result(configs[resources[name]]).values()}
            found[name] = {setting: str(value) for setting, value in {**settings, **shape}.items()}
        return found

    def lag(self, group: str, topics: Collection[str]) -> tuple[PartitionLag, ...]:
        """Return the lag of a consumer group per partition of the topics that exist."""
        counts = self._partition_counts()
        partitions = [TopicPartition(name, number) for name in sorted(topics) for number in range(counts.get(name, 0))]
        if not partitions:
            return ()
        request = ConsumerGroupTopicPartitions(group, partitions)
        answers = self._asked(self._admin.list_consumer_group_offsets, [request])
        committed = {(one.topic, one.partition): one for one in self._result(answers[group]).topic_partitions}
        starts = self._offsets(partitions, OFFSET_SPEC.earliest())
        ends = self._offsets(partitions, OFFSET_SPEC.latest())
        places = ((one.topic, one.partition) for one in partitions)
        return tuple(_lag(*place, committed.get(place), starts, ends) for place in places)

    def kept(self, topic: str) -> KeptRecords:
        """Tell which records of a topic are there."""
        described = self._result(self._asked(self._admin.describe_topics, TopicCollection([topic]))[topic])
        partitions = [TopicPartition(topic, number) for number in range(len(described.partitions))]
        starts = self._offsets(partitions, OFFSET_SPEC.earliest())
        ends = self._offsets(partitions, OFFSET_SPEC.latest())
        bounds = ((starts[topic, one.partition], ends[topic, one.partition]) for one in partitions)
        return KeptRecords(str(described.topic_id), tuple(bounds))

    def records(self, topic: str, partition: int, start: int, end: int) -> Iterator[Record]:
        """Read the records from offset start to before end, holding a few megabytes of them at a time."""
        options = consumer_options(
            bootstrap_servers=self._servers, group_id=f"emrsync-operations-{uuid.uuid4()}", client_id=_CLIENT_ID,
            classic=True,
        )  # fmt: skip
        # Many of these may be open at once, one for each partition.
        own = {"log_level": 0, "enable.partition.eof": True, "queued.max.messages.kbytes": READ_AHEAD_KBYTES}
        reader = Consumer({**options, **own}, logger=silent())
        try:
            reader.assign([TopicPartition(topic, partition, start)])
            while start < end:
                first = reader.poll(self._answer_limit_s)
                if first is None:
                    raise KafkaUnreachableError(f"Kafka does not answer at {self._servers}: no record in time")
                # consume() with a time-out would wait all of it for a full batch.
                for message in (first, *reader.consume(READ_RECORDS_MAX, 0)):
                    if (error := message.error()) is not None:
                        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's public name
                            return
                        raise self._named(KafkaException(error))
                    record = polled_record(message)
                    start = record.offset + 1
                    if record.offset < end:
                        yield record
        except KafkaException as error:
            raise self._named(error) from error
        finally:
            reader.close()

    def send(self, record: Record) -> None:
        """Produce a record to its topic, to the partition that its key belongs to, durably."""
        if self._producer is None:
            options = producer_options(bootstrap_servers=self._servers, client_id=_CLIENT_ID)
            self._producer = Producer({**options, "log_level": 0}, logger=silent())
        failures: list[KafkaError] = []
        headers: list[tuple[str, str | bytes | None]] = list(record.headers)
        try:
            self._producer.produce(
                record.topic, value=record.value, key=record.key, headers=headers,
                on_delivery=lambda error, _message: failures.append(error) if error is not None else None,
            )  # fmt: skip
            left = self._producer.flush(2 * self._answer_limit_s)
        except KafkaException as error:
            raise self._named(error) from error
        if failures:
            raise self._named(KafkaException(failures[0]))
        if left:
            raise KafkaUnreachableError(f"Kafka does not answer at {self._servers}: a record was not taken in time")

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
        answers = self._asked(self._admin.describe_configs, list(resources.values()))
        drift = []
        for topic in existing:
            found = self._result(answers[resources[topic.name]])
            for setting, value in topic.config.items():
                entry = found.get(setting)
                if entry is not None and entry.value != value:
                    drift.append(TopicDrift(topic.name, setting, value, str(entry.value)))
        return drift

    def _offsets(self, partitions: Sequence[TopicPartition], spec: Any) -> dict[tuple[str, int], int]:
        answers = self._asked(self._admin.list_offsets, dict.fromkeys(partitions, spec))
        return {(one.topic, one.partition): self._result(answer).offset for one, answer in answers.items()}

    def _asked(self, request: Callable[..., Any], what: Any) -> Any:
        try:
            return request(what, request_timeout=self._answer_limit_s)
        except KafkaException as error:
            raise self._named(error) from error

    def _result(self, answer: Any) -> Any:
        try:
            return answer.result(timeout=2 * self._answer_limit_s)
        except TimeoutError as error:
            # The client has a limit of its own, which a broker that answers in part can outlast.
            raise KafkaUnreachableError(f"Kafka does not answer at {self._servers}: no result in time") from error
        except KafkaException as error:
            raise self._named(error) from error

    def _named(self, error: KafkaException) -> OperationError:
        cause = error.args[0]
        if cause.code() in _UNREACHABLE:
            return KafkaUnreachableError(
                f"Kafka does not answer at {self._servers}: start it, or set EMRSYNC_KAFKA_BOOTSTRAP_SERVERS"
            )
        if cause.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return KafkaRefusedError("Kafka has no such topic: make the topics with `emrsync provision`")
        return KafkaRefusedError(f"Kafka refuses: {cause.str()}")


def silent() -> logging.Logger:
    """Give a logger that says nothing: the client's own log repeats what the raised error says."""
    logger = logging.getLogger("emrsync.kafka.admin")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger


def _lag(
    topic: str,
    partition: int,
    committed: TopicPartition | None,
    starts: dict[tuple[str, int], int],
    ends: dict[tuple[str, int], int],
) -> PartitionLag:
    end = ends[topic, partition]
    # Without a position the group starts at the earliest record that is kept.
    settled = committed.offset if committed is not None and committed.offset >= 0 else None
    position = starts[topic, partition] if settled is None else settled
    halted = committed is not None and committed.metadata == HALTED
    return PartitionLag(topic, partition, settled, end, max(0, end - position), halted)
