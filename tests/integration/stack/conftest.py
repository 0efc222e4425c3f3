"""Homes of real servers for the tests of the stack."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack import Stack


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder that every user may enter, which pytest's own are not."""
    path = Path(tempfile.mkdtemp(prefix="emrsync-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def stack(folder: Path) -> Iterator[Stack]:
    """Give a home that has never been up, and remove it with all that runs in it."""
    stack = Stack(folder / "home")
    yield stack
    stack.down(purge=True)
