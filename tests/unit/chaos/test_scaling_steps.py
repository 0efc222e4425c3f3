"""What a scaling run calls back to normal, and what it complains of."""

from __future__ import annotations

import dataclasses
import datetime as dt
import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from tests.chaos.__main__ import _scaling_table
from tests.chaos.scaling import (
    CHANGES,
    Latencies,
    Scaling,
    Step,
    _step,
    broker_restarted,
    member_killed,
    restarted,
    scaled_to_4,
    worker_killed,
)
from tests.made_events import NOON


def latencies(slow_from_s: float, slow_until_s: float, *, slow_s: float = 5.0) -> Latencies:
    """Give a minute of 100 events a second, each of 0.1 s but for a span; one of 300 is slow all the time."""
    rows: list[Any] = []
    for number in range(6_000):
        at_s = number / 100
        is_slow = slow_from_s <= at_s < slow_until_s or number % 300 == 0
        created_at = NOON + dt.timedelta(seconds=at_s)
        took = dt.timedelta(seconds=slow_s if is_slow else 0.1)
        rows.append({"created_at": created_at, "processed_at": created_at + took, "retry_count": 0})
    return Latencies(rows, NOON)


def test_a_step_is_back_at_the_end_of_the_first_normal_window() -> None:
    """From the end of what was done; the worst is told."""
    done = _step(scaled_to_4, (10.0, 14.0), 40.0, latencies(11.0, 20.0), calm_s=0.1)

    assert (done.name, done.begun_s, done.ended_s) == ("scaled_to_4", 10.0, 14.0)
    assert (done.back_s, done.p99_worst_s) == (8.0, 5.0)


def test_twice_the_calm_without_the_floor_is_told_beside_it() -> None:
    """What takes 0.8 s is normal by the floor of 1 s, and eight times the calm."""
    done = _step(scaled_to_4, (10.0, 14.0), 40.0, latencies(11.0, 20.0, slow_s=0.8), calm_s=0.1)

    assert (done.back_s, done.back_to_calm_s) == (2.0, 8.0)


def test_the_longest_time_in_which_nothing_was_settled_is_told() -> None:
    """All of 3 s come at its end; what comes after the next change is that one's."""
    rows: list[Any] = [
        {"created_at": NOON + dt.timedelta(seconds=at_s), "processed_at": NOON + dt.timedelta(seconds=done_s)}
        | {"retry_count": 0}
        for number in range(300)
        for at_s in [number / 10]
        for done_s in [at_s if not 12 <= at_s < 15 else 15.0]
    ]
    seen = Latencies(rows, NOON)

    assert 3.1 == pytest.approx(seen.gap_s(10.0, 20.0))
    assert 0.1 == pytest.approx(seen.gap_s(16.0, 20.0))
    assert 5.0 == seen.gap_s(40.0, 45.0)
    assert 3.1 == pytest.approx(_step(restarted, (11.0, 13.0), 20.0, seen, calm_s=1.0).gap_s)


def test_a_kill_counts_from_its_moment() -> None:
    """Nobody waits for anything there."""
    assert 12.0 == _step(member_killed, (10.0, 10.2), 40.0, latencies(10.0, 20.0), calm_s=0.1).back_s


def test_a_step_that_is_slow_until_the_next_change_never_came_back() -> None:
    """It cannot be told apart from the next one's slowness."""
    assert _step(member_killed, (10.0, 10.2), 30.0, latencies(10.0, 28.5), calm_s=0.1).back_s is None


def test_a_change_that_nobody_notices_is_back_with_the_first_window() -> None:
    """Two seconds are the least that can be seen."""
    assert 2.0 == _step(scaled_to_4, (10.0, 14.0), 40.0, latencies(0.0, 0.0), calm_s=0.1).back_s


def test_a_run_complains_of_what_it_must_not_show() -> None:
    """And of nothing else."""
    step = Step(
        name="restarted", begun_s=0.0, ended_s=1.0, back_s=15.0, back_to_calm_s=None, p99_worst_s=0.5, gap_s=2.0
    )
    good = Scaling(
        seconds=60.0, events=1_200, events_per_s=20.0, p99_calm_s=0.1, p99_normal_s=1.0, p99_by_s=[], steps=[step],
        statuses={"done applied": 1_190, "done stale": 10}, charged=0, ended=(), violations=(),
    )  # fmt: skip
    late, never = (dataclasses.replace(step, back_s=back_s) for back_s in (15.5, None))
    still, killed = dataclasses.replace(step, gap_s=2.1), dataclasses.replace(step, name="member_killed", gap_s=7.0)
    bad = dataclasses.replace(
        good, steps=[late, never, still, killed], statuses={"failed locked": 1}, charged=2, ended=["x"]
    )

    assert [] == good.complaints()
    assert 6 == len(bad.complaints())
    assert "restarted: nothing was settled for 2.1 s" in bad.complaints()


def test_the_table_tells_what_normal_was_and_both_ways_back() -> None:
    """Nobody has to look the floor up."""
    step = Step(
        name="restarted", begun_s=0.0, ended_s=8.0, back_s=5.0, back_to_calm_s=None, p99_worst_s=0.5, gap_s=0.75
    )
    done = Scaling(
        seconds=60.0, events=1_200, events_per_s=20.0, p99_calm_s=0.1, p99_normal_s=1.0, p99_by_s=[], steps=[step],
        statuses={}, charged=0, ended=(), violations=(),
    )  # fmt: skip
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(_scaling_table(done))
    shown = console.export_text()

    assert "p99 100 ms before the first change; normal is up to 1000 ms" in shown
    assert ["restarted", "8.0", "5.0", "never", "0.50", "0.75"] == [
        cell.strip() for cell in shown.splitlines()[-2].split("│")[1:-1]
    ]


def test_four_members_are_restarted() -> None:
    """While four run, that is."""
    started: list[int] = []
    running: set[int] = {0}

    class Group:
        def start(self, number: int) -> None:
            assert number not in running
            running.add(number)
            started.append(number)

        def stop(self, number: int) -> None:
            running.remove(number)

        def kill(self, number: int) -> None:
            running.remove(number)

    arena: Any = SimpleNamespace(members=Group())
    for change in CHANGES:
        if change not in {broker_restarted, worker_killed}:
            change(arena)

    assert [1, 2, 3, *range(4), 1] == started
    assert {0, 1} == running
