"""The group's offsets: asked for as one of its members or as somebody who only asks, and sent without waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import confluent_kafka
import structlog

from consumer.deadline import ends_process_after
from consumer.ports import Place, TransientError

ANSWER_LIMIT_S: Final = 10.0

CLOSE_LIMIT_S: Final = 60.0
"""The client leaves the group within seconds, if no commit hangs."""

AGAIN_S: Final = 1.0
"""Until offsets that Kafka did not take are sent again, if no others go before."""

# The group moved on while we worked: the partitions' new owners read from the last committed offset, and the
# ledger makes what they repeat a duplicate.
_MOVED_ON: Final = frozenset(
    {
        confluent_kafka.KafkaError.ILLEGAL_GENERATION,
        confluent_kafka.KafkaError.UNKNOWN_MEMBER_ID,
        confluent_kafka.KafkaError.REBALANCE_IN_PROGRESS,
        confluent_kafka.KafkaError.STALE_MEMBER_EPOCH,
        confluent_kafka.KafkaError.FENCED_MEMBER_EPOCH,
        confluent_kafka.KafkaError._ASSIGNMENT_LOST,  # noqa: SLF001 - librdkafka names its own errors so
        confluent_kafka.KafkaError._NO_OFFSET,  # noqa: SLF001 - librdkafka names its own errors so
    }
)

_log = structlog.get_logger()


class OffsetCommits:
    """Offsets on their way to Kafka, whose answers come within later polls.

    A member that waited for them would not poll meanwhile: while no coordinator is known, the client (librdkafka
    2.16) keeps a commit back for 45 s.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._newest: dict[Place, int] = {}
        self._refused: dict[Place, int] = {}
        self._refused_s = 0.0
        self._told = False

    def send(self, consumer: confluent_kafka.Consumer, offsets: Mapping[Place, int]) -> None:
        """Send offsets, and with them what was not taken before."""
        sent = {**self._refused, **offsets}
        self._refused = {}
        if not sent:
            return
        self._newest.update(sent)
        asked = [confluent_kafka.TopicPartition(*place, offset) for place, offset in sent.items()]
        try:
            consumer.commit(offsets=asked, asynchronous=True)
        except confluent_kafka.KafkaException as error:
            self.answered(error.args[0], asked)

    def send_refused(self, consumer: confluent_kafka.Consumer) -> None:
        """Send what was not taken, when it is time."""
        if self._refused and self._clock() - self._refused_s >= AGAIN_S:
            self.send(consumer, {})

    def answered(
        self, error: confluent_kafka.KafkaError | None, offsets: Sequence[confluent_kafka.TopicPartition]
    ) -> None:
        """Take an answer: what was refused is kept, unless later offsets of its partition are on their way."""
        if error is None:
            self._told = False
        elif error.code() in _MOVED_ON:
            _log.info("offsets not committed", action="commit_skipped", reason=error.name())
        else:
            places = {(one.topic, one.partition): one.offset for one in offsets}
            self._refused |= {place: at for place, at in places.items() if self._newest.get(place) == at}
            self._refused_s = self._clock()
            if not self._told:
                _log.warning("offsets wait", action="offsets_wait", reason=f"Kafka did not take them ({error.name()})")
            self._told = True

    def forget(self, places: Collection[Place]) -> None:
        """Forget partitions that go to another member."""
        for place in places:
            self._newest.pop(place, None)
            self._refused.pop(place, None)


def group_offsets(consumer: Mapping[str, Any], topics: Collection[str]) -> Mapping[Place, int]:
    """Return a group's offsets without joining it; none where topics are missing or access is, as members say that.

    Raises:
        TransientError: Kafka does not tell.
    """
    asking = confluent_kafka.Consumer(dict(consumer))
    try:
        seen = asking.list_topics(timeout=ANSWER_LIMIT_S).topics
        places = [(name, partition) for name in topics if name in seen for partition in seen[name].partitions]
        found = committed(asking, places) if places else ()
    except confluent_kafka.KafkaException as error:
        raise TransientError(f"Kafka did not tell its topics ({error.args[0].name()})") from error
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
