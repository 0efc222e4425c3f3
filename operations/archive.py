"""Archives what topics keep, checks archives, and reads them as a replay reads topics."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from connectors.outbox import EntityType
from connectors.topics import entity_topic
from consumer.ports import Place, Record
from operations.archive_store import ArchiveStore, Manifest
from operations.errors import ArchiveError
from operations.kafka import KafkaAdmin
from operations.record_source import Kept, Span

FILE_RECORDS_MAX: Final = 20_000
"""Records of one file: their values are held while it is written, about 20 MB at 1 kB each."""

_FILE_VALUE_BYTES_MAX: Final = 67_108_864

Told = Callable[[int], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Archived:
    """What a run has added, and the ranges of offsets that were gone before they could be archived."""

    records: int
    files: int
    lost: tuple[str, ...]


def archive_topics(kafka: KafkaAdmin, store: ArchiveStore, topics: Sequence[str], told: Told) -> Archived:
    """Add what the topics hold beyond the archive's end; each file counts as soon as its manifest names it.

    Raises:
        ArchiveError: a topic is another than the one that was archived, or the archive cannot be written.
    """
    records = files = 0
    lost: list[str] = []
    for topic in topics:
        kept = kafka.kept(topic)
        for partition, (first, end) in enumerate(kept.offsets):
            manifest = store.manifest(topic, partition) or Manifest(topic, partition, kept.topic_id, ())
            if manifest.topic_id != kept.topic_id:
                raise ArchiveError(f"{topic} was made anew, and its offsets begin again: archive it to another place")
            start = max(first, manifest.end or 0)
            if first > (manifest.end or 0):
                lost.append(f"{topic} partition {partition}: offsets {manifest.end or 0} to {first - 1}")
            for chunk, chunk_end in _files(kafka.records(topic, partition, start, end), end):
                manifest = store.write(manifest, chunk, chunk_end, start)
                start = chunk_end
                records += len(chunk)
                files += 1
                told(len(chunk))
    return Archived(records, files, tuple(lost))


def _files(records: Iterator[Record], end: int) -> Iterator[tuple[Sequence[Record], int]]:
    """Cut records into files, each with the offset after it."""
    chunk: list[Record] = []
    size = 0
    for record in records:
        if len(chunk) == FILE_RECORDS_MAX or (chunk and size + len(record.value or b"") > _FILE_VALUE_BYTES_MAX):
            yield chunk, record.offset
            chunk, size = [], 0
        chunk.append(record)
        size += len(record.value or b"")
    if chunk:
        yield chunk, end


def verify(store: ArchiveStore, told: Told) -> tuple[int, tuple[str, ...]]:
    """Return how many records the archive holds, and what is wrong with it: bytes, counts, order, gaps, overlaps."""
    count = 0
    faults: list[str] = []
    for manifest in store.manifests():
        place = f"{manifest.topic} partition {manifest.partition}"
        faults += [f"{place}: offsets {start} to {end - 1} are in no file" for start, end in manifest.gaps]
        for before, one in itertools.pairwise(manifest.files):
            if one.start < before.end:
                faults.append(f"{place}: {before.name} and {one.name} overlap")
        for one in manifest.files:
            fault = store.fault(manifest, one)
            if fault is not None:
                faults.append(fault)
                continue
            offsets = [record.offset for record in store.records(manifest, one)]
            told(len(offsets))
            count += len(offsets)
            rising = all(a < b for a, b in itertools.pairwise(offsets))
            inside = not offsets or (one.start <= offsets[0] and offsets[-1] < one.end)
            if len(offsets) != one.records or not rising or not inside:
                faults.append(f"{place}, {one.name}: its records are not those that the manifest tells of")
    return count, tuple(faults)


class ArchiveSource:
    """An archive, read as TopicSource reads topics."""

    def __init__(self, store: ArchiveStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._manifests = {(one.topic, one.partition): one for one in store.manifests()}

    @property
    def name(self) -> str:
        """Where it is."""
        return self._store.root

    @property
    def places(self) -> frozenset[Place]:
        """The partitions of which something is archived."""
        return frozenset(self._manifests)

    def kept(self, entity_types: Sequence[EntityType]) -> tuple[Kept, ...]:
        """See TopicSource."""
        topics = {entity_topic(one, self._prefix) for one in entity_types}
        found = []
        for (topic, partition), manifest in sorted(self._manifests.items()):
            if topic in topics and manifest.files:
                first = manifest.files[0]
                span = Span(topic, partition, first.start, manifest.files[-1].end)
                found.append(Kept(span, first.first_ms, complete=not manifest.gaps))
        return tuple(found)

    def offset_at(self, span: Span, instant_ms: int) -> int:
        """See TopicSource."""
        manifest = self._manifests[span.topic, span.partition]
        for one in manifest.files:
            if one.last_ms is not None and one.last_ms >= instant_ms:
                for record in self._store.records(manifest, one):
                    if record.timestamp_ms is not None and record.timestamp_ms >= instant_ms:
                        return min(max(record.offset, span.start), span.end)
        return span.end

    def records(self, span: Span) -> Iterator[Record]:
        """See TopicSource."""
        manifest = self._manifests.get((span.topic, span.partition))
        if manifest is None:
            raise ArchiveError(f"{self.name}: holds nothing of {span.topic} partition {span.partition} any more")
        for one in manifest.files:
            if one.end > span.start and one.start < span.end:
                for record in self._store.records(manifest, one):
                    if span.start <= record.offset < span.end:
                        yield record
