"""A member that finds OpenEMR restored from a backup writes nothing and leaves, until the ledger is in step again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import pytest

from consumer.ports import Place, RestoredError, StreamPosition, TransientError
from consumer.reach import Reach
from tests import clinic
from tests.fakes import FakeBroker, FakeEventStream, FakeOpenEmr, Faults
from tests.pipeline import Pipeline

TOPIC = "emrsync.patient"


@pytest.fixture
def world() -> Pipeline:
    """Give empty systems with one partition per topic."""
    return Pipeline(partitions=1)


def settle(world: Pipeline, patients: int) -> None:
    """Let patients come, and a member settle them."""
    for _ in range(patients):
        world.happen(clinic.patient())
    loop = world.member()
    world.drain([loop])
    world.crash(loop)


def of_before(world: Pipeline) -> FakeOpenEmr:
    """Give OpenEMR as it is now."""
    return world.openemr.copied()


def empty(world: Pipeline) -> FakeOpenEmr:
    """Give an OpenEMR that has never had anything."""
    return FakeOpenEmr(world.clock)


@pytest.mark.parametrize("backup_of", [of_before, empty])
@pytest.mark.parametrize("lives_on", [True, False], ids=["the member lives on", "it is started anew"])
def test_nothing_is_passed_over_after_a_restore(
    world: Pipeline, backup_of: Callable[[Pipeline], FakeOpenEmr], *, lives_on: bool
) -> None:
    """Neither row, nor position, nor offset moves; once the group is where the ledger is, all of it comes."""
    settle(world, 2)
    backup = backup_of(world)
    there = backup.positions.get((TOPIC, 0), 0)
    loop = world.member()
    for _ in range(3):
        world.happen(clinic.patient())
    world.drain([loop])
    if not lives_on:
        world.crash(loop)
        loop = world.member()
    world.openemr.become(backup.copied())
    newest = world.happen(clinic.patient())

    with pytest.raises(RestoredError, match="emrsync resume --from-ledger"):
        loop.run()

    assert (backup.rows, backup.positions) == (world.openemr.rows, world.openemr.positions)
    assert [("pending", None)] == world.state(newest)
    assert 0 == world.row(newest).retry_count
    assert {(TOPIC, 0): 5} == world.broker.committed
    assert [] == world.broker.members

    world.broker.committed[TOPIC, 0] = there
    world.drain([world.member()])
    assert (6, 6) == (len(world.openemr.rows), world.openemr.positions[TOPIC, 0])


def test_what_the_member_has_recorded_counts_while_offsets_wait(world: Pipeline) -> None:
    """Marks and offsets wait for the source; the group's offset alone would let the gap pass."""
    settle(world, 1)
    backup = world.openemr.copied()
    loop = world.member()
    lost = world.happen(clinic.patient())
    world.faults.plan("marker.mark", *[TransientError("the source is away")] * 100)
    loop.run_once()
    assert (2, 1) == (world.openemr.positions[TOPIC, 0], world.broker.committed[TOPIC, 0])
    world.openemr.become(backup)
    world.happen(clinic.patient())

    with pytest.raises(RestoredError):
        loop.run_once()

    world.crash(loop)
    world.faults.clear()
    world.drain([world.member()])
    assert [("done", "applied")] == world.state(lost)
    assert 3 == len(world.openemr.rows)


def test_a_ledger_that_is_further_than_the_group_is_as_it_should_be(world: Pipeline) -> None:
    """After a crash before the offset commit, and when a person has moved the group back."""
    settle(world, 3)
    world.broker.committed[TOPIC, 0] = 1
    settle(world, 1)
    assert (4, 4) == (world.broker.committed[TOPIC, 0], world.openemr.positions[TOPIC, 0])

    del world.broker.committed[TOPIC, 0]
    settle(world, 1)
    assert (5, 5) == (world.broker.committed[TOPIC, 0], world.openemr.positions[TOPIC, 0])


class OneOffset(FakeEventStream):
    """A stream whose group is at one offset; asked counts how often it was asked."""

    def __init__(self, offset: int) -> None:
        super().__init__(FakeBroker(), Faults())
        self._offset = offset
        self.asked = 0

    def committed(self, places: Collection[Place]) -> Mapping[Place, int]:
        """Give the offset."""
        self.asked += 1
        return dict.fromkeys(places, self._offset)


def test_kafka_is_asked_once_for_each_partition_that_is_given(world: Pipeline) -> None:
    """Not in the way of every batch; and what other members have settled meanwhile is asked for again."""
    stream = OneOffset(5)
    reach = Reach(stream)
    found = []
    for next_offset in (6, 9):
        [one] = reach.expected([StreamPosition(TOPIC, 0, next_offset)])
        reach.recorded([one])
        found.append(one.reached)
    assert ([5, 6], 1) == (found, stream.asked)

    reach.forget([(TOPIC, 0)])
    assert [StreamPosition(TOPIC, 0, 12, 5)] == reach.expected([StreamPosition(TOPIC, 0, 12)])
    assert stream.asked == 2


def test_records_that_the_topic_has_dropped_are_no_sign_of_a_restore() -> None:
    """The next batch begins far beyond the group's offset, and the ledger has to be only where the group was."""
    [one] = Reach(OneOffset(5)).expected([StreamPosition(TOPIC, 0, 100)])
    assert one.reached == 5


def test_a_topic_that_was_made_anew_begins_again() -> None:
    """While the member runs, which has recorded more of the old one."""
    reach = Reach(OneOffset(0))
    reach.recorded([StreamPosition(TOPIC, 0, 1_000)])
    [one] = reach.expected([StreamPosition(TOPIC, 0, 10)])
    assert one.reached == 0
