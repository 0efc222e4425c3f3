"""Values written as SQL are what the driver makes of them."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import pytest
from pymysql import converters

from connectors.outbox import EntityType
from consumer.openemr import statements


@pytest.mark.parametrize("character", [chr(number) for number in range(0x100)] + ["ł", "病", "𝄞", "\ufeff"])
def test_a_text_with_any_character_is_escaped_as_the_driver_does_it(character: str) -> None:
    """Alone, at either end, and beside one that is escaped."""
    for text in (character, f"a{character}", f"{character}z", f"O'{character}"):
        assert statements._literal(text) == converters.escape_str(text)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "NULL"),
        (7, "7"),
        (-(2**63), "-9223372036854775808"),
        (True, "1"),
        (b"\x00'\xff", "x'0027ff'"),
        (dt.date(1931, 2, 28), "'1931-02-28'"),
        (dt.datetime(2025, 1, 15, 8, 30), "'2025-01-15 08:30:00'"),  # noqa: DTZ001 - the site's local time has no zone
        (decimal.Decimal("1.50"), "1.50"),
        (EntityType.ORDER, "'order'"),
    ],
)
def test_a_value_of_every_type_that_rows_hold(value: Any, written: str) -> None:
    """Types without a way of their own go the driver's way."""
    assert statements._literal(value) == written
