"""The entity topics through librdkafka: one member of the group, and the dead-letter producer."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, cast

import confluent_kafka
import structlog

from connectors.events import UNREADABLE_HEADERS
from consumer.dead_letters import added_headers
from consumer.deadline import ends_process_after
from consumer.kafka_contact import ANSWER_LIMIT_S as CONTACT_LIMIT_S
from consumer.kafka_contact import Contact, others_reach
from consumer.kafka_offsets import ANSWER_LIMIT_S, CLOSE_LIMIT_S, OffsetCommits, committed
from consumer.ports import ClientLostError, MisconfiguredError, Place, Record, StreamPosition, TransientError

NOTE_LIMIT_S: Final = 120.0
"""The client (librdkafka 2.16) waits for such a commit without limit. In an outage it answers after 45 s, or after the
60 s of a request."""

DEAD_LETTER_FLUSH_S: Final = 10.0

HALTED: Final = "emrsync: too many dead letters"
"""Metadata of the group's offset where a member has given a partition up; the next commit takes it away."""

UNKNOWN_TOPIC_WAIT_S: Final = 60.0
"""How long a member that owns partitions believes that its topics come back."""

_log = structlog.get_logger()

# When the name of a header is not UTF-8 the client (2.16) returns a list with holes together with an error. A call by
# way of methodcaller is checked for that; message.headers() is not where the interpreter has made it fast, and the
# first touch of a hole kills the process. A second call for the same message gives the holes without the error.
_call_headers: Final = operator.methodcaller("headers")

_NOT_PROVISIONED: Final = frozenset(
    {
        confluent_kafka.KafkaError.UNKNOWN_TOPIC_OR_PART,
        confluent_kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED,
        confluent_kafka.KafkaError.GROUP_AUTHORIZATION_FAILED,
    }
)


