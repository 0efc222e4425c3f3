"""Every outage under load: the application goes on, nothing is lost or charged, and work resumes by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from stack import Stack
from tests.chaos import faults
from tests.chaos.arena import Arena, arena
from tests.chaos.faults import FAULTS
from tests.chaos.load import EVENTS_PER_COMMIT
from tests.chaos.outage import EVENTS_PER_S, endure

HOLD_S: Final = 6.0
"""`make chaos ARGS="--outages --hold-s 60"` takes longer ones."""

RECOVERY_MAX_S: Final = 60.0
"""Measured on two cores of their own: 0 to 5 s after the system works again, 13 s after a worker's restart."""

COMMITS_PER_S: Final = EVENTS_PER_S / EVENTS_PER_COMMIT


@pytest.fixture(scope="module")
def chain_under_load(breakable: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """Give two members and proxies, which all outages share: what one leaves behind, the next one meets."""
    with arena(breakable, tmp_path_factory.mktemp("members")) as opened:
        yield opened


@pytest.mark.parametrize("name", FAULTS)
def test_an_outage_loses_nothing_charges_nothing_and_ends_by_itself(chain_under_load: Arena, name: str) -> None:
    """Every row is done with one effect, retry_count is 0, no member ended, and the application never waited."""
    outage = endure(chain_under_load, FAULTS[name], HOLD_S)

    assert [] == outage.complaints()
    assert outage.recovery_s < RECOVERY_MAX_S
    if name != faults.source_down.__name__:
        assert 0 == outage.commits_lost
        assert outage.commits_meanwhile > COMMITS_PER_S * outage.outage_s / 2
    # A member that is killed hands over and takes back; nothing else may move a partition.
    assert outage.reassigned <= (4 if name == faults.member_killed.__name__ else 0)
