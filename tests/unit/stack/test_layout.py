"""Where a home keeps things."""

from __future__ import annotations

from pathlib import Path

import pytest

from stack import accounts, artifacts, layout
from stack.config import StackSettings
from stack.layout import SOCKET_PATH_BYTES_MAX, Layout, create_folders, remove_home


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Act as root, and give the folder that stands for the machine's own."""
    folder = tmp_path / "var"
    monkeypatch.setattr(layout, "MACHINE_DATA", folder)
    monkeypatch.setattr(layout, "is_root", lambda: True)
    return folder


def closed_home(tmp_path: Path) -> Layout:
    """Return a home below a folder that only its owner may enter."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    return Layout(closed / "home")


def open_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let only what is below tmp_path decide: pytest's own base folder is closed."""
    real = accounts.readable_by_others

    def below(path: Path) -> bool:
        parts = [p for p in (path, *path.parents) if p.is_relative_to(tmp_path) and p != tmp_path and p.exists()]
        return all(p.stat().st_mode & 0o001 for p in parts) if parts else real(path)

    monkeypatch.setattr(layout, "readable_by_others", below)


def test_data_of_a_home_that_servers_cannot_reach_is_placed_outside_and_said(tmp_path: Path, outside: Path) -> None:
    """PostgreSQL never runs as root, and cannot walk into /root."""
    home = closed_home(tmp_path)
    lines: list[str] = []
    create_folders(home, fresh=True, report=lines.append)

    assert home.services.is_symlink()
    assert home.service_data() == outside / home.digest
    assert lines == [f"the servers' users cannot reach {home.home}: their data is placed in {outside / home.digest}"]


def test_data_of_a_reachable_home_stays_inside(tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ordinary case says nothing."""
    open_folders(monkeypatch, tmp_path)
    home = Layout(tmp_path / "home")
    lines: list[str] = []
    create_folders(home, fresh=True, report=lines.append)

    assert not home.services.is_symlink()
    assert (lines, outside.exists()) == ([], False)


def test_a_home_that_was_closed_later_takes_its_data_along(
    tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The databases of yesterday are still there."""
    open_folders(monkeypatch, tmp_path)
    home = Layout(tmp_path / "home")
    create_folders(home, fresh=True, report=lambda _: None)
    (home.services / "row").touch()
    home.home.chmod(0o700)
    create_folders(home, fresh=False, report=lambda _: None)

    assert (outside / home.digest / "row").exists()
    assert (home.services / "row").exists()


def test_what_a_deleted_home_left_outside_is_removed_by_the_next(tmp_path: Path, outside: Path) -> None:
    """Its passwords went with its state file: the data can never be opened again."""
    home = closed_home(tmp_path)
    (outside / home.digest).mkdir(parents=True)
    (outside / home.digest / "old").touch()
    lines: list[str] = []
    create_folders(home, fresh=True, report=lines.append)

    assert list(home.service_data().iterdir()) == []
    assert "left by an earlier home" in lines[0]


def test_removal_of_a_home_reaches_what_is_outside(tmp_path: Path, outside: Path) -> None:
    """`down --purge` leaves nothing."""
    home = closed_home(tmp_path)
    create_folders(home, fresh=True, report=lambda _: None)
    remove_home(home)

    assert not home.home.exists()
    assert list(outside.iterdir()) == []


def test_a_socket_below_a_deep_folder_moves_to_where_its_path_fits(tmp_path: Path) -> None:
    """The kernel takes 107 bytes."""
    home = Layout(tmp_path / ("deep" * 30))

    assert len(str(home.supervisor_socket).encode()) <= SOCKET_PATH_BYTES_MAX
    assert Layout(Path("/tmp/x")).supervisor_socket == Path("/tmp/x/supervisor.sock")  # noqa: S108


def test_a_cache_that_servers_cannot_read_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root, ~/.cache is below /root."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    settings = StackSettings(EMRSYNC_CACHE_DIR=closed)
    monkeypatch.setattr(artifacts, "is_root", lambda: True)
    as_root = artifacts.cache_folder(settings)
    monkeypatch.setattr(artifacts, "is_root", lambda: False)
    as_user = artifacts.cache_folder(settings)

    assert (as_root, as_user) == (artifacts.MACHINE_CACHE, closed / "emrsync")
