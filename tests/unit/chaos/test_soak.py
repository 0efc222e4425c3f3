"""The plan of a soak, the load's revisions and the verdict, without servers."""

from __future__ import annotations

import dataclasses
import itertools
import random
import uuid
from typing import Any

import pytest

from connectors.outbox import EntityType
from tests.chaos.checker import disagreements
from tests.chaos.effects import revision_of
from tests.chaos.faults import FAULTS
from tests.chaos.load import Writer
from tests.chaos.soak import Injected, Soak, plan

GOOD = Soak(
    seed=1,
    seconds=60,
    events=12_000,
    events_per_s=200,
    commits_lost=0,
    faults=[Injected(name, 1, 2) for name in FAULTS],
    latency_calm_s=0.1,
    latency_after_s=0.9,
    latency_median_s=0.1,
    latency_worst_s=30,
    statuses={"done applied": 11_990, "done stale": 10},
    charged=0,
    ended=[],
    violations=[],
)


def test_the_same_seed_gives_the_same_plan_and_another_one_another() -> None:
    """Replayable; every fault comes once in each round."""
    first, again, other = (list(itertools.islice(plan(seed, (1, 4)), 2 * len(FAULTS))) for seed in (1, 1, 2))

    assert first == again
    assert first != other
    assert [sorted(FAULTS)] * 2 == [
        sorted(step.fault for step in round_) for round_ in (first[: len(FAULTS)], first[len(FAULTS) :])
    ]
    assert all(1 <= step.hold_s <= 4 for step in first)


def test_a_good_soak_has_no_complaints() -> None:
    """Or every soak would be bad."""
    assert [] == GOOD.complaints()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"violations": ["I1: broken"]}, "I1: broken"),
        ({"ended": ["error"]}, "a member ended by itself"),
        ({"faults": GOOD.faults[1:]}, "never injected"),
        ({"charged": 1}, "charged an attempt"),
        ({"statuses": {"done applied": 1, "failed refused": 1}}, "not every row is done: {'failed refused': 1}"),
        ({"latency_after_s": 1.1}, "latency is not back to normal"),
        ({"latency_calm_s": 2, "latency_after_s": 4.1}, "latency is not back to normal"),
    ],
)
def test_a_bad_soak_says_what_is_wrong(changes: dict[str, Any], said: str) -> None:
    """One complaint each."""
    [complaint] = dataclasses.replace(GOOD, **changes).complaints()

    assert said in complaint


def test_every_payload_of_an_entity_carries_a_higher_revision_than_the_one_before() -> None:
    """In the field that ends in the column which the diary watches."""
    writer = Writer(1_000, random.Random(1))
    newest: dict[tuple[EntityType, str], int] = {}
    for _ in range(500):
        for row in writer.transaction():
            word = next(row.payload[name] for name in ("instructions", "reason", "middle_name") if name in row.payload)
            key = row.entity_type, str(row.payload[f"{row.entity_type}_id"])
            revision = revision_of(word)
            assert revision is not None
            assert revision > newest.get(key, -1)
            newest[key] = revision
    assert set(EntityType) == {entity_type for entity_type, _ in newest}


def test_what_a_lost_transaction_made_is_not_touched_again() -> None:
    """Nobody knows whether it was committed."""
    writer = Writer(1_000, random.Random(1))
    lost = {str(row.payload["patient_id"]) for row in writer.transaction()}
    writer.forget_new()

    assert lost.isdisjoint(str(row.payload["patient_id"]) for _ in range(50) for row in writer.transaction())


@pytest.mark.parametrize(
    ("outcome", "ledger", "agrees"),
    [
        ("applied", "applied", True),
        ("stale", "stale", True),
        ("duplicate", "applied", True),
        ("duplicate", "stale", True),
        ("applied", "stale", False),
        ("stale", "applied", False),
        ("applied", None, False),
        (None, "applied", False),
    ],
)
def test_outbox_and_ledger_agree_on_the_outcome(outcome: str | None, ledger: str | None, agrees: bool) -> None:
    """A duplicate may be the repetition of either."""
    one = uuid.uuid4()
    found = disagreements({one: (7, outcome)}, {} if ledger is None else {one: ledger})

    assert agrees == (found == [])
