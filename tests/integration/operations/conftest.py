"""A site, a source and topics for the operator's commands; a module that needs another site defines its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.integration.consumer.openemr.sites import Site, installed_site
from tests.integration.operations.letters import Clinic, clinic_topics
from tests.integration.operations.replay_world import ReplayWorld, replay_world
from tests.sources import source


@pytest.fixture(scope="module")
def site(openemr_admin_url: str) -> Iterator[Site]:
    """Give a site that the tests of a module share."""
    with installed_site(openemr_admin_url, "8.2.0-dev") as one:
        yield one


@pytest.fixture(scope="module")
def urls(source_admin_url: str) -> Iterator[tuple[str, str]]:
    """Give a source database that the tests of a module share."""
    with source(source_admin_url) as found:
        yield found


@pytest.fixture
def clinic(chain: Mapping[str, str], site: Site) -> Iterator[Clinic]:
    """Give topics and a group of their own."""
    with clinic_topics(chain["EMRSYNC_KAFKA_BOOTSTRAP_SERVERS"], site) as one:
        yield one


@pytest.fixture
def world(
    clinic: Clinic,
    urls: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Iterator[ReplayWorld]:
    """Put outbox, topics and OpenEMR together."""
    with replay_world(clinic, urls, monkeypatch, capsys, tmp_path) as one:
        yield one
