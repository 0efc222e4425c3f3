"""Sites that many tests share; every test uses ids of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.consumer.openemr.sites import Site, installed_site

VERSIONS = ("7.0.3", "8.2.0-dev")
"""The oldest OpenEMR that is promised, whose FHIR API has no orders, and the newest."""


@pytest.fixture(scope="session", params=VERSIONS)
def site(request: pytest.FixtureRequest, openemr_admin_url: str) -> Iterator[Site]:
    """Give a site in New York; a test leaves its settings as they were."""
    with installed_site(openemr_admin_url, request.param) as one:
        yield one
