"""Archives what topics keep, checks archives, and reads them as a replay reads topics."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from connectors.outbox import EntityType
from connectors.topics import entity_topic
from consumer.ports import Place, Record
from operations.archive_store import INDEX, ArchivedFile, ArchiveStore, Manifest
from operations.errors import ArchiveError
from operations.kafka import KafkaAdmin
from operations.record_source import Gap, Kept, Span

FILE_RECORDS_MAX: Final = 20_000
"""Records of one file: their values are held while it is written, about 20 MB at 1 kB each."""

_FILE_VALUE_BYTES_MAX: Final = 67_108_864


class Archiving:
    """One run; records and files say what it has added, lost which offsets were gone before they could be archived."""

    def __init__(self, kafka: KafkaAdmin, store: ArchiveStore) -> None:
        self._kafka = kafka
        self._store = store
        self.records = self.files = 0
        self.lost: list[str] = []

    def portions(self, topics: Sequence[str]) -> Iterator[int]:
        """Add what the topics hold beyond the archive's end; yield the records of each file, which counts from then on.

        Raises:
            ArchiveError: a topic is another than the one that was archived, or the archive lacks what it held, or
                cannot be written.
        """
        self._store.make_index()
        for topic in topics:
            kept = self._kafka.kept(topic)
            for partition, (first, end) in enumerate(kept.offsets):
                manifest = self._manifest(topic, partition, kept.topic_id)
                self._store.clear(topic, partition, manifest, first)
                start = max(first, manifest.end or 0)
                if first > (manifest.end or 0):
                    self.lost.append(f"{topic} partition {partition}: offsets {manifest.end or 0} to {first - 1}")
                for chunk, chunk_end in _files(self._kafka.records(topic, partition, start, end), end):
                    manifest = self._store.write(manifest, chunk, chunk_end, start)
                    start = chunk_end
                    self.records += len(chunk)
                    self.files += 1
                    yield len(chunk)
                yield 0

    def _manifest(self, topic: str, partition: int, topic_id: str) -> Manifest:
        manifest = self._store.manifest(topic, partition) or Manifest(topic, partition, topic_id, ())
        if manifest.topic_id != topic_id:
            raise ArchiveError(f"{topic} was made anew, and its offsets begin again: archive it to another place")
        archived = self._store.ends().get((topic, partition), 0)
        if (manifest.end or 0) < archived:
            raise ArchiveError(
                f"archive {self._store.root}: {_lacks(manifest, archived)}: bring it back from a copy, or archive to"
                " another place"
            )
        return manifest


def _lacks(manifest: Manifest, archived: int) -> str:
    return (
        f"{manifest.topic} partition {manifest.partition}: offsets {manifest.end or 0} to {archived - 1} were archived"
        " and are there no more"
    )


def _gaps(manifest: Manifest, archived: int) -> Iterator[Gap]:
    """Tell what is missing behind the first file, up to the offset that was archived."""
    for before, one in itertools.pairwise(manifest.files):
        if before.end < one.start:
            yield Gap(before.end, one.start, before.last_ms, one.first_ms)
    if (manifest.end or 0) < archived:
        last_ms = manifest.files[-1].last_ms if manifest.files else None
        yield Gap(manifest.end or 0, archived, last_ms, None)


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


class Verification:
    """One check of a whole archive; records counts what was read, faults say what is wrong."""

    def __init__(self, store: ArchiveStore) -> None:
        self._store = store
        self.records = 0
        self.faults: list[str] = []

    def portions(self) -> Iterator[int]:
        """Check bytes, counts, order, gaps, overlaps, and that nothing is missing; yield the records of each file."""
        manifests: dict[Place, Manifest] = {}
        unreadable = 0
        for path in self._store.manifest_paths():
            try:
                manifest = self._store.read_manifest(path)
                manifests[manifest.topic, manifest.partition] = manifest
            except ArchiveError as error:
                unreadable += 1
                self.faults.append(str(error))
        if not manifests and not unreadable:
            self.faults.append(f"{self._store.root}: holds no archive")
        self._check_whole(manifests)
        for manifest in manifests.values():
            self._check_order(manifest)
            for one in manifest.files:
                yield self._read(manifest, one)

    def _check_whole(self, manifests: Mapping[Place, Manifest]) -> None:
        """Compare with what the index knows, and find files that nothing names."""
        if manifests and not self._store.has_index():
            self.faults.append(
                f"{INDEX} is not there, so that a missing folder would not be noticed; `emrsync archive run` writes it"
            )
        try:
            for place, end in self._store.ends().items():
                manifest = manifests.get(place) or Manifest(*place, "", ())
                if (manifest.end or 0) < end:
                    self.faults.append(_lacks(manifest, end))
        except ArchiveError as error:
            self.faults.append(str(error))
        for place in self._store.folders():
            unnamed = self._store.unnamed(*place, manifests.get(place))
            self.faults += [f"{path}: is in no manifest; left by a run that was interrupted, or the manifest is an"
                            " older one" for path in unnamed]  # fmt: skip

    def _check_order(self, manifest: Manifest) -> None:
        place = f"{manifest.topic} partition {manifest.partition}"
        self.faults += [f"{place}: offsets {start} to {end - 1} are in no file" for start, end in manifest.gaps]
        for before, one in itertools.pairwise(manifest.files):
            if one.start < before.end:
                self.faults.append(f"{place}: {before.name} and {one.name} overlap")

    def _read(self, manifest: Manifest, one: ArchivedFile) -> int:
        try:
            offsets = [record.offset for record in self._store.records(manifest, one)]
        except ArchiveError as error:
            self.faults.append(str(error))
            return 0
        self.records += len(offsets)
        rising = all(a < b for a, b in itertools.pairwise(offsets))
        inside = not offsets or (one.start <= offsets[0] and offsets[-1] < one.end)
        if len(offsets) != one.records or not rising or not inside:
            self.faults.append(
                f"{manifest.topic} partition {manifest.partition}, {one.name}: its records are not those that the"
                " manifest tells of"
            )
        return len(offsets)


class ArchiveSource:
    """An archive, read as TopicSource reads topics."""

    def __init__(self, store: ArchiveStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._manifests = {(one.topic, one.partition): one for one in store.manifests()}
        self._ends = store.ends()
        if not self._manifests and not self._ends:
            raise ArchiveError(f"{store.root}: holds no archive; name the PLACE that `emrsync archive run` writes to")

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
        for place in sorted({*self._manifests, *self._ends}):
            manifest = self._manifests.get(place) or Manifest(*place, "", ())
            end = manifest.end or 0
            if place[0] in topics and (manifest.files or place in self._ends):
                first = manifest.files[0] if manifest.files else None
                span = Span(*place, first.start if first else end, end)
                oldest_ms = first.first_ms if first else None
                gaps = tuple(_gaps(manifest, self._ends.get(place, 0)))
                found.append(Kept(span, oldest_ms, complete=span.start == 0, gaps=gaps))
        return tuple(found)

    def offset_at(self, span: Span, instant_ms: int) -> int:
        """See TopicSource."""
        manifest = self._manifests.get((span.topic, span.partition))
        if manifest is None:
            return span.end
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
            if span.start < span.end:
                raise ArchiveError(f"{self.name}: holds nothing of {span.topic} partition {span.partition} any more")
            return
        for one in manifest.files:
            if one.end > span.start and one.start < span.end:
                for record in self._store.records(manifest, one):
                    if span.start <= record.offset < span.end:
                        yield record
