"""What is written to topics from some offsets on, as it comes."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping
from typing import Self

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from consumer.kafka import polled_record
from consumer.kafka_options import consumer_options
from consumer.ports import Record
from operations.errors import KafkaRefusedError, KafkaUnreachableError
from operations.kafka import READ_RECORDS_MAX, KafkaAdmin, silent

Offsets = Mapping[tuple[str, int], int]


class KafkaTail:
    """Reads on, of no group; positions are the offsets of what it gives next."""

    def __init__(self, bootstrap_servers: str, topics: Collection[str], start: Offsets | None = None) -> None:
        """Begin at these offsets, and where none is given at the end that the topic has now."""
        admin = KafkaAdmin(bootstrap_servers)
        kept = {(topic, number): bounds for topic in topics for number, bounds in enumerate(admin.kept(topic).offsets)}
        self._ends = {place: end for place, (_, end) in kept.items()}
        # What a topic has dropped since will not come.
        begun = start or {}
        self.positions = {place: max(first, begun.get(place, end)) for place, (first, end) in kept.items()}
        self._servers = bootstrap_servers
        options = consumer_options(
            bootstrap_servers=bootstrap_servers, group_id=f"emrsync-operations-{uuid.uuid4()}",
            client_id="emrsync-operations", classic=True,
        )  # fmt: skip
        self._reader = Consumer({**options, "log_level": 0}, logger=silent())
        self._reader.assign([TopicPartition(*place, offset) for place, offset in self.positions.items()])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._reader.close()

    @property
    def is_behind(self) -> bool:
        """Whether something has not been read yet that was there at the beginning."""
        return any(offset < self._ends[place] for place, offset in self.positions.items())

    def read(self, limit_s: float) -> Iterator[Record]:
        """Give what has come, waiting no longer than limit_s for the first record.

        Raises:
            KafkaUnreachableError, KafkaRefusedError: no broker answers; a topic is gone.
        """
        try:
            first = self._reader.poll(limit_s)
            messages = [] if first is None else [first, *self._reader.consume(READ_RECORDS_MAX, 0)]
        except KafkaException as error:
            raise KafkaUnreachableError(f"Kafka does not answer at {self._servers}") from error
        for message in messages:
            refused = message.error()
            if refused is None:
                record = polled_record(message)
                self.positions[record.topic, record.partition] = record.offset + 1
                yield record
            elif refused.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise KafkaRefusedError("Kafka has no such topic: make the topics with `emrsync provision`")
