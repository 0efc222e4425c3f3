"""What a replay reads: the records of some spans of topics, whole and unchanged, merged into the order of seq."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

from connectors.outbox import EntityType
from connectors.topics import entity_topic
from consumer.ports import Record
from operations.kafka_times import TopicTimes

_LAST: Final = 2**63


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """Records of one partition, from offset start to before end."""

    topic: str
    partition: int
    start: int
    end: int


@dataclasses.dataclass(frozen=True, slots=True)
class Gap:
    """Offsets, from start to before end, that a source lacks behind its first record.

    after_ms and before_ms are the times of the records around it, None where there is none.
    """

    start: int
    end: int
    after_ms: int | None
    before_ms: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """What a source holds of one partition; oldest_ms is the time of its first record, None when it holds none.

    complete: nothing from before the first record has been dropped.
    """

    span: Span
    oldest_ms: int | None
    complete: bool
    gaps: tuple[Gap, ...] = ()


Records: TypeAlias = Callable[[Span], Iterator[Record]]


class TopicSource:
    """The topics on the broker, read without joining the group."""

    name: Final = "topics"

    def __init__(self, kafka: TopicTimes, prefix: str) -> None:
        self._kafka = kafka
        self._prefix = prefix

    def kept(self, entity_types: Sequence[EntityType]) -> tuple[Kept, ...]:
        """Tell what is kept of the topics of these entity types."""
        found = []
        for entity_type in entity_types:
            topic = entity_topic(entity_type, self._prefix)
            held = zip(self._kafka.kept(topic).offsets, self._kafka.oldest_ms(topic), strict=True)
            for number, ((first, end), oldest_ms) in enumerate(held):
                found.append(Kept(Span(topic, number, first, end), oldest_ms, complete=first == 0))
        return tuple(found)

    def offset_at(self, span: Span, instant_ms: int) -> int:
        """Return the first offset of a span whose record is not older; its end if there is none."""
        at = self._kafka.offsets_at(span.topic, instant_ms)[span.partition]
        return min(max(at, span.start), span.end)

    def records(self, span: Span) -> Iterator[Record]:
        """Read a span, oldest first."""
        return self._kafka.records(span.topic, span.partition, span.start, span.end)


def merged(read: Records, spans: Sequence[Span]) -> Iterator[Record]:
    """Read spans together by seq: about as the application wrote them, and each partition in its own order.

    Parents so come before their children as they did at first, and what an entity's partition kept in order stays so.
    """
    streams = [read(span) for span in spans if span.start < span.end]
    return heapq.merge(*streams, key=_seq)


def _seq(record: Record) -> int:
    for name, value in record.headers:
        if name == "seq":
            return int(value) if value is not None and value.isdigit() else _LAST
    # No event: it must not hold up the others of its partition, nor come before what it stands behind.
    return 0
