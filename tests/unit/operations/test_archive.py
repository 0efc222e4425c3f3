"""Archives on a real file system: what an interrupted run leaves, what is missing, and a place that refuses."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from connectors.outbox import EntityType
from consumer.ports import Record
from operations import cli
from operations.archive import ArchiveSource, Archiving, Verification
from operations.archive_store import INDEX, MANIFEST, ArchivedFile, ArchiveStore, Manifest
from operations.errors import ArchiveError
from operations.kafka import KafkaAdmin, KeptRecords
from operations.replay_selection import Selection, limits_hit

TOPIC = "emrsync.patient"
HOUR_MS = 3_600_000
SINCE_1970 = 1_740_823_200_000  # 2025-03-01T10:00:00Z


class Topics(KafkaAdmin):
    """A topic of two partitions that keeps the records from offset first on; each is an hour younger."""

    def __init__(self, end: int, first: int = 0) -> None:
        self.end = end
        self.first = first

    def kept(self, topic: str) -> KeptRecords:  # noqa: ARG002 - the base's
        """Tell which records are there."""
        return KeptRecords("id", ((self.first, self.end), (self.first, self.end)))

    def records(self, topic: str, partition: int, start: int, end: int) -> Iterator[Record]:
        """Give them."""
        for offset in range(start, end):
            yield Record(
                topic=topic,
                partition=partition,
                offset=offset,
                key=b"P-1",
                value=b"{}",
                headers=[("seq", b"1")],
                timestamp_ms=SINCE_1970 + offset * HOUR_MS,
            )


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Give the place of an archive of two files for each partition."""
    place = tmp_path / "kept"
    run(place, Topics(3))
    run(place, Topics(6))
    return place


def run(place: Path, topics: KafkaAdmin) -> Archiving:
    """Archive."""
    archiving = Archiving(topics, ArchiveStore(str(place)))
    list(archiving.portions([TOPIC]))
    return archiving


def checked(place: Path) -> Verification:
    """Check an archive."""
    found = Verification(ArchiveStore(str(place)))
    list(found.portions())
    return found


def limits(place: Path, **wanted: str | int) -> tuple[str, ...]:
    """Say what a replay from an archive does not find."""
    asked = {"entity_types": ("patient",), "entity_ids": (), "target": None, "since": None, "until": None}
    chosen = Selection.of({**asked, **wanted})
    return limits_hit(chosen, ArchiveSource(ArchiveStore(str(place)), "emrsync").kept((EntityType.PATIENT,)))


def test_an_archive_is_whole_and_written_twice_it_is_the_same(kept: Path) -> None:
    """A run that finds nothing new changes nothing."""
    before = sorted(kept.rglob("*"))

    assert 0 == run(kept, Topics(6)).records
    assert (12, []) == (checked(kept).records, checked(kept).faults)
    assert before == sorted(kept.rglob("*"))


def test_what_an_interrupted_run_has_left_is_named_and_the_next_run_removes_it(kept: Path) -> None:
    """Its name holds an end that has moved on: nobody would ever write it again, and it holds health data."""
    folder = kept / TOPIC / "00000"
    left = [folder / f"{6:020d}-{8:020d}.avro", folder / f"{6:020d}-{9:020d}.avro.part", folder / f"{MANIFEST}.part"]
    for one in left:
        one.write_bytes(b"health data")
    (folder / "note.txt").write_text("not ours")

    assert 3 == sum("is in no manifest" in fault for fault in checked(kept).faults)
    run(kept, Topics(10))

    assert [] == [one for one in left if one.exists()]
    assert (folder / "note.txt").exists()
    assert (20, []) == (checked(kept).records, checked(kept).faults)


def test_an_unnamed_file_is_not_removed_when_the_topic_has_dropped_its_records(kept: Path) -> None:
    """It may be the only place that has them."""
    left = kept / TOPIC / "00000" / f"{6:020d}-{8:020d}.avro"
    left.write_bytes(b"health data")

    with pytest.raises(ArchiveError, match="is in no manifest, and the topic has dropped what it holds"):
        run(kept, Topics(10, first=7))

    assert left.exists()


def test_a_folder_that_was_deleted_is_noticed_by_checks_runs_and_replays(kept: Path) -> None:
    """The index beside all manifests knows of it."""
    shutil.rmtree(kept / TOPIC / "00001")
    lacks = f"{TOPIC} partition 1: offsets 0 to 5 were archived and are there no more"

    assert (6, [lacks]) == (checked(kept).records, checked(kept).faults)
    with pytest.raises(ArchiveError, match=re.escape(lacks)):
        run(kept, Topics(6))
    assert (f"{TOPIC} partition 1: offsets 0 to 5 are missing",) == limits(kept)


