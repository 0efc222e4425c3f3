"""Batches follow the target's speed: halved when one was slow, doubled when a full one was fast, between bounds."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pytest

from connectors.events import Event
from consumer.batch_size import RECORDS_MIN, BatchSize
from consumer.loop import ConsumerLoop, LoopLimits
from consumer.ports import TransientError
from tests import clinic
from tests.invariants import violations_at_rest
from tests.made_events import event, headers
from tests.pipeline import Pipeline


def after(*batches: tuple[int, float], records_max: int = 500) -> int:
    """Give the bound after batches of so many records that took so many seconds."""
    size = BatchSize(records_max, slow_s=1.0)
    for records, seconds in batches:
        size.took(records, seconds)
    return size.records


def test_it_begins_with_the_largest() -> None:
    """Nothing is known yet."""
    assert 500 == after()


@pytest.mark.parametrize(
    ("batches", "bound"),
    [
        ([(500, 1.0)], 500),
        ([(500, 1.1)], 250),
        ([(500, 3.0), (250, 1.5)], 125),
        ([(100, 1.1)], 50),
        ([(1, 30.0)], RECORDS_MIN),
        ([(500, 2.0)] * 20, RECORDS_MIN),
        ([(500, 2.0), (250, 0.5)], 500),
        ([(500, 2.0), (250, 0.6)], 250),
        ([(500, 2.0), (249, 0.1)], 250),
        ([(500, 0.1)] * 3, 500),
    ],
)
def test_a_slow_batch_halves_the_bound_and_a_full_fast_one_doubles_it(
    batches: list[tuple[int, float]], bound: int
) -> None:
    """A batch that was not full tells nothing of a larger one; one that took most of the time leaves it as it is."""
    assert bound == after(*batches)


def test_a_small_bound_of_the_setting_is_never_passed() -> None:
    """Not when it shrinks either."""
    assert 4 == after((4, 9.0), records_max=4)
    assert 4 == after((4, 0.0), records_max=4)


def test_a_try_that_failed_only_ever_shrinks_it() -> None:
    """A refused connection is fast."""
    size = BatchSize(500, slow_s=1.0)
    size.failed(500, 60.0)
    size.failed(250, 0.0)

    assert 250 == size.records


def each_write_takes(world: Pipeline, seconds: float) -> Callable[[Event], None]:
    """Let time pass with every row."""

    def write(_event: Event) -> None:
        world.clock.now += dt.timedelta(seconds=seconds)

    return write


def polled(world: Pipeline, loop: ConsumerLoop, turns: int) -> list[int]:
    """Give how many events each of some turns settled."""
    counts = []
    for _ in range(turns):
        before = len(world.openemr.applied)
        loop.run_once()
        counts.append(len(world.openemr.applied) - before)
    return counts


def test_a_member_takes_fewer_records_while_openemr_is_slow_and_more_when_it_is_fast_again() -> None:
    """A batch's time, and so its locks, are bounded whatever the target's speed."""
    world = Pipeline(partitions=1, limits=LoopLimits(records_max=100))
    for _ in range(500):
        world.happen(clinic.patient())
    loop = world.member()
    world.openemr.on_write = each_write_takes(world, 0.03)
    slow = polled(world, loop, 4)
    world.openemr.on_write = each_write_takes(world, 0.001)
    fast = polled(world, loop, 5)

    assert [100, 50, 25, 25] == slow
    # Each second one was fetched before the one ahead of it had shown that more could go.
    assert [25, 25, 50, 50, 100] == fast


def test_a_batch_that_ran_into_the_time_limit_is_tried_again_in_parts() -> None:
    """Or it would be too much for the target for ever; its dead letters are parked and told once."""
    world = Pipeline(partitions=1, limits=LoopLimits(records_max=40))
    for _ in range(39):
        world.happen(clinic.patient())
    unreadable = world.write(event(clinic.patient()))
    world.broker.produce("emrsync.patient", None, b"{}", headers(unreadable))
    loop = world.member()
    written: list[int] = []

    def time_out(one: Event) -> None:
        written.append(one.seq)
        world.clock.now += dt.timedelta(seconds=1)
        if len(written) == 30:
            raise TransientError("statement time limit")

    world.openemr.on_write = time_out
    loop.run_once()
    assert {} == world.openemr.applied
    world.openemr.on_write = lambda _event: None
    world.clock.now += dt.timedelta(seconds=5)
    while loop.run_once():
        pass

    assert ["target.committed"] * 3 == [step for step in world.faults.passed if step == "target.committed"]
    assert 1 == len(world.broker.dead_letters)
    assert ("failed", 1) == (world.row(unreadable).status, world.row(unreadable).retry_count)
    assert 40 == world.broker.committed["emrsync.patient", 0]
    assert [] == violations_at_rest(world.snapshot())
