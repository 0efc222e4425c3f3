"""What every tier shares: the servers, started when the first test asks for one."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping

import pytest

from tests.chain import running_chain


def pytest_configure() -> None:
    """Let SIGTERM end a run as Ctrl-C does: its fixtures stop the servers they have started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests marked `last` run after all others."""
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)


@pytest.fixture(scope="session")
def chain() -> Iterator[Mapping[str, str]]:
    """Give the EMRSYNC_… variables of a running, provisioned chain."""
    with running_chain() as variables:
        yield variables


@pytest.fixture(scope="session")
def openemr_admin_url(chain: Mapping[str, str]) -> str:
    """Give the administrator's URL of the MariaDB server that holds OpenEMR databases."""
    return chain["EMRSYNC_OPENEMR_ADMIN_URL"]


@pytest.fixture(scope="session")
def source_admin_url(chain: Mapping[str, str]) -> str:
    """Give the administrator's URL of the PostgreSQL server that holds the application's databases."""
    return chain["EMRSYNC_SOURCE_ADMIN_URL"]
