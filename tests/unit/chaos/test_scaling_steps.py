"""What a scaling run calls back to normal, and what it complains of."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

from tests.chaos.scaling import Latencies, Scaling, Step, _step, member_killed, scaled_to_4
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
    done = _step(scaled_to_4, (10.0, 14.0), 40.0, latencies(11.0, 20.0), normal_s=1.0)

    assert Step(name="scaled_to_4", begun_s=10.0, ended_s=14.0, back_s=11.0, p99_worst_s=5.0) == done


def test_a_kill_counts_from_its_moment() -> None:
    """Nobody waits for anything there."""
    assert 15.0 == _step(member_killed, (10.0, 10.2), 40.0, latencies(10.0, 20.0), normal_s=1.0).back_s


def test_a_step_that_is_slow_until_the_next_change_never_came_back() -> None:
    """It cannot be told apart from the next one's slowness."""
    assert _step(member_killed, (10.0, 10.2), 30.0, latencies(10.0, 27.0), normal_s=1.0).back_s is None


def test_a_change_that_nobody_notices_is_back_with_the_first_window() -> None:
    """Five seconds are the least that can be seen."""
    assert 5.0 == _step(scaled_to_4, (10.0, 14.0), 40.0, latencies(0.0, 0.0), normal_s=1.0).back_s


def test_a_run_complains_of_what_it_must_not_show() -> None:
    """And of nothing else."""
    step = Step(name="restarted", begun_s=0.0, ended_s=1.0, back_s=15.0, p99_worst_s=0.5)
    good = Scaling(
        seconds=60.0, events=1_200, events_per_s=20.0, p99_calm_s=0.1, p99_normal_s=1.0, p99_by_s=[], steps=[step],
        statuses={"done applied": 1_190, "done stale": 10}, charged=0, ended=(), violations=(),
    )  # fmt: skip
    late, never = (dataclasses.replace(step, back_s=back_s) for back_s in (15.5, None))
    bad = dataclasses.replace(good, steps=[late, never], statuses={"failed locked": 1}, charged=2, ended=["x"])

    assert [] == good.complaints()
    assert 5 == len(bad.complaints())
