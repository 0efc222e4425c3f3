"""No log line of any test here may hold a payload value."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
import structlog

from tests.clinic import FAMILY_NAME


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """Give what is logged, and check that no made-up patient's name is in it."""
    with structlog.testing.capture_logs() as entries:
        yield entries

    assert FAMILY_NAME not in str(entries)
