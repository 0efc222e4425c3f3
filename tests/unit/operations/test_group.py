"""What `emrsync group` finds worth a word, and its arithmetic."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pytest

from operations import group_commands
from operations.config import OperationsSettings
from operations.group import GroupState, read_group
from operations.group_commands import as_mapping
from operations.kafka import PartitionLag
from operations.kafka_group import GroupAdmin, GroupMember

ONE = GroupMember("consumer-1", "127.0.0.1", (("emrsync.patient", 0),), "m-1")
IDLE = GroupMember("consumer-2", "127.0.0.1", (), "m-2")
FINE = PartitionLag("emrsync.patient", 0, committed=9, end=9, lag=0)
BEHIND = PartitionLag("emrsync.patient", 0, committed=9, end=109, lag=100)
STATE = GroupState("emrsync", (ONE,), (BEHIND,), 3.0, settled_per_s=30.0, arriving_per_s=10.0)
TOPICS = dataclasses.replace(
    STATE, partitions=(BEHIND, *(PartitionLag("emrsync.order", number, 0, 0, 0) for number in range(2)))
)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (STATE, []),
        (dataclasses.replace(STATE, members=(ONE, IDLE)), ["2 members share 1 partitions: 1 have nothing to do"]),
        (dataclasses.replace(TOPICS, members=(ONE, IDLE, IDLE)), []),
        (
            dataclasses.replace(TOPICS, members=(ONE, IDLE, IDLE), assignor="range"),
            ["3 members share 3 partitions: 1 have nothing to do"],
        ),
        (dataclasses.replace(STATE, members=()), ["100 records wait and the group has no member"]),
        (dataclasses.replace(STATE, settled_per_s=0.0), ["100 records wait and none was settled"]),
        (dataclasses.replace(STATE, partitions=()), ["there are no topics"]),
        (
            dataclasses.replace(STATE, partitions=(dataclasses.replace(BEHIND, halted=True),)),
            ["emrsync.patient partition 0: stopped at offset 9"],
        ),
    ],
    ids=[
        "fine",
        "too many members",
        "a member for each",
        "too many for a topic",
        "no member",
        "stuck",
        "no topics",
        "halted",
    ],
)
def test_each_warning_is_told(state: GroupState, words: list[str]) -> None:
    """Exit code 1 hangs on this list."""
    assert len(words) == len(state.warnings)
    assert all(warning.startswith(word) for warning, word in zip(state.warnings, words, strict=True))


ORDERS, PATIENTS = (tuple((f"emrsync.{name}", number) for number in range(3)) for name in ("order", "patient"))
MIXED = ORDERS[:2] + PATIENTS[:1], ORDERS[2:] + PATIENTS[1:]
BY_TOPIC = ORDERS, PATIENTS


@pytest.mark.parametrize(
    ("shares", "lags", "is_told"),
    [
        (BY_TOPIC, {"emrsync.patient": 400}, True),
        (BY_TOPIC, {"emrsync.patient": 300}, False),
        (BY_TOPIC, {"emrsync.patient": 400, "emrsync.order": 100}, False),
        (MIXED, {"emrsync.patient": 400}, False),
        ((PATIENTS[:1], PATIENTS[1:2], PATIENTS[2:], ORDERS), {"emrsync.patient": 400}, False),
    ],
    ids=["one topic's", "little", "of both", "both have some", "as many as can"],
)
def test_members_that_cannot_help_with_the_lag_are_told(
    shares: Sequence[tuple[tuple[str, int], ...]], lags: Mapping[str, int], is_told: bool
) -> None:
    """No warning: the group drains, and would faster if they could."""
    members = tuple(GroupMember(f"c-{n}", "127.0.0.1", share, f"m-{n}") for n, share in enumerate(shares))
    partitions = tuple(
        PartitionLag(*place, 0, lags.get(place[0], 0), lags.get(place[0], 0)) for place in ORDERS + PATIENTS
    )
    seen = dataclasses.replace(STATE, members=members, partitions=partitions)

    assert (seen.hint or "").startswith("1 of 2 members have no partition of emrsync.patient") == is_told
    assert is_told == (seen.hint is not None)
    assert seen.hint == as_mapping(seen)["hint"]
    assert () == seen.warnings or len(members) > 2


def test_the_time_to_drain_is_what_both_rates_leave() -> None:
    """A hundred records, twenty fewer each second."""
    assert STATE.drain_s == 5.0
    assert dataclasses.replace(STATE, arriving_per_s=30.0).drain_s is None
    assert dataclasses.replace(STATE, partitions=(FINE,), settled_per_s=0.0).drain_s == 0.0


class TwoLooks(GroupAdmin):
    """A broker that was asked twice."""

    def __init__(self, *looks: tuple[PartitionLag, ...]) -> None:
        self._looks = list(looks)

    def lag(self, group: str, topics: Collection[str]) -> tuple[PartitionLag, ...]:  # noqa: ARG002 - the base's
        """Give the next look."""
        return self._looks.pop(0)

    def head_times(self, lagging: Collection[PartitionLag]) -> Mapping[tuple[str, int], float]:
        """Every record is of the same moment."""
        return {(one.topic, one.partition): 990.0 for one in lagging}

    def members(self, group: str) -> tuple[GroupMember, ...]:  # noqa: ARG002 - the base's
        """Give one."""
        return (ONE,)


@pytest.mark.usefixtures("bare")
def test_rates_are_taken_between_two_looks() -> None:
    """Ninety were settled and fifty came within five seconds; the head is ten seconds old."""
    now = [1_000.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    later = PartitionLag("emrsync.patient", 0, committed=99, end=159, lag=60)
    admin = TwoLooks((BEHIND,), (later,))
    seen = read_group(OperationsSettings.read(), sample_s=5.0, admin=admin, sleep=sleep, clock=lambda: now[0])

    assert (seen.settled_per_s, seen.arriving_per_s) == (18.0, 10.0)
    assert seen.lag == 60
    assert seen.lag_s == 15.0
    assert seen.drain_s == 7.5
    assert as_mapping(seen)["drain_s"] == 7.5


def test_the_sample_of_the_operations_page_is_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Table, separators and words."""
    lags = [1_204, *[0] * 8, 1_187, *[0] * 8]
    partitions = tuple(PartitionLag("t", number, 0, lag, lag) for number, lag in enumerate(lags))
    members = tuple(
        GroupMember(
            f"consumer-{number + 1}",
            "127.0.0.1",
            tuple(("t", one) for one in range(9 * number, 9 * number + 9)),
            f"m-{number}",
        )
        for number in range(2)
    )
    group_commands._print(GroupState("emrsync", members, partitions, 4.1, settled_per_s=612.0, arriving_per_s=500.0))
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")
    sample = page.split("$ emrsync group\n")[1].split("```")[0]

    assert [line.rstrip() for line in sample.splitlines()] == [
        line.rstrip() for line in capsys.readouterr().out.splitlines()
    ]
