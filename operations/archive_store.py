"""Archives of topics: Avro files, each with the records of an offset range, and one manifest per partition."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import fastavro

from consumer.ports import Record
from operations.archive_place import PART, ArchivePlace
from operations.errors import ArchiveError

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
INDEX: Final = "index.json"

_OURS: Final = re.compile(rf"([0-9]{{20}})-[0-9]{{20}}\.avro(?:{re.escape(PART)})?|{MANIFEST}{re.escape(PART)}")
"""Names that a run gives; whatever else lies in a folder is left alone."""


@dataclasses.dataclass(frozen=True, slots=True)
class ArchivedFile:
    """One file: the records from offset start to before end, how many, its digest, and the times of its records."""

    name: str
    start: int
    end: int
    records: int
    file_bytes: int
    sha256: str
    first_ms: int | None
    last_ms: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """What is archived of one partition, in the order of offsets; topic_id is that of the topic it came from."""

    topic: str
    partition: int
    topic_id: str
    files: tuple[ArchivedFile, ...]

    @property
    def end(self) -> int | None:
        """The offset after the last archived one; None when nothing is."""
        return self.files[-1].end if self.files else None

    @property
    def gaps(self) -> tuple[tuple[int, int], ...]:
        """Ranges of offsets that no file covers: the topic had dropped them before they were archived."""
        bounds = [0, *(one.end for one in self.files)]
        starts = [one.start for one in self.files]
        return tuple((end, start) for end, start in zip(bounds, starts, strict=False) if start > end)


class ArchiveStore:
    """An archive at a place; every method may raise ArchiveError."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._place = ArchivePlace(root)

    def manifest_paths(self) -> Sequence[str]:
        """Return where the manifests of all partitions are."""
        return self._place.matching(f"*/*/{MANIFEST}")

    def manifests(self) -> Sequence[Manifest]:
        """Read the manifests of all partitions."""
        return [self.read_manifest(path) for path in self.manifest_paths()]

    def manifest(self, topic: str, partition: int) -> Manifest | None:
        """Read one partition's manifest; None when nothing is archived of it."""
        path = f"{_folder(topic, partition)}/{MANIFEST}"
        return self.read_manifest(path) if self._place.exists(path) else None

    def has_index(self) -> bool:
        """Tell whether the index is there; an archive of an earlier version has none."""
        return self._place.exists(INDEX)

    def make_index(self) -> None:
        """Write the index by what the manifests say, if it is not there."""
        if not self.has_index():
            ends = {(one.topic, one.partition): one.end for one in self.manifests()}
            self._write_ends({place: end for place, end in ends.items() if end is not None})

    def ends(self) -> Mapping[tuple[str, int], int]:
        """Return by topic and partition up to which offset was archived, as the index beside all manifests says.

        It is written after a manifest, so it may be behind one, and never before it.
        """
        if not self.has_index():
            return {}
        return {(one["topic"], one["partition"]): one["end"] for one in self._read(INDEX, "ends")}

    def write(self, manifest: Manifest, records: Sequence[Record], end: int, start: int) -> Manifest:
        """Add a file with these records, which are all from offset start to before end; return the new manifest.

        Nothing refers to a file before it is complete and in its place; a killed run leaves at most a file that no
        manifest names, which the next run removes.
        """
        folder = _folder(manifest.topic, manifest.partition)
        name = f"{start:020d}-{end:020d}.avro"
        origin = {"topic": manifest.topic, "partition": str(manifest.partition)}

        def write(file: Any) -> None:
            fastavro.writer(file, _schema(), (_archived(one) for one in records), codec="deflate", metadata=origin)

        sha256, file_bytes = self._place.put(f"{folder}/{name}", write)
        times = [one.timestamp_ms for one in records if one.timestamp_ms is not None]
        first_ms, last_ms = (min(times), max(times)) if times else (None, None)
        added = ArchivedFile(name, start, end, len(records), file_bytes, sha256, first_ms, last_ms)
        grown = dataclasses.replace(manifest, files=(*manifest.files, added))
        self._write_manifest(grown)
        self._write_ends({**self.ends(), (grown.topic, grown.partition): end})
        return grown

    def unnamed(self, topic: str, partition: int, manifest: Manifest | None) -> Sequence[str]:
        """Return the paths of the files that a run has written there and that the manifest does not name."""
        named = {one.name for one in manifest.files} if manifest else set()
        found = self._place.matching(f"{_folder(topic, partition)}/*")
        names = ((path, path.rpartition("/")[2]) for path in found)
        return [path for path, name in names if _OURS.fullmatch(name) and name not in named]

    def folders(self) -> Sequence[tuple[str, int]]:
        """Return the topics and partitions of which there is any file."""
        paths = (path.split("/") for path in self._place.matching("*/*/*"))
        return sorted({(topic, int(number)) for topic, number, _ in paths if number.isdigit()})

    def clear(self, topic: str, partition: int, manifest: Manifest | None, first: int) -> None:
        """Remove what an earlier run had not finished; its records are from offset first on in the topic still.

        Raises:
            ArchiveError: the topic has dropped records of such a file, which then may be the only place that has them.
        """
        for path in self.unnamed(topic, partition, manifest):
            ours = _OURS.fullmatch(path.rpartition("/")[2])
            start = ours[1] if ours and not path.endswith(PART) else None
            if start is not None and int(start) < first:
                raise ArchiveError(
                    f"archive {self.root}: {path} is in no manifest, and the topic has dropped what it holds: bring"
                    f" the newest {MANIFEST} of its folder back, or move that file elsewhere"
                )
            self._place.remove(path)

    def records(self, manifest: Manifest, one: ArchivedFile) -> Iterator[Record]:
        """Read a file's records, after its digest was found right."""
        fault = self.fault(manifest, one)
        if fault is not None:
            raise ArchiveError(fault)
        with self._place.reading(_of(manifest, one)) as file:
            for row in fastavro.reader(file, _schema()):
                assert isinstance(row, dict)  # noqa: S101 - the schema is a record
                yield _record(manifest, row)

    def fault(self, manifest: Manifest, one: ArchivedFile) -> str | None:
        """Say what is wrong with a file's bytes; None when they are those that were written."""
        path = _of(manifest, one)
        place = f"{manifest.topic} partition {manifest.partition}, {one.name}"
        if not self._place.exists(path):
            return f"{place}: is not there"
        sha256, _ = self._place.digest(path)
        return None if sha256 == one.sha256 else f"{place}: its bytes are not those that were written"

    def read_manifest(self, path: str) -> Manifest:
        """Read a manifest by its path."""
        inner = self._read(path, "manifest")
        try:
            files = tuple(ArchivedFile(**one) for one in inner["files"])
            return Manifest(inner["topic"], inner["partition"], inner["topic_id"], files)
        except (KeyError, TypeError):
            raise ArchiveError(f"{self.root}/{path}: is no manifest any more") from None

    def _read(self, path: str, name: str) -> Any:
        where = f"{self.root}/{path}"
        try:
            with self._place.reading(path) as file:
                found = json.load(file)
            if found["format"] != FORMAT:
                raise ArchiveError(f"{where}: was written by a newer version")
            if found["sha256"] != _json_digest(found[name]):
                raise ArchiveError(f"{where}: its bytes are not those that were written")
            return found[name]
        except (ValueError, KeyError, TypeError):
            raise ArchiveError(f"{where}: is no {name} any more") from None

    def _write(self, path: str, name: str, inner: Any) -> None:
        text = json.dumps({"format": FORMAT, "sha256": _json_digest(inner), name: inner}, indent=1)
        self._place.put(path, lambda file: file.write(text.encode()))

    def _write_manifest(self, manifest: Manifest) -> None:
        self._write(
            f"{_folder(manifest.topic, manifest.partition)}/{MANIFEST}", "manifest", dataclasses.asdict(manifest)
        )

    def _write_ends(self, ends: Mapping[tuple[str, int], int]) -> None:
        inner = [{"topic": topic, "partition": number, "end": at} for (topic, number), at in sorted(ends.items())]
        self._write(INDEX, "ends", inner)


def _folder(topic: str, partition: int) -> str:
    return f"{topic}/{partition:05d}"


def _of(manifest: Manifest, one: ArchivedFile) -> str:
    return f"{_folder(manifest.topic, manifest.partition)}/{one.name}"


def _json_digest(inner: Any) -> str:
    return hashlib.sha256(json.dumps(inner, sort_keys=True).encode()).hexdigest()


def _schema() -> Any:
    text = importlib.resources.files("connectors.contracts.archive").joinpath("record-v1.avsc").read_text("utf-8")
    return fastavro.parse_schema(json.loads(text))


def _archived(record: Record) -> dict[str, Any]:
    return {
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        "key": record.key,
        "value": record.value,
        "headers": [{"name": name, "value": value} for name, value in record.headers],
    }


def _record(manifest: Manifest, row: Mapping[str, Any]) -> Record:
    return Record(
        topic=manifest.topic,
        partition=manifest.partition,
        offset=row["offset"],
        key=row["key"],
        value=row["value"],
        headers=[(one["name"], one["value"]) for one in row["headers"]],
        timestamp_ms=row["timestamp_ms"],
    )
