"""How far the connector is known to be."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from operations.sent_rows import Sent, position_time

NOON = dt.datetime(2025, 3, 1, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("positions", "until"),
    [
        ([{"lsn": 1, "ts_usec": 1_740_830_400_000_000}], NOON),
        ([{"file": "binlog.2", "pos": 4, "ts_sec": 1_740_830_400}], NOON),
        ([{"file": "binlog.2", "pos": 4, "ts_sec": 0}], None),
        ([{"lsn": 1}], None),
        ([], None),
    ],
)
def test_a_position_tells_the_time_of_what_was_read_last(positions: list[dict[str, Any]], until: object) -> None:
    """In the words of each connector; one that has read nothing yet tells none."""
    assert until == position_time(positions)


def test_a_row_is_sent_when_a_later_one_was_or_the_connector_is_past_its_time() -> None:
    """Clocks may differ by minutes."""
    before, just_before = NOON - dt.timedelta(hours=1), NOON - dt.timedelta(minutes=1)

    assert [True, False] == [Sent(7, None).holds(seq, before) for seq in (7, 8)]
    assert [True, False] == [Sent(-1, NOON).holds(8, created_at) for created_at in (before, just_before)]
