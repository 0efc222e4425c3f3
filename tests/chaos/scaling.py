"""The group is scaled, restarted and robbed of its parts under a steady load: how long until it is as before."""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import datetime as dt
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import sqlalchemy as sa

from operations.config import OperationsSettings
from operations.connect import connect_client
from tests.chaos.arena import Arena
from tests.chaos.checker import Checker
from tests.chaos.outage import complaints_of, load_for, watched
from tests.e2e.members import wait_for

EVENTS_PER_S: Final = 500.0
CALM_S: Final = 15.0
WINDOW_S: Final = 2.0
"""Some thousand events at this rate, so that the p99 is the tenth of them; a longer one tells later what is normal."""

CALM_WINDOW_S: Final = 10.0
BACK_MAX_S: Final = 15.0
"""From a change until a window begins that is normal and ends within this."""

WARM_AGE_S: Final = 1.0
WARM_MIN_S: Final = 5.0
WARM_LIMIT_S: Final = 180.0
"""The load's first seconds do not count: they last until no unfinished row is older than WARM_AGE_S."""

REST_S: Final = 25.0
NORMAL_MIN_S: Final = 1.0
NORMAL_FACTOR: Final = 2.0
"""Normal is the calm's p99 twice, or NORMAL_MIN_S where the calm is better: a busy machine is no fault of the group.
When p99 was at most twice the calm's, without that floor, is told beside it."""

GAP_MAX_S: Final = 2.0
"""No longer may nothing be settled in a rolling restart."""

REST_LIMIT_S: Final = 120.0
STREAMING_LIMIT_S: Final = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One change, in seconds since the load began.

    Attributes:
        begun_s, ended_s: of what was done; a member counts as started when it owns partitions.
        back_s: from the change (of a kill its moment, of all others their end) until the end of the first window with
            a normal p99; None if none came before the next change.
        back_to_calm_s: the same of a p99 of at most NORMAL_FACTOR times the calm's.
        p99_worst_s: of the windows from the beginning until back_s.
        gap_s: the longest time from the beginning until the next change in which no event was settled.
    """

    name: str
    begun_s: float
    ended_s: float
    back_s: float | None
    back_to_calm_s: float | None
    p99_worst_s: float
    gap_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What a run did; latency is from an event's commit in the source to the commit of its outcome in OpenEMR.

    p99_by_s: of the window that begins at each second since the load began.
    """

    seconds: float
    events: int
    events_per_s: float
    p99_calm_s: float
    p99_normal_s: float
    p99_by_s: Sequence[float]
    steps: Sequence[Step]
    statuses: Mapping[str, int]
    charged: int
    ended: Sequence[str]
    violations: Sequence[str]

    def complaints(self) -> list[str]:
        """Say what a run must not show; nothing when it was good."""
        found = complaints_of(self.violations, ended=self.ended, charged=self.charged, statuses=self.statuses)
        for step in self.steps:
            if step.back_s is None or step.back_s > BACK_MAX_S:
                when = "before the next change" if step.back_s is None else f"after {step.back_s:.1f} s only"
                found.append(f"{step.name}: p99 is not back to normal {when}")
            if step.name == restarted.__name__ and step.gap_s > GAP_MAX_S:
                found.append(f"{step.name}: nothing was settled for {step.gap_s:.1f} s")
        return found


def scaled_to_4(arena: Arena) -> None:
    """Start three more members."""
    for number in (1, 2, 3):
        arena.members.start(number)


def scaled_to_2(arena: Arena) -> None:
    """Let the last two leave."""
    for number in (3, 2):
        arena.members.stop(number)


def member_killed(arena: Arena) -> None:
    """Kill one of two with -9; nobody starts it again."""
    arena.members.kill(1)


def member_back(arena: Arena) -> None:
    """Start it again."""
    arena.members.start(1)


def restarted(arena: Arena) -> None:
    """Restart the four members one after the other, each when the one before has partitions again."""
    for number in range(4):
        arena.members.stop(number)
        arena.members.start(number)


def worker_killed(arena: Arena) -> None:
    """Kill that one of two Connect workers with -9 which runs the task."""
    settings = OperationsSettings.of(arena.variables)
    with connect_client(settings, retry_limit_s=STREAMING_LIMIT_S) as connect:
        [task] = connect.status(settings.connector_name).tasks
    port = int(task.worker.rpartition(":")[2])
    [name] = [one.name for one in arena.stack.status() if one.name.startswith("connect-") and one.port == port]
    arena.stack.kill(name)


def broker_restarted(arena: Arena) -> None:
    """Shut the broker down, and start it again."""
    arena.stack.stop("kafka")
    arena.stack.start("kafka")


CHANGES: Final = (
    scaled_to_4,
    restarted,
    scaled_to_2,
    member_killed,
    member_back,
    broker_restarted,
    worker_killed,
)
KILLS: Final = (member_killed, worker_killed)


