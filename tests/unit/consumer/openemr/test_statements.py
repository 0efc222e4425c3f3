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
        assert statements.literal(text) == converters.escape_str(text)


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
    assert statements.literal(value) == written


def test_values_written_before_their_turn_are_those_of_a_plain_row() -> None:
    """In an INSERT and in an UPDATE, whose first row also names the columns."""
    sent: list[str] = []
    connection: Any = FakeConnection(sent)
    for values in ((1, "O'Keefe", None), (1, statements.Values(("O'Keefe", None)))):
        rows = [values, (2, *values[1:])]
        statements.insert_rows(connection, "t", ("a", "b", "c"), rows)
        statements.update_rows(connection, "t", ("a",), ("b", "c"), rows)

    assert sent[:2] == sent[2:]
    assert "1 AS `a`, 'O\\'Keefe' AS `b`, NULL AS `c` UNION ALL SELECT 2, 'O\\'Keefe', NULL" in sent[1]


def test_queries_are_answered_each_by_its_own_rows() -> None:
    """Without values none is asked, and one with many values is asked in parts."""
    sent: list[str] = []
    connection: Any = FakeConnection(sent)
    many = [*range(statements.ROWS_MAX + 1)]
    queries = [("SELECT 1 IN %s AND a = %s", ["it's", b"x"], ("50 %",)), ("SELECT 2 IN %s", [], ()), ("3 %s", many, ())]

    answers = statements.select_each(connection, queries)

    assert [1, 0, 2] == [len(rows) for rows in answers]
    assert "SELECT 1 IN ('it\\'s', x'78') AND a = '50 %'" == sent[0]
    assert f"3 ({statements.ROWS_MAX})" == sent[2]


class FakeRows:
    """One row."""

    def all(self) -> list[tuple[int]]:
        """Give it."""
        return [(7,)]


class FakeConnection:
    """Keeps the statements, and answers each with one row."""

    def __init__(self, sent: list[str]) -> None:
        self._sent = sent

    def get_execution_options(self) -> dict[str, Any]:
        """Have no packet."""
        return {}

    def exec_driver_sql(self, sql: str, *_options: Any) -> FakeRows:
        """Take one."""
        self._sent.append(sql)
        return FakeRows()
