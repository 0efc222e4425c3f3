"""The retry role goes on through outages, tells of storms, and ends when asked to."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import MutableMapping
from typing import Any

import pytest

from connectors.events import Event
from consumer.backoff import DELAY_FIRST_S
from consumer.ports import MisconfiguredError, Target, TransientError
from consumer.retry_failed import RetryLimits
from consumer.retry_role import RetryRole, Timing
from tests import clinic
from tests.fakes import FakeFailedRows, FakeRow
from tests.made_events import NOON, event
from tests.pipeline import Pipeline

INTERVAL_S = 7.0


class World(Pipeline):
    """Failed rows, and one retrier whose target may be away at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[Exception | None] = []
        self.slept: list[float] = []
        self.role = RetryRole(
            FakeFailedRows(self.source, self.faults),
            self._open,
            self.marker,
            limits=RetryLimits(storm_failures=3),
            interval_s=INTERVAL_S,
            timing=Timing(clock=self.clock, sleep=self._sleep, jitter=lambda: 1),
        )

    def _open(self) -> Target:
        if self.opened and (error := self.opened.pop(0)) is not None:
            raise error
        return self.target

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.role.stop()

    def failed(self) -> Event:
        """Write a row that is due."""
        one = event(clinic.patient())
        self.source.outbox[one.outbox_id] = FakeRow(one, "failed", "failed", 1, NOON, "refused", "sex: is wrong")
        return one


@pytest.fixture
def world() -> World:
    """Give empty systems."""
    return World()


def actions(logged: list[MutableMapping[str, Any]]) -> list[str]:
    """Give what was logged."""
    return [entry["action"] for entry in logged]


def test_it_retries_what_is_due_and_looks_again_after_a_while(
    world: World, logged: list[MutableMapping[str, Any]]
) -> None:
    """An idle look says nothing."""
    one = world.failed()

    assert INTERVAL_S == world.role.run_once()
    assert [("done", "applied")] == world.state(one)
    assert INTERVAL_S == world.role.run_once()
    assert [{"event": "rows retried", "log_level": "info", "action": "retried", "applied": 1}] == logged


@pytest.mark.parametrize("step", ["failed.claim", "target.begin", "marker.mark", "failed.claimed"])
def test_it_goes_on_through_an_outage_of_either_database(
    world: World, step: str, logged: list[MutableMapping[str, Any]]
) -> None:
    """With growing pauses, and at its usual pace afterwards; nothing is charged."""
    one = world.failed()
    world.faults.plan(step, *[TransientError("away")] * 5)

    pauses = []
    for _ in range(5):
        pauses.append(world.role.run_once())
        world.clock.now += dt.timedelta(hours=1)
    assert pauses == sorted(pauses)
    assert (DELAY_FIRST_S, 16 * DELAY_FIRST_S) == (pauses[0], pauses[-1])
    assert ["retry_outage"] == actions(logged)

    assert INTERVAL_S == world.role.run_once()
    assert "retry_resumed" in actions(logged)
    assert ("done", 1) == (world.row(one).status, world.row(one).retry_count)


def test_it_waits_for_an_openemr_that_is_away_at_the_start(world: World) -> None:
    """It is opened when it answers, and once."""
    world.opened = [TransientError("away"), TransientError("away"), None, AssertionError("opened twice")]

    assert [DELAY_FIRST_S, 2 * DELAY_FIRST_S, INTERVAL_S, INTERVAL_S] == [world.role.run_once() for _ in range(4)]


def test_a_wrong_setting_ends_it(world: World) -> None:
    """A person must act."""
    world.opened = [MisconfiguredError("no such database")]

    with pytest.raises(MisconfiguredError):
        world.role.run()


def test_a_storm_is_logged_as_an_error_and_the_class_is_left_alone_for_a_while(
    world: World, logged: list[MutableMapping[str, Any]]
) -> None:
    """Then it is tried again."""
    events = [world.failed() for _ in range(8)]
    world.openemr.refused |= {one.key for one in events}

    def tried() -> int:
        return sum(world.row(one).retry_count - 1 for one in events)

    world.role.run_once()
    assert 3 == tried()
    [storm] = [entry for entry in logged if entry["action"] == "retry_storm"]
    assert ("error", "refused", 3, 300) == tuple(
        storm[name] for name in ("log_level", "error_class", "failures", "pause_s")
    )
    world.role.run_once()
    assert 3 == tried()

    world.clock.now += dt.timedelta(minutes=6)
    world.openemr.refused.clear()
    world.role.run_once()
    assert {"done"} == {world.row(one).status for one in events}


def test_a_failure_is_logged_with_ids_and_reason(world: World, logged: list[MutableMapping[str, Any]]) -> None:
    """And no value."""
    one = world.failed()
    world.openemr.refused.add(one.key)
    world.role.run_once()

    [entry] = [entry for entry in logged if entry["action"] == "retry_failed"]
    assert (str(one.outbox_id), "refused", "patient: is out of range") == tuple(
        entry[name] for name in ("outbox_id", "error_class", "reason")
    )


def test_it_ends_when_asked_to_while_it_waits(world: World) -> None:
    """Within a moment, not after the whole interval."""
    runner = threading.Thread(target=world.role.run)
    runner.start()
    runner.join(10)

    assert not runner.is_alive()
    assert [0.25] == world.slept


def test_it_ends_after_the_batch_in_hand(world: World) -> None:
    """The rest stays due."""
    events = [world.failed() for _ in range(8)]
    world.openemr.on_write = lambda _event: world.role.stop()
    world.role.run()

    assert {"done": 3, "failed": 5} == {
        status: [world.row(one).status for one in events].count(status) for status in ("done", "failed")
    }