def test_a_manifest_that_is_older_than_its_files_is_noticed(kept: Path, tmp_path: Path) -> None:
    """Somebody has brought one back from a copy."""
    older = tmp_path / "older"
    run(older, Topics(3))
    shutil.copy(older / TOPIC / "00000" / MANIFEST, kept / TOPIC / "00000" / MANIFEST)

    faults = checked(kept).faults

    assert f"{TOPIC} partition 0: offsets 3 to 5 were archived and are there no more" in faults
    assert any(f"{3:020d}-{6:020d}.avro: is in no manifest" in fault for fault in faults)
    with pytest.raises(ArchiveError, match="offsets 3 to 5"):
        run(kept, Topics(6))
    assert (kept / TOPIC / "00000" / f"{3:020d}-{6:020d}.avro").exists()


def test_a_broken_manifest_does_not_hide_what_else_is_wrong(kept: Path) -> None:
    """All faults are told, and the other partition is read."""
    (kept / TOPIC / "00000" / MANIFEST).write_text("{")
    (kept / TOPIC / "00001" / f"{0:020d}-{3:020d}.avro").unlink()

    found = checked(kept)

    assert 3 == found.records
    assert any("is no manifest any more" in fault for fault in found.faults)
    assert any("is not there" in fault for fault in found.faults)


def test_an_archive_of_an_earlier_version_gets_its_index_from_the_next_run(kept: Path) -> None:
    """Until then a missing folder would not be noticed, which the check says."""
    (kept / INDEX).unlink()

    assert [True] == [INDEX in fault for fault in checked(kept).faults]
    run(kept, Topics(6))
    assert [] == checked(kept).faults


def test_a_place_without_an_archive_is_told(tmp_path: Path) -> None:
    """A mistyped name must not look like an archive that holds nothing."""
    assert [f"{tmp_path / 'nothing'}: holds no archive"] == checked(tmp_path / "nothing").faults
    with pytest.raises(ArchiveError, match="holds no archive"):
        ArchiveSource(ArchiveStore(str(tmp_path / "nothing")), "emrsync")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Such as a file where a folder should be."""
    (tmp_path / "file").write_text("")

    with pytest.raises(ArchiveError, match=re.escape(f"archive {tmp_path}/file/kept: Not a directory")):
        run(tmp_path / "file" / "kept", Topics(3))


def test_a_full_disk_is_named_and_leaves_nothing_half_written(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was archived before stays whole."""
    before = sorted(kept.rglob("*"))

    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ArchiveError, match=f"archive {kept}: No space left on device"):
            run(kept, Topics(9))

    assert before == sorted(kept.rglob("*"))
    assert (12, []) == (checked(kept).records, checked(kept).faults)


def test_a_file_and_its_name_are_on_disk_before_the_manifest_names_it(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A purge relies on it: what a power cut takes back is not in the outbox any more."""
    synced: list[str] = []
    fsync = os.fsync

    def noted(file: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(file).st_mode)
        synced.append(f"{'folder' if is_folder else 'file'} {Path(f'/proc/self/fd/{file}').readlink()}")
        fsync(file)

    monkeypatch.setattr(os, "fsync", noted)
    run(kept, Topics(7))

    folder = kept / TOPIC / "00000"
    file = f"file {folder}/{6:020d}-{7:020d}.avro.part"
    manifest = f"file {folder}/{MANIFEST}.part"
    assert [file, f"folder {folder}", f"folder {folder.parent}", f"folder {kept}", manifest] == [
        re.sub(r"/(\.)?$", "", one) for one in synced[: synced.index(manifest) + 1]
    ]


def test_a_check_that_is_stopped_says_so(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file in hand is read to its end."""
    read = Verification._read

    def signalled(found: Verification, manifest: Manifest, one: ArchivedFile) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return read(found, manifest, one)

    monkeypatch.setattr(Verification, "_read", signalled)
    said = CliRunner().invoke(cli.build(["archive"]), ["archive", "verify", str(kept)])

    assert (1, True) == (said.exit_code, "3 records read, 0 faults\nstopped before the end" in said.output)


def test_a_gap_is_told_to_whoever_asks_for_what_may_have_been_in_it(tmp_path: Path) -> None:
    """Offsets 3 to 5, of 12:00 to 16:00; the first record is of 10:00."""
    place = tmp_path / "kept"
    run(place, Topics(3))
    run(place, Topics(8, first=6))
    gap = "offsets 3 to 5 are missing, from after 2025-03-01T12:00:00+00:00 to before 2025-03-01T16:00:00+00:00"
    both = tuple(f"{TOPIC} partition {number}: {gap}" for number in (0, 1))

    assert both == limits(place)
    assert both == limits(place, since="2025-03-01T13:00:00+00:00")
    assert both == limits(place, since="2025-03-01T11:00:00+00:00", until="2025-03-01T14:00:00+00:00")
    assert both[:1] == limits(place, partition=0, offset_from=5, offset_to=7)
    for unconcerned in (
        {"since": "2025-03-01T16:00:00+00:00"},
        {"until": "2025-03-01T12:00:00+00:00"},
        {"partition": 0, "offset_from": 6},
        {"partition": 0, "offset_to": 3},
    ):
        assert () == limits(place, **unconcerned), unconcerned
