"""When the records of topics were written: where a time begins, and since when nothing is missing."""

from __future__ import annotations

import time

from confluent_kafka import TopicPartition

from operations.kafka import OFFSET_SPEC, KafkaAdmin


class TopicTimes(KafkaAdmin):
    """What the brokers know of times; every method may raise KafkaUnreachableError or KafkaRefusedError."""

    def offsets_at(self, topic: str, instant_ms: int) -> tuple[int, ...]:
        """Return by partition the first offset whose record is not older (ms since 1970); the end if there is none."""
        kept = self.kept(topic).offsets
        partitions = [TopicPartition(topic, number) for number in range(len(kept))]
        found = self._offsets(partitions, OFFSET_SPEC.for_timestamp(instant_ms))
        return tuple(end if (offset := found[topic, number]) < 0 else offset for number, (_, end) in enumerate(kept))

    def oldest_ms(self, topic: str) -> tuple[int | None, ...]:
        """Return by partition the time of the first record that is kept (ms since 1970); None if none is."""
        partitions = [TopicPartition(topic, number) for number in range(len(self.kept(topic).offsets))]
        asked = dict.fromkeys(partitions, OFFSET_SPEC.for_timestamp(0))
        answers = self._admin.list_offsets(asked, request_timeout=self._answer_limit_s)
        times = {one.partition: self._result(answer).timestamp for one, answer in answers.items()}
        return tuple(None if times[number] < 0 else times[number] for number in range(len(partitions)))

    def replayable_ms(self, topic: str) -> int | None:
        """Return since when (ms since 1970) a topic holds every record; None when it has dropped none yet."""
        kept = zip(self.kept(topic).offsets, self.oldest_ms(topic), strict=True)
        dropped = [oldest_ms for (first, _), oldest_ms in kept if first > 0]
        # A partition that holds nothing any more has dropped all up to now.
        return max((int(time.time() * 1000) if one is None else one for one in dropped), default=None)
