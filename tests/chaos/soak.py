"""All faults in a seeded random order under one steady load, and whether the chain was itself again afterwards."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import sqlalchemy as sa

from tests.chaos.arena import Arena
from tests.chaos.faults import FAULTS
from tests.chaos.outage import complaints_of, load_for, watched

EVENTS_PER_S: Final = 200.0
CALM_S: Final = 10.0
BACK_TO_NORMAL_S: Final = 10.0
"""After the last fault; from then on latency is measured for as long again."""

LATENCY_FACTOR_MAX: Final = 2.0
LATENCY_NORMAL_S: Final = 1.0
"""Normal is the calm's p95 twice, or this where the calm is better: a busy machine is no fault of the chain."""

REST_LIMIT_S: Final = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One fault of the plan: rest a while, inject, let it last."""

    rest_s: float
    fault: str
    hold_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Injected:
    """One fault that was injected, with its beginning and end in seconds since the load began."""

    fault: str
    begun_s: float
    ended_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """What a soak did.

    Attributes:
        latency_*_s: from an event's commit in the source to the commit of its outcome in OpenEMR; p95 of the calm, p95
            of the time that begins BACK_TO_NORMAL_S after the last fault, median and worst of the whole run.
        charged: rows with a retry_count.
        ended: last log lines of members that ended by themselves.
    """

    seed: int
    seconds: float
    events: int
    events_per_s: float
    commits_lost: int
    faults: Sequence[Injected]
    latency_calm_s: float
    latency_after_s: float
    latency_median_s: float
    latency_worst_s: float
    statuses: Mapping[str, int]
    charged: int
    ended: Sequence[str]
    violations: Sequence[str]

    def complaints(self) -> list[str]:
        """Say what a soak must not show; nothing when it was good."""
        found = complaints_of(self.violations, ended=self.ended, charged=self.charged, statuses=self.statuses)
        if missing := FAULTS.keys() - {one.fault for one in self.faults}:
            found.append(f"never injected: {', '.join(sorted(missing))}")
        normal_s = max(LATENCY_NORMAL_S, LATENCY_FACTOR_MAX * self.latency_calm_s)
        if self.latency_after_s > normal_s:
            found.append(
                f"latency is not back to normal {BACK_TO_NORMAL_S:.0f} s after the last fault: "
                f"p95 {self.latency_after_s:.2f} s, normal is {normal_s:.2f} s"
            )
        return found


def plan(seed: int, hold_s: tuple[float, float]) -> Iterator[Step]:
    """Give faults without end, each round of all of them in another order; the same seed gives the same plan."""
    chance = random.Random(seed)
    for _ in itertools.count():
        names = list(FAULTS)
        chance.shuffle(names)
        for name in names:
            yield Step(rest_s=chance.uniform(0.5, 2.0), fault=name, hold_s=chance.uniform(*hold_s))


def soak(arena: Arena, *, seed: int, seconds: float, report: Callable[[str], None]) -> Soak:
    """Inject faults for so long, every one at least once, and check everything at the end.

    Raises:
        AssertionError: rows were left over, or a server did not come up again.
    """
    # Short enough that each fault has its turn; long enough that retries, backoff and time limits come into it.
    hold_s = (1.0, min(20.0, max(3.0, seconds / 40)))
    with watched(arena) as checker:
        load = load_for(arena, checker, events_per_s=EVENTS_PER_S, seed=seed)
        begun_s, begun_at = time.monotonic(), dt.datetime.now(dt.UTC)
        with load.running() as written:
            report(f"calm for {CALM_S:.0f} s")
            time.sleep(CALM_S)
            injected: list[Injected] = []
            for step in plan(seed, hold_s):
                if len(injected) >= len(FAULTS) and time.monotonic() - begun_s > seconds - 2 * BACK_TO_NORMAL_S:
                    break
                injected.append(_inject(arena, step, begun_s, report))
                report(f"  {checker.oldest_unfinished_s():.1f} s: the oldest unfinished row")
            over_at = dt.datetime.now(dt.UTC)
            report(f"no more faults: {2 * BACK_TO_NORMAL_S:.0f} s to be as before")
            time.sleep(2 * BACK_TO_NORMAL_S)
        load_s = time.monotonic() - begun_s
        report("waiting for the last rows, and checking everything")
        checker.wait_at_rest(REST_LIMIT_S)
        rows = checker.rows()
        normal_from = over_at + dt.timedelta(seconds=BACK_TO_NORMAL_S)
        return Soak(
            seed=seed,
            seconds=load_s,
            events=len(rows),
            events_per_s=len(rows) / load_s,
            commits_lost=written.lost,
            faults=injected,
            latency_calm_s=_p95(_latencies(rows, begun_at, begun_at + dt.timedelta(seconds=CALM_S))),
            latency_after_s=_p95(_latencies(rows, normal_from, dt.datetime.now(dt.UTC))),
            latency_median_s=statistics.median(_latencies(rows, begun_at, dt.datetime.now(dt.UTC))),
            latency_worst_s=max(_latencies(rows, begun_at, dt.datetime.now(dt.UTC))),
            statuses=checker.statuses(),
            charged=sum(row["retry_count"] > 0 for row in rows),
            ended=arena.members.ended(),
            violations=checker.violations(at_rest=True, with_diary=True),
        )


def _inject(arena: Arena, step: Step, begun_s: float, report: Callable[[str], None]) -> Injected:
    time.sleep(step.rest_s)
    started_s = time.monotonic() - begun_s
    report(f"{started_s:6.1f} s: {step.fault} for {step.hold_s:.1f} s")
    FAULTS[step.fault](arena, step.hold_s)
    return Injected(step.fault, started_s, time.monotonic() - begun_s)


def _latencies(rows: Sequence[sa.RowMapping], start: dt.datetime, end: dt.datetime) -> list[float]:
    return [
        (row["processed_at"] - row["created_at"]).total_seconds()
        for row in rows
        if start <= row["created_at"] < end and row["processed_at"] is not None
    ]


def _p95(latencies_s: Sequence[float]) -> float:
    # No event in a span means that even the application was kept from writing.
    return statistics.quantiles(latencies_s, n=20)[-1] if len(latencies_s) > 1 else float("inf")
