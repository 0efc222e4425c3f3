"""What counts as standing still, and what does not."""

from __future__ import annotations

import pytest

from connectors.connect_progress import Progress, StallWatch

UNSENT = ("patient", 7)


def looks(*seen: tuple[float, int | None, int, tuple[str, int] | None]) -> list[str | None]:
    """Feed looks of (time, heartbeats, records, unsent), and return what was told at each."""
    stalls = StallWatch(30.0)
    return [stalls.stall(Progress(beats, records, unsent), at) for at, beats, records, unsent in seen]


def test_heartbeats_that_stand_still_for_the_limit_are_a_stall() -> None:
    """Not a moment sooner."""
    told = looks((0, 5, 9, None), (29, 5, 9, None), (30, 5, 9, None))

    assert told == [None, None, "it runs and moves nothing: no heartbeat for 30 s"]


def test_a_row_without_a_record_is_a_stall_though_heartbeats_go_on() -> None:
    """As when the connection to the database died in silence."""
    told = looks((0, 5, 9, UNSENT), (20, 6, 9, UNSENT), (31, 7, 9, UNSENT))

    assert told == [None, None, "it runs and moves nothing: the patient of seq 7 has had no record for 31 s"]


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param([(0, 5, 9, UNSENT), (40, 5, 10, UNSENT)], id="records come, as in a snapshot"),
        pytest.param([(0, 5, 9, UNSENT), (40, 6, 9, ("patient", 8))], id="another row is the oldest"),
        pytest.param([(0, 5, 9, UNSENT), (20, 6, 9, None), (40, 7, 9, UNSENT)], id="all were sent in between"),
        pytest.param([(0, None, 9, None), (90, None, 9, None)], id="no heartbeats are written at all"),
        pytest.param([(0, 5, 9, None), (20, 6, 9, None), (40, 6, 9, None)], id="a heartbeat came"),
    ],
)
def test_what_moves_is_no_stall(seen: list[tuple[float, int | None, int, tuple[str, int] | None]]) -> None:
    """One mark that moves in time is enough, if it is the right one."""
    assert looks(*seen)[-1] is None


def test_what_is_forgotten_begins_anew() -> None:
    """After a restart, and when nobody could be asked."""
    stalls = StallWatch(30.0)
    stalls.stall(Progress(5, 9, None), 0)
    stalls.forget()

    assert stalls.stall(Progress(5, 9, None), 31) is None
    assert stalls.stall(Progress(5, 9, None), 60) is None
    assert stalls.stall(Progress(5, 9, None), 61) is not None
