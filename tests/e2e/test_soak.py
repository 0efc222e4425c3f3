"""Two minutes of every fault in random order under load; `make chaos` runs ten."""

from __future__ import annotations

from pathlib import Path

import pytest

from stack import Stack
from tests.chaos.arena import arena
from tests.chaos.soak import soak

SEED = 7
SECONDS = 120.0


@pytest.mark.last
def test_two_minutes_of_all_faults_leave_nothing_behind(breakable: Stack, tmp_path: Path) -> None:
    """Invariants hold, every row is done with one effect and uncharged, and latency is as before the first fault."""
    with arena(breakable, tmp_path) as opened:
        done = soak(opened, seed=SEED, seconds=SECONDS, report=print)

        assert [] == done.complaints()
