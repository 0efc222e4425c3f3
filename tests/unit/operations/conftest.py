"""What the tests of operator commands share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave no setting to be found."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("EMRSYNC_")]:
        monkeypatch.delenv(name)
