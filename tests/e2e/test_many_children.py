"""Thousands of children that come before their parents are all applied soon after the parents arrive."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from typing import Final

import pytest

from benchmarks.workload import Row, encounter, insert, order, patient
from connectors.outbox import EntityType, Operation
from tests.chaos.checker import Checker
from tests.chaos.outage import FIRST_NUMBER
from tests.e2e.clinic_chain import Chain
from tests.e2e.members import Member, wait_for

CHILDREN: Final = 5_000
RELEASED_WITHIN_S: Final = 30.0
PARK_LIMIT_S: Final = 120.0


@pytest.fixture
def checker(clinic: Chain) -> Iterator[Checker]:
    """Give a checker that sees what this test writes."""
    with contextlib.closing(Checker(clinic.variables)) as made:
        yield made


def test_five_thousand_children_before_their_parents_are_done_within_thirty_seconds(
    clinic: Chain, consumer: Member, checker: Checker
) -> None:
    """Encounters and orders that name them, and then the patients; each in an order of its own."""
    chance = random.Random(1)
    numbers = range(FIRST_NUMBER + checker.after, FIRST_NUMBER + checker.after + CHILDREN // 2)
    children = [Row(EntityType.ENCOUNTER, Operation.CREATE, encounter(one, one)) for one in numbers]
    children += [Row(EntityType.ORDER, Operation.CREATE, order(one, one, one)) for one in numbers]
    parents = [Row(EntityType.PATIENT, Operation.CREATE, patient(one)) for one in numbers]
    chance.shuffle(children)
    chance.shuffle(parents)

    insert(checker.source, iter(children))
    waiting = {"processing waiting parent_missing": CHILDREN}
    wait_for(lambda: checker.statuses() == waiting, PARK_LIMIT_S, checker.statuses, interval_s=0.5)
    insert(checker.source, iter(parents))
    begun_s = time.monotonic()
    wait_for(lambda: checker.unfinished() == 0, 4 * RELEASED_WITHIN_S, checker.statuses, interval_s=0.2)
    took_s = time.monotonic() - begun_s

    assert took_s < RELEASED_WITHIN_S
    checker.wait_at_rest(10)
    assert [] == checker.violations(at_rest=True)
    assert {"done"} == {status.split()[0] for status in checker.statuses()}
    assert 0 == sum(row["retry_count"] for row in checker.rows())
