"""Downloads: whole or not at all, once for everyone, and the optional one may be absent."""

from __future__ import annotations

import io
import os
import tarfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from stack import artifacts
from stack.artifacts import DEBEZIUM, KAFKA, fetch
from stack.errors import CommandFailedError

ABSENT = "io.debezium:debezium-connector-mariadb:tar.gz:plugin:3 was not found in the registry"
[MARIADB] = [artifact for artifact in DEBEZIUM if artifact.optional]


def maven(put: Callable[[Path], None]) -> Callable[..., str]:
    """Return a stand-in for Maven that lets `put` fill the output folder."""

    def run(argv: Sequence[str], **_: object) -> str:
        output = next(argument for argument in argv if argument.startswith("-DoutputDirectory="))
        folder = Path(output.partition("=")[2])
        folder.mkdir()
        put(folder)
        return ""

    return run


def refuse(message: str) -> Callable[..., str]:
    """Return a stand-in for a Maven that fails."""

    def run(*_: object, **__: object) -> str:
        raise CommandFailedError(message)

    return run


def archive_of(folder: Path) -> None:
    """Put a plugin archive as the registry serves it."""
    with tarfile.open(folder / "plugin.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("debezium-connector-postgres/connector.jar")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"jar"))


def test_a_plugin_is_unpacked_below_a_folder_that_can_be_the_plugin_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connect wants the parent of the plugin folder; other users must be able to enter."""
    monkeypatch.setattr(artifacts, "run", maven(archive_of))
    umask = os.umask(0o077)
    folder = fetch(DEBEZIUM[0], tmp_path, lambda _: None)
    os.umask(umask)

    assert folder is not None
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*.jar")] == [
        "debezium-connector-postgres/connector.jar"
    ]
    assert [path.name for path in folder.iterdir()] == ["debezium-connector-postgres"]
    assert {path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))} == {0o755, 0o644}


def test_a_failed_download_leaves_nothing_that_looks_like_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a folder of jars would fail much later, in a JVM."""

    def fill_and_fail(folder: Path) -> None:
        (folder / "half.jar").touch()
        raise CommandFailedError("the network went away")

    monkeypatch.setattr(artifacts, "run", maven(fill_and_fail))
    with pytest.raises(CommandFailedError, match="network"):
        fetch(KAFKA, tmp_path, lambda _: None)

    assert [path.name for path in tmp_path.iterdir()] == ["download.lock"]


def test_an_optional_artifact_that_is_not_served_is_said_once_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next up does not ask again; a day later it does."""
    lines: list[str] = []
    monkeypatch.setattr(artifacts, "run", refuse(ABSENT))
    first = fetch(MARIADB, tmp_path, lines.append)
    said = len(lines)
    second = fetch(MARIADB, tmp_path, lines.append)

    assert (first, second) == (None, None)
    assert lines[-1] == "debezium-mariadb is not served by the registry at hand: going on without it"
    assert len(lines) == said


def test_another_failure_of_an_optional_artifact_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network may be back in a minute."""
    monkeypatch.setattr(artifacts, "run", refuse("Connection timed out"))
    first = fetch(MARIADB, tmp_path, lambda _: None)
    monkeypatch.setattr(artifacts, "run", maven(archive_of))

    assert first is None
    assert fetch(MARIADB, tmp_path, lambda _: None) is not None


def test_two_at_once_download_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for the first and takes its result."""
    runs: list[Path] = []

    def slow(folder: Path) -> None:
        runs.append(folder)
        time.sleep(0.3)
        (folder / "kafka.jar").touch()

    monkeypatch.setattr(artifacts, "run", maven(slow))
    threads = [threading.Thread(target=fetch, args=(KAFKA, tmp_path, lambda _: None)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(runs) == 1
