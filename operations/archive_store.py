"""Archives of topics: Avro files, each with the records of an offset range, and one manifest per partition."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import fastavro
import fsspec
from fsspec.implementations.local import LocalFileSystem

from consumer.ports import Record
from operations.errors import ArchiveError

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
_PART: Final = ".part"
_BLOCK_BYTES: Final = 1_048_576


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
    """A folder, or whatever else fsspec knows by a URL; every method may raise ArchiveError."""

    def __init__(self, root: str) -> None:
        self.root = root
        try:
            self._fs, self._path = fsspec.core.url_to_fs(root)
        except (ValueError, ImportError) as error:
            raise ArchiveError(f"{root}: {error}") from None

    def manifests(self) -> Sequence[Manifest]:
        """Read the manifests of all partitions."""
        try:
            paths = sorted(self._fs.glob(f"{self._path}/*/*/{MANIFEST}"))
        except OSError as error:
            raise ArchiveError(f"{self.root}: {error.strerror or 'cannot be read'}") from None
        return [self._read_manifest(path) for path in paths]

    def manifest(self, topic: str, partition: int) -> Manifest | None:
        """Read one partition's manifest; None when nothing is archived of it."""
        path = f"{self._folder(topic, partition)}/{MANIFEST}"
        return self._read_manifest(path) if self._fs.exists(path) else None

    def write(self, manifest: Manifest, records: Sequence[Record], end: int, start: int) -> Manifest:
        """Add a file with these records, which are all from offset start to before end; return the new manifest.

        Nothing refers to a file before it is complete and in its place; a killed run leaves at most a file that no
        manifest names, and the next run writes it anew.
        """
        folder = self._folder(manifest.topic, manifest.partition)
        name = f"{start:020d}-{end:020d}.avro"
        self._fs.makedirs(folder, exist_ok=True)
        part = f"{folder}/{name}{_PART}"
        with self._fs.open(part, "wb") as file:
            fastavro.writer(
                file,
                _schema(),
                (_archived(one) for one in records),
                codec="deflate",
                metadata={"topic": manifest.topic, "partition": str(manifest.partition)},
            )
            self._to_disk(file)
        sha256, file_bytes = self._digest(part)
        self._fs.mv(part, f"{folder}/{name}")
        times = [one.timestamp_ms for one in records if one.timestamp_ms is not None]
        first_ms, last_ms = (min(times), max(times)) if times else (None, None)
        added = ArchivedFile(name, start, end, len(records), file_bytes, sha256, first_ms, last_ms)
        grown = dataclasses.replace(manifest, files=(*manifest.files, added))
        self._write_manifest(grown)
        return grown

    def records(self, manifest: Manifest, one: ArchivedFile) -> Iterator[Record]:
        """Read a file's records, after its digest was found right."""
        fault = self.fault(manifest, one)
        if fault is not None:
            raise ArchiveError(fault)
        with self._fs.open(self._of(manifest, one), "rb") as file:
            for row in fastavro.reader(file, _schema()):
                assert isinstance(row, dict)  # noqa: S101 - the schema is a record
                yield _record(manifest, row)

    def fault(self, manifest: Manifest, one: ArchivedFile) -> str | None:
        """Say what is wrong with a file's bytes; None when they are those that were written."""
        path = self._of(manifest, one)
        place = f"{manifest.topic} partition {manifest.partition}, {one.name}"
        if not self._fs.exists(path):
            return f"{place}: is not there"
        sha256, _ = self._digest(path)
        return None if sha256 == one.sha256 else f"{place}: its bytes are not those that were written"

    def _read_manifest(self, path: str) -> Manifest:
        try:
            with self._fs.open(path, "rb") as file:
                found = json.load(file)
            if found["format"] != FORMAT:
                raise ArchiveError(f"{path}: was written by a newer version")
            if found["sha256"] != _manifest_digest(found["manifest"]):
                raise ArchiveError(f"{path}: its bytes are not those that were written")
            inner = found["manifest"]
            files = tuple(ArchivedFile(**one) for one in inner["files"])
            return Manifest(inner["topic"], inner["partition"], inner["topic_id"], files)
        except (ValueError, KeyError, TypeError):
            raise ArchiveError(f"{path}: is no manifest any more") from None

    def _write_manifest(self, manifest: Manifest) -> None:
        folder = self._folder(manifest.topic, manifest.partition)
        inner = dataclasses.asdict(manifest)
        text = json.dumps({"format": FORMAT, "sha256": _manifest_digest(inner), "manifest": inner}, indent=1)
        with self._fs.open(f"{folder}/{MANIFEST}{_PART}", "wb") as file:
            file.write(text.encode())
            self._to_disk(file)
        self._fs.mv(f"{folder}/{MANIFEST}{_PART}", f"{folder}/{MANIFEST}")

    def _to_disk(self, file: Any) -> None:
        """Let a local file survive a power cut; an object store does so by itself when it is closed."""
        if isinstance(self._fs, LocalFileSystem):
            file.flush()
            os.fsync(file.fileno())

    def _digest(self, path: str) -> tuple[str, int]:
        found, size = hashlib.sha256(), 0
        with self._fs.open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                found.update(block)
                size += len(block)
        return found.hexdigest(), size

    def _folder(self, topic: str, partition: int) -> str:
        return f"{self._path}/{topic}/{partition:05d}"

    def _of(self, manifest: Manifest, one: ArchivedFile) -> str:
        return f"{self._folder(manifest.topic, manifest.partition)}/{one.name}"


def _manifest_digest(inner: Mapping[str, Any]) -> str:
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
