"""The running chain for end-to-end tests, and one member of the group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from stack import Stack
from tests.chain import breakable_stack
from tests.e2e.clinic_chain import Chain
from tests.e2e.members import Member, member


@pytest.fixture(scope="session")
def clinic(chain: Mapping[str, str]) -> Iterator[Chain]:
    """Give the chain and ways to look at it."""
    opened = Chain(chain)
    yield opened
    opened.close()


@pytest.fixture
def consumer(clinic: Chain, tmp_path: Path) -> Iterator[Member]:
    """Give a member of the group that owns all partitions."""
    with member(clinic.variables, tmp_path / "consumer.log") as running:
        yield running


@pytest.fixture(scope="session")
def breakable(chain: Mapping[str, str]) -> Iterator[Stack]:
    """Give a provisioned stack whose servers may be stopped and killed, and must be up again after each test."""
    with breakable_stack(chain) as stack:
        yield stack