def scale(arena: Arena, *, seed: int, report: Callable[[str], None], events_per_s: float = EVENTS_PER_S) -> Scaling:
    """Do every change under load, one after the other, and check everything at the end; begins with one member.

    Raises:
        AssertionError: rows were left over, or a part did not come up again.
    """
    assert len(arena.members.running) == 1
    with watched(arena) as checker:
        begun_s, begun_at = time.monotonic(), _now(checker)
        spans: list[tuple[float, float]] = []
        with _workers_back(arena), load_for(arena, checker, events_per_s=events_per_s, seed=seed).running():
            time.sleep(WARM_MIN_S)
            # Java processes that have just started are slow for their first thousands of events.
            wait_for(lambda: checker.oldest_unfinished_s() < WARM_AGE_S, WARM_LIMIT_S, checker.statuses, interval_s=2)
            report(f"calm for {CALM_S:.0f} s")
            time.sleep(CALM_S)
            calm_until_s = time.monotonic() - begun_s
            for change in CHANGES:
                started_s = time.monotonic() - begun_s
                change(arena)
                spans.append((started_s, time.monotonic() - begun_s))
                report(f"{started_s:6.1f} s: {change.__name__}, which took {spans[-1][1] - started_s:.1f} s")
                time.sleep(REST_S)
        seconds = time.monotonic() - begun_s
        report("waiting for the last rows, and checking everything")
        checker.wait_at_rest(REST_LIMIT_S)
        latencies = Latencies(checker.rows(), begun_at)
        calm_s = latencies.p99_s(calm_until_s - CALM_WINDOW_S, calm_until_s)
        ends = [*(started for started, _ in spans[1:]), seconds]
        return Scaling(
            seconds=seconds,
            events=latencies.count,
            events_per_s=latencies.count / seconds,
            p99_calm_s=calm_s,
            p99_normal_s=_normal_s(calm_s),
            p99_by_s=[latencies.p99_s(at_s, at_s + WINDOW_S) for at_s in range(int(seconds))],
            steps=[
                _step(change, span, until_s, latencies, calm_s)
                for change, span, until_s in zip(CHANGES, spans, ends, strict=True)
            ],
            statuses=checker.statuses(),
            charged=latencies.charged,
            ended=arena.members.ended(),
            violations=checker.violations(at_rest=True, with_diary=True),
        )


@contextlib.contextmanager
def _workers_back(arena: Arena) -> Iterator[None]:
    """Start the workers that were killed when the load is over: a Java process that starts takes what is measured."""
    yield
    for one in arena.stack.status():
        if one.name.startswith("connect-") and not one.pid:
            arena.stack.start(one.name)


class Latencies:
    """The latencies of all events, by the second since the load began at which they were written."""

    def __init__(self, rows: Sequence[sa.RowMapping], begun_at: dt.datetime) -> None:
        pairs: list[tuple[float, float]] = sorted(
            (
                (row["created_at"] - begun_at).total_seconds(),
                (row["processed_at"] - row["created_at"]).total_seconds(),
            )
            for row in rows
            if row["processed_at"] is not None
        )
        self._at_s = [at_s for at_s, _ in pairs]
        self._settled_s = sorted(at_s + took_s for at_s, took_s in pairs)
        self._took_s = [took_s for _, took_s in pairs]
        self.count = len(rows)
        self.charged = sum(row["retry_count"] > 0 for row in rows)

    def p99_s(self, start_s: float, end_s: float) -> float:
        """Give the p99 of what was written in a span; nothing written is nothing normal."""
        took_s = self._took_s[bisect.bisect_left(self._at_s, start_s) : bisect.bisect_left(self._at_s, end_s)]
        return statistics.quantiles(took_s, n=100)[-1] if len(took_s) > 1 else float("inf")

    def gap_s(self, start_s: float, end_s: float) -> float:
        """Give the longest time of a span in which nothing was settled."""
        within = self._settled_s[bisect.bisect(self._settled_s, start_s) : bisect.bisect(self._settled_s, end_s)]
        return max(later - earlier for earlier, later in itertools.pairwise([start_s, *within, end_s]))


def _normal_s(calm_s: float) -> float:
    return max(NORMAL_MIN_S, NORMAL_FACTOR * calm_s)


def _step(
    change: Callable[[Arena], None], span: tuple[float, float], until_s: float, latencies: Latencies, calm_s: float
) -> Step:
    begun_s, ended_s = span
    from_s = begun_s if change in KILLS else ended_s
    windows = _windows(latencies, from_s, until_s)
    back_s = _first_s(windows, _normal_s(calm_s))
    until_back = [p99_s for end_s, p99_s in windows if back_s is None or end_s <= back_s]
    return Step(
        name=change.__name__,
        begun_s=begun_s,
        ended_s=ended_s,
        back_s=back_s,
        back_to_calm_s=_first_s(windows, NORMAL_FACTOR * calm_s),
        p99_worst_s=max([latencies.p99_s(begun_s, max(ended_s, begun_s + WINDOW_S)), *until_back]),
        gap_s=latencies.gap_s(begun_s, until_s),
    )


def _windows(latencies: Latencies, from_s: float, until_s: float) -> list[tuple[float, float]]:
    """Give every window from a moment on: its end, in seconds after that moment, and its p99."""
    found = []
    start_s = from_s
    while start_s + WINDOW_S <= until_s:
        found.append((start_s + WINDOW_S - from_s, latencies.p99_s(start_s, start_s + WINDOW_S)))
        start_s += 0.5
    return found


def _first_s(windows: Sequence[tuple[float, float]], p99_max_s: float) -> float | None:
    return next((end_s for end_s, p99_s in windows if p99_s <= p99_max_s), None)


def _now(checker: Checker) -> dt.datetime:
    """Ask the clock by which the rows are dated."""
    with checker.source.connect() as connection:
        now: dt.datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
        return now