# The dead-letter topic, and not the record, must be changed before parking can succeed.
_REFUSED: Final = frozenset(
    {
        confluent_kafka.KafkaError.MSG_SIZE_TOO_LARGE,
        confluent_kafka.KafkaError.RECORD_LIST_TOO_LARGE,
        confluent_kafka.KafkaError.INVALID_RECORD,
        confluent_kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)


class KafkaEventStream:
    """The real EventStream; joins the group when it is made."""

    def __init__(
        self,
        consumer: Mapping[str, Any],
        producer: Mapping[str, Any],
        *,
        topics: Sequence[str],
        dead_letter_topic: str,
    ) -> None:
        self._commits = OffsetCommits()
        self._contact = Contact(self._reaches, lambda: others_reach(consumer))
        self._consumer = confluent_kafka.Consumer(
            {**consumer, "on_commit": self._on_commit, "error_cb": lambda _error: self._contact.trouble()}
        )
        self._producer_options = producer
        self._producer: confluent_kafka.Producer | None = None
        self._topics = topics
        self._dead_letter_topic = dead_letter_topic
        self._owned: set[Place] = set()
        self._paused = False
        self._before_revoke: Callable[[Collection[Place]], None] = lambda _places: None
        self._unknown_since_s: float | None = None
        self._consumer.subscribe(
            list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def poll(self, *, records_max: int, timeout_s: float) -> Sequence[Record]:
        """See ports.EventStream."""
        # consume() with a time-out waits all of it unless the batch is full: poll for the first, then drain.
        first = self._consumer.poll(timeout_s)
        self._commits.send_refused(self._consumer)
        if first is None:
            if self._contact.is_lost():
                raise ClientLostError("Kafka answers other clients and not this one")
            return ()
        messages = [first, *self._consumer.consume(records_max - 1, 0)] if records_max > 1 else [first]
        records = [polled_record(message) for message in messages if self._is_record(message)]
        # A partition may have been revoked while draining: its next owner reads these records.
        return [record for record in records if record.place in self._owned]

    def pause(self, *, paused: bool) -> None:
        """See ports.EventStream."""
        if paused == self._paused:
            return
        self._paused = paused
        places = [confluent_kafka.TopicPartition(topic, partition) for topic, partition in sorted(self._owned)]
        if places:
            (self._consumer.pause if paused else self._consumer.resume)(places)

    def before_revoke(self, settle: Callable[[Collection[Place]], None]) -> None:
        """See ports.EventStream."""
        self._before_revoke = settle

    def park(self, record: Record, reason: str) -> None:
        """See ports.EventStream."""
        if self._producer is None:
            self._producer = confluent_kafka.Producer(dict(self._producer_options))
        failures: list[confluent_kafka.KafkaError] = []

        def delivered(error: confluent_kafka.KafkaError | None, _message: confluent_kafka.Message) -> None:
            if error is not None:
                failures.append(error)

        headers: list[tuple[str, str | bytes | None]] = [*record.headers, *added_headers(record, reason)]
        try:
            self._producer.produce(
                self._dead_letter_topic, value=record.value, key=record.key, headers=headers, on_delivery=delivered
            )
            left = self._producer.flush(DEAD_LETTER_FLUSH_S)
        except confluent_kafka.KafkaException as error:
            failures.append(error.args[0])
            left = 0
        if left or failures:
            # With it goes what it still holds, which a repetition would park once more.
            self._producer = None
            raise _not_parked(failures[0] if failures else None, self._dead_letter_topic)

    def halt(self, topic: str, partition: int) -> None:
        """See ports.EventStream."""
        place = confluent_kafka.TopicPartition(topic, partition)
        try:
            [found] = self._consumer.committed([place], timeout=ANSWER_LIMIT_S)
            # Without an offset the group starts at the earliest record that is kept.
            offset = found.offset if found.offset >= 0 else self._earliest(place)
            mark = confluent_kafka.TopicPartition(topic, partition, offset, metadata=HALTED)
            with ends_process_after(NOTE_LIMIT_S):
                self._consumer.commit(offsets=[mark], asynchronous=False)
        except confluent_kafka.KafkaException as error:
            raise TransientError(f"Kafka did not take a note beside an offset ({error.args[0].name()})") from error

    def _earliest(self, place: confluent_kafka.TopicPartition) -> int:
        found = self._consumer.get_watermark_offsets(place, timeout=ANSWER_LIMIT_S)
        if found is None:
            raise TransientError("Kafka did not tell a partition's first offset (no answer)")
        return found[0]

    def halted(self, places: Collection[tuple[str, int]]) -> bool:
        """See ports.EventStream."""
        return any(one.metadata == HALTED for one in committed(self._consumer, places))

    def committed(self, places: Collection[Place]) -> Mapping[Place, int]:
        """See ports.EventStream."""
        return {(one.topic, one.partition): one.offset for one in committed(self._consumer, places) if one.offset >= 0}

    def commit(self, positions: Sequence[StreamPosition]) -> None:
        """See ports.EventStream."""
        ours = [one for one in positions if one.place in self._owned]
        self._commits.send(self._consumer, {one.place: one.next_offset for one in ours})

    def ends(self) -> Mapping[Place, int | None]:
        """Give the end of each owned partition as the last fetch told it, None before the first; asks nobody."""
        found: dict[Place, int | None] = {}
        for topic, partition in self._owned:
            known = self._consumer.get_watermark_offsets(confluent_kafka.TopicPartition(topic, partition), cached=True)
            found[topic, partition] = known[1] if known is not None and known[1] >= 0 else None
        return found

    def is_troubled(self) -> bool:
        """Tell whether the client has told of trouble, and nothing has come since."""
        return self._contact.is_troubled

    def close(self) -> None:
        """See ports.EventStream; offsets that were sent arrive before the member leaves."""
        self._commits.send(self._consumer, {})
        with ends_process_after(CLOSE_LIMIT_S):
            self._consumer.close()

    def _on_commit(
        self, error: confluent_kafka.KafkaError | None, offsets: list[confluent_kafka.TopicPartition]
    ) -> None:
        # The client's own errors have codes below 0; those of the broker are answers.
        (self._contact.trouble if error is not None and error.code() < 0 else self._contact.heard)()
        self._commits.answered(error, offsets)

    def _reaches(self) -> bool:
        try:
            self._consumer.list_topics(self._topics[0], timeout=CONTACT_LIMIT_S)
        except confluent_kafka.KafkaException:
            return False
        return True

    def _on_assign(self, consumer: confluent_kafka.Consumer, given: list[confluent_kafka.TopicPartition]) -> None:
        self._owned |= _places(given)
        self._unknown_since_s = None
        consumer.incremental_assign(given)
        if self._paused:
            consumer.pause(given)
        _log.info("partitions assigned", action="assigned", partitions=_names(given))

    def _on_revoke(self, consumer: confluent_kafka.Consumer, taken: list[confluent_kafka.TopicPartition]) -> None:
        # Batches are settled between polls, and this runs inside a poll: only marks may still be in flight.
        self._before_revoke(_places(taken))
        self._commits.send(consumer, {})
        self._commits.forget(_places(taken))
        self._owned -= _places(taken)
        consumer.incremental_unassign(taken)
        _log.info("partitions revoked", action="revoked", partitions=_names(taken))

    def _on_lost(self, consumer: confluent_kafka.Consumer, taken: list[confluent_kafka.TopicPartition]) -> None:
        # The group has thrown us out: others own them already, and there is nothing to commit any more.
        self._owned -= _places(taken)
        self._before_revoke(_places(taken))
        self._commits.forget(_places(taken))
        consumer.incremental_unassign(taken)
        _log.warning("partitions lost", action="lost", partitions=_names(taken))

    def _is_record(self, message: confluent_kafka.Message) -> bool:
        """Tell records from errors; librdkafka recovers from most errors by itself.

        Raises:
            TransientError, MisconfiguredError: it will not.
        """
        error = message.error()
        if error is None:
            self._unknown_since_s = None
            self._contact.heard()
            return True
        if error.code() == confluent_kafka.KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's own names
            return False
        if error.code() in _NOT_PROVISIONED:
            now_s = time.monotonic()
            self._unknown_since_s = self._unknown_since_s or now_s
            # A broker that has just started does not know its topics for a moment; a member that had them waits.
            if not self._owned or now_s - self._unknown_since_s > UNKNOWN_TOPIC_WAIT_S:
                message_text = f"Kafka: {error.name()}: create the topics (emrsync provision), or grant access"
                raise MisconfiguredError(message_text)
        if error.fatal():
            raise TransientError(f"Kafka's client cannot go on ({error.name()})")
        _log.warning("Kafka reports an error", action="kafka_error", reason=error.name())
        return False


def polled_record(message: confluent_kafka.Message) -> Record:
    """Give a message of the client, which is no error, as our value."""
    return Record(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        key=message.key(),
        value=message.value(),
        headers=_headers(message),
        timestamp_ms=_timestamp_ms(message),
    )


def _timestamp_ms(message: confluent_kafka.Message) -> int | None:
    kind, instant_ms = message.timestamp()
    return None if kind == confluent_kafka.TIMESTAMP_NOT_AVAILABLE else instant_ms


def _headers(message: confluent_kafka.Message) -> Sequence[tuple[str, bytes | None]]:
    try:
        pairs = _call_headers(message) or ()
    except (SystemError, UnicodeDecodeError):
        # One name is not UTF-8, and the client gives none of the headers; the group must pass such a record too.
        return [(UNREADABLE_HEADERS, None)]
    # What was read is a list with bytes; the client's annotation allows for what may be produced too.
    return cast("Sequence[tuple[str, bytes | None]]", pairs)


def _not_parked(error: confluent_kafka.KafkaError | None, topic: str) -> Exception:
    if error is not None and error.code() in _REFUSED:
        what = f"{topic} refuses a dead letter ({error.name()}); its offset stays"
        return MisconfiguredError(
            f"{what}: see what `emrsync provision` says of this topic, or grant the right to write"
        )
    reason = "no answer" if error is None else error.name()
    return TransientError(f"the dead-letter topic did not take a record ({reason}); its offset stays")


def _places(partitions: Sequence[confluent_kafka.TopicPartition]) -> frozenset[Place]:
    return frozenset((one.topic, one.partition) for one in partitions)


def _names(partitions: Sequence[confluent_kafka.TopicPartition]) -> Sequence[str]:
    return sorted(f"{one.topic}[{one.partition}]" for one in partitions)
