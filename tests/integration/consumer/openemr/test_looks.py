"""Whether anybody waits is learnt with the commit, and looked up again where that says nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from consumer.outcome import Waiting
from tests import clinic
from tests.integration.consumer.openemr.sites import Site, event, installed_site, key_of


@pytest.fixture(scope="module")
def site(openemr_admin_url: str) -> Iterator[Site]:
    """Give a site of its own."""
    with installed_site(openemr_admin_url, "8.2.0-dev") as one:
        yield one


def test_after_a_commit_that_saw_nobody_waiting_nothing_is_asked(site: Site) -> None:
    """Once: the next look is later than the commit, and asks."""
    patient = clinic.patient()
    site.put(patient)
    with site.statements() as sent:
        first = site.target.releasable(10, [key_of(patient)])
        after_first = list(sent)
        second = site.target.releasable(10, [key_of(patient)])

    assert ([], [], []) == (list(first), after_first, list(second))
    assert ["waiting_event" in one for one in sent if one.startswith("SELECT EXISTS")] == [True]


def test_a_child_that_another_member_parked_is_found_right_after_its_parents_commit(site: Site) -> None:
    """By whoever wrote the parent."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    child = event("create", visit)
    with site.reopened() as other:
        assert [Waiting(key_of(patient))] == other.apply(child)
    site.put(patient)

    assert [child.outbox_id] == [one.outbox_id for one in site.target.releasable(10, [key_of(patient)])]
    site.target.forget([child.outbox_id])
