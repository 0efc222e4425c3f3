"""How much the source keeps for the connector, and for how long that can go on, from looks of both kinds."""

from __future__ import annotations

from typing import Any

import pytest

from operations.source_log import RATE_WINDOW_S, SourceLog, WrittenRate, binlog_log, grown, slot_log

MIB = 1024**2
HOUR_S = 3600.0
LIMITS: dict[str, Any] = {"bytes_max": 512 * MIB, "hours_min": 4.0}


def slot(*, rate: float = 2 * MIB, disk_bytes: int | None = None, **changed: Any) -> SourceLog:
    """Look at a slot while the server writes 2 MiB a second."""
    seen = {"active": True, "lost": False, "retained": 10 * MIB, "left_bytes": 2000 * MIB, "limit_bytes": 2048 * MIB}
    return slot_log("emrsync", {**seen, **changed}, rate, disk_bytes=disk_bytes)


def test_the_hours_left_are_what_may_still_be_written_over_the_present_rate() -> None:
    """2,000 MiB at 2 MiB a second."""
    seen = slot()

    assert seen.rate_bytes_s == 2 * MIB
    assert seen.hours_left == pytest.approx(1000 / HOUR_S)
    assert seen.findings(**LIMITS) == ()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param({"active": False}, ["nobody reads it", "is lost in 0.3 hours"], id="nobody reads it"),
        pytest.param({"retained": 600 * MIB}, ["keeps 600.0 MiB for it, above 512.0 MiB", "is lost in"], id="much"),
        pytest.param({"retained": 600 * MIB, "rate": 0.0}, ["keeps 600.0 MiB"], id="much, and nothing is written"),
        pytest.param({"limit_bytes": -1, "left_bytes": None}, ["fills the disk"], id="no limit"),
        pytest.param({"lost": True, "retained": None}, ["`emrsync connector reset-offsets`"], id="lost"),
    ],
)
def test_what_needs_a_person_is_found(changed: dict[str, Any], said: list[str]) -> None:
    """Each in its own words, and nothing else."""
    found = slot(**changed).findings(**LIMITS)

    assert len(found) == len(said)
    assert all(words in text for words, text in zip(said, found, strict=True))


def test_a_slot_without_a_limit_has_the_hours_of_its_disk() -> None:
    """Where that is told; and a disk that is smaller than the limit ends before it."""
    unlimited = slot(limit_bytes=-1, left_bytes=None, disk_bytes=1010 * MIB)
    small = slot(disk_bytes=1010 * MIB)
    full = slot(limit_bytes=-1, left_bytes=None, disk_bytes=9 * MIB)

    assert unlimited.hours_left == small.hours_left == pytest.approx(500 / HOUR_S)
    assert unlimited.limit_bytes == small.limit_bytes == 1010 * MIB
    assert full.hours_left == 0.0
    assert unlimited.findings(**LIMITS) == ()
    assert slot(lost=True, retained=None, left_bytes=None, disk_bytes=MIB).hours_left is None


def test_the_rate_is_that_of_the_last_minutes() -> None:
    """Of a source that writes in bursts a second is quiet or furious."""
    now_s = [0.0]
    rate = WrittenRate(lambda: now_s[0])
    told = []
    for written in (0, 60, 60, 60, 60, 600):
        told.append(rate.take(written))
        now_s[0] += 60.0
    now_s[0] = 600.0 + RATE_WINDOW_S
    late = rate.take(1_200)

    assert told == [None, 1.0, 0.5, pytest.approx(1 / 3), 0.25, 2.0]
    assert late == pytest.approx(600 / 900)


def test_another_server_begins_a_rate_of_its_own() -> None:
    """Its log is at another place; nobody has written backwards."""
    now_s = [0.0]
    rate = WrittenRate(lambda: now_s[0])
    rate.take(1_000)
    now_s[0] = 10.0

    assert rate.take(10) is None
    now_s[0] = 20.0
    assert rate.take(110) == 10.0


def test_binlogs_that_are_removed_are_no_loss() -> None:
    """What was written is what the files that are there have grown by."""
    before = {"binlog.1": 100 * MIB, "binlog.2": 8 * MIB}

    assert grown(before, {"binlog.2": 10 * MIB, "binlog.3": 1 * MIB}) == 3 * MIB


def binlogs(position: dict[str, Any], *, now_s: float = 10 * HOUR_S, expiry_s: float = 168 * HOUR_S) -> SourceLog:
    """Look at three files while the server writes 1 MiB a second."""
    sizes = {"binlog.1": 100 * MIB, "binlog.2": 100 * MIB, "binlog.3": 10 * MIB}
    return binlog_log(position, sizes, 1 * MIB, expiry_s=expiry_s, now_s=now_s)


def test_a_binlog_is_kept_for_its_time_after_the_connectors_position() -> None:
    """From the position on, in all files."""
    seen = binlogs({"file": "binlog.2", "pos": 60 * MIB, "ts_sec": 9 * HOUR_S})

    assert (seen.retained_bytes, seen.rate_bytes_s, seen.hours_left) == (50 * MIB, 1 * MIB, 167.0)
    assert seen.findings(**LIMITS) == ()


def test_a_binlog_that_is_soon_too_old_is_found() -> None:
    """Nobody tells whether the connector is connected: the hours alone count."""
    seen = binlogs({"file": "binlog.2", "pos": 4, "ts_sec": 0}, now_s=1.0)
    late = binlogs({"file": "binlog.2", "pos": 4, "ts_sec": 1}, now_s=165 * HOUR_S)

    assert seen.hours_left is None  # a heartbeat of before the first event has no time
    assert ["is lost in 3.0 hours" in text for text in late.findings(**LIMITS)] == [True]


@pytest.mark.parametrize(
    ("position", "expiry_s"),
    [({"file": "binlog.3", "pos": 4, "ts_sec": 1}, HOUR_S), ({"file": "binlog.1", "pos": 4, "ts_sec": 1}, 0.0)],
    ids=["the newest file stays", "nothing expires"],
)
def test_what_does_not_expire_has_no_hours(position: dict[str, Any], expiry_s: float) -> None:
    """A quiet server is no finding."""
    assert binlogs(position, expiry_s=expiry_s).hours_left is None


def test_a_purged_binlog_is_lost() -> None:
    """And its cure is named."""
    seen = binlogs({"file": "binlog.0", "pos": 4, "ts_sec": 1})

    assert seen.lost
    assert "`emrsync connector reset-offsets`" in seen.findings(**LIMITS)[0]
