"""Members killed with -9 at every named point, by themselves, under load; the next one makes everything right."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import confluent_kafka
import pytest

from benchmarks.workload import Row, encounter, order, patient
from connectors.outbox import EntityType, Operation
from consumer.crash_points import Point
from stack import Stack
from tests.chaos.arena import Arena, arena
from tests.chaos.load import write
from tests.chaos.outage import FIRST_NUMBER, load_for, watched
from tests.e2e.members import Member, wait_for

COMPANIES: Final = (
    (Point.BEFORE_TARGET_COMMIT, Point.AFTER_TARGET_COMMIT, Point.BEFORE_MARK, Point.AFTER_MARK),
    (Point.BEFORE_OFFSET_COMMIT, Point.AFTER_OFFSET_COMMIT, Point.BEFORE_DEAD_LETTER, Point.AFTER_DEAD_LETTER),
    (Point.BEFORE_RELEASE, Point.AFTER_RELEASE, Point.BEFORE_REVOKE, Point.AFTER_REVOKE),
)
"""Points whose victims are members of one group, each dying at its own: they wait together to be thrown out."""

RETRY: Final = (Point.BEFORE_RETRY_SETTLE, Point.AFTER_RETRY_SETTLE)
"""The same of the retrier, which is another process."""

HOLD_S: Final = 2
"""How long a row stays a dead retrier's own."""

EVENTS_PER_S: Final = 60.0
DEATH_LIMIT_S: Final = 90.0
REST_LIMIT_S: Final = 60.0
MORE_S: Final = 15.0
"""Longer than a dead member's session: by then its partitions have gone to others."""

APART_S: Final = 0.5
"""Between children and their parent: the children wait by then."""

TIMES: Final = 3
"""Deaths come in the middle of work; a release is rarer, and a revocation comes once."""


def test_every_point_has_its_crash() -> None:
    """A new point needs a place here."""
    assert set(Point) == {*itertools.chain(*COMPANIES), *RETRY}


@pytest.mark.parametrize("points", COMPANIES, ids=lambda points: points[0].value.removeprefix("before_"))
def test_members_killed_at_their_points_lose_nothing_and_repeat_nothing(
    breakable: Stack, tmp_path: Path, points: tuple[Point, ...]
) -> None:
    """Four victims, then one that lives: invariants, one effect per event, no attempt charged."""
    with arena(breakable, tmp_path, members=0) as opened, watched(opened) as checker:
        load = load_for(opened, checker, events_per_s=EVENTS_PER_S, seed=1)
        trouble = troubles(opened, FIRST_NUMBER + checker.after + 100_000)
        with load.running():
            victims = [opened.members.start(number, crashing(point)) for number, point in enumerate(points)]
            if Point.AFTER_REVOKE not in points:
                wait_dead(victims, trouble)
            newcomers = itertools.count(len(points))
            opened.members.start(next(newcomers))
            # A newcomer takes partitions from the victims, where that is the point; one that came while others were
            # dying may have got theirs, and the next one takes some.
            wait_dead(victims, trouble, lambda: opened.members.start(next(newcomers)))
        checker.wait_at_rest(REST_LIMIT_S)

        assert [] == checker.violations(at_rest=True, with_diary=True)
        assert 0 == sum(row["retry_count"] for row in checker.rows())


def crashing(point: Point) -> tuple[str, ...]:
    """Give the module that runs a member which dies there."""
    times = TIMES if point.value.endswith(("commit", "mark")) else 1
    return "tests.chaos.crashing", point.value, str(times), "consumer"


@pytest.mark.parametrize("point", RETRY)
def test_a_retrier_killed_at_a_point_loses_nothing_and_repeats_nothing(
    breakable: Stack, tmp_path: Path, point: Point
) -> None:
    """A row that failed for an option that OpenEMR has now: the next retrier makes it done, with one effect."""
    with arena(breakable, tmp_path, members=1) as opened, watched(opened) as checker:
        number = FIRST_NUMBER + checker.after
        option = f"language_{number}"
        fields = {**patient(number), "language": option}
        write(opened.variables["EMRSYNC_APP_URL"], [Row(EntityType.PATIENT, Operation.CREATE, fields)])
        wait_for(lambda: checker.statuses() == {"failed failed unknown_option": 1}, 30, checker.statuses)
        with opened.clerk.begin() as clerk, opened.source_admin.begin() as admin:
            add = "INSERT INTO list_options (list_id, option_id, title, activity) VALUES ('language', %s, %s, 1)"
            clerk.exec_driver_sql(add, (option, option))
            admin.exec_driver_sql("UPDATE sync_outbox SET next_attempt_at = now() WHERE seq > %s", (checker.after,))
        environment = {
            **opened.variables,
            "EMRSYNC_RETRY_HOLD_SECONDS": str(HOLD_S),
            "EMRSYNC_RETRY_INTERVAL_SECONDS": "1",
        }
        victim = Member(environment, tmp_path / "victim.log", ("tests.chaos.crashing", point.value, "1", "retry"))
        assert -signal.SIGKILL == victim.wait_ended(), victim.log
        retrier = Member(environment, tmp_path / "retrier.log", ("operations", "retry", "run"))
        try:
            checker.wait_at_rest(REST_LIMIT_S)
        finally:
            retrier.close()

        assert [] == checker.violations(at_rest=True, with_diary=True)
        assert ["done"] == [row["status"] for row in checker.rows()]


def troubles(opened: Arena, number: int) -> Iterator[None]:
    """Make, at each step, children that come before their parent, and records that are no events."""
    producer = confluent_kafka.Producer({"bootstrap.servers": opened.variables["EMRSYNC_KAFKA_BOOTSTRAP_SERVERS"]})
    for one in itertools.count(number):
        children = (
            Row(EntityType.ORDER, Operation.CREATE, order(one, one, one)),
            Row(EntityType.ENCOUNTER, Operation.CREATE, encounter(one, one)),
        )
        write(opened.variables["EMRSYNC_APP_URL"], children)
        for topic in EntityType:
            producer.produce(f"emrsync.{topic}", key=f"nothing-{one}", value=b"no event")
        assert producer.flush(10) == 0
        time.sleep(APART_S)
        write(opened.variables["EMRSYNC_APP_URL"], [Row(EntityType.PATIENT, Operation.CREATE, patient(one))])
        yield


def wait_dead(victims: list[Member], trouble: Iterator[None], more: Callable[[], object] = lambda: None) -> None:
    """Go on making trouble, and more of it after a while, until all have died, and see that it was by -9."""
    began_s = time.monotonic()
    more_s = began_s + MORE_S
    while not all(one.has_ended() for one in victims):
        assert time.monotonic() - began_s < DEATH_LIMIT_S, "\n".join(one.log[-2_000:] for one in victims)
        if time.monotonic() > more_s:
            more()
            more_s = time.monotonic() + MORE_S
        next(trouble)
    assert [-signal.SIGKILL] * len(victims) == [one.wait_ended() for one in victims]
