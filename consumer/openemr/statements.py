"""Multi-row statements, so that a batch costs one round trip per table."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, Self, TypeAlias

import sqlalchemy as sa
from pymysql import converters

from consumer.openemr.packet import packet_of

Row: TypeAlias = Sequence[Any]


class Values(tuple[Any, ...]):  # noqa: SLOT001 - no tuple can have another slot
    """Several values of a row, written as SQL where they are made: before their turn, while the server works."""

    sql: str

    def __new__(cls, values: Iterable[Any]) -> Self:
        """Take the values, and write them."""
        made = super().__new__(cls, values)
        made.sql = _literals(made)
        return made


ROWS_MAX: Final = 500
"""Rows of one statement: far below max_allowed_packet (16 MiB), and below the 1,000 values of an IN list from which
on MariaDB makes a subquery of it and reads the whole table."""

_NOTHING: Final[Mapping[str, str]] = {}


def insert_rows(
    connection: sa.Connection,
    table: str,
    columns: Sequence[str],
    rows: Sequence[Row],
    *,
    constants: Mapping[str, str] = _NOTHING,
    suffix: str = "",
) -> None:
    """Insert rows in as few statements as possible; constants are SQL expressions by column, the same in all rows.

    A row may hold Values in the place of single ones.
    """
    names = ", ".join(f"`{name}`" for name in (*columns, *constants))
    row_end = ", ".join(("", *constants.values())) + ")"
    for chunk in chunks(rows):
        values = ", ".join([f"({_literals(row)}{row_end}" for row in chunk])
        _run(connection, f"INSERT INTO {table} ({names}) VALUES {values} {suffix}")  # noqa: S608 - names are ours


def update_rows(
    connection: sa.Connection,
    table: str,
    keys: Sequence[str],
    columns: Sequence[str],
    rows: Sequence[Row],
    *,
    constants: Mapping[str, str] = _NOTHING,
    index: str = "PRIMARY",
) -> None:
    """Update many rows by one join; each row holds the values of `keys`, then those of `columns` or Values of them.

    Keys are numbers: a text in the join would have the connection's collation, and the site's tables may have another.
    index is the one of the keys: on a small table the server would rather read all rows, and wait for each that a
    clerk holds, who may wait for ours. A statement per row costs eight times as much; an upsert on OpenEMR's keys
    could overwrite a clerk's row.
    """
    match = " AND ".join(f"t.`{name}` = v.`{name}`" for name in keys)
    sets = ", ".join(
        (*(f"t.`{name}` = v.`{name}`" for name in columns), *(f"t.`{name}` = {sql}" for name, sql in constants.items()))
    )
    named = (*keys, *columns)
    for chunk in chunks(rows):
        first = ", ".join(f"{literal(value)} AS `{name}`" for value, name in zip(_single(chunk[0]), named, strict=True))
        values = " UNION ALL ".join([f"SELECT {first}", *(f"SELECT {_literals(row)}" for row in chunk[1:])])
        from_values = f"{table} t FORCE INDEX ({index}) JOIN ({values}) v ON {match}"
        _run(connection, f"UPDATE {from_values} SET {sets}")  # noqa: S608 - names are ours


Query: TypeAlias = tuple[str, Iterable[Any], Sequence[Any]]
"""A SELECT, the values of its IN list, which is its first parameter, and its other parameters."""


def select_in(connection: sa.Connection, sql: str, values: Iterable[Any], *rest: Any) -> Sequence[Any]:
    """Run a SELECT whose first parameter is an IN list (and the rest plain); no values, no rows and no statement."""
    return select_each(connection, [(sql, values, rest)])[0]


def select_each(connection: sa.Connection, queries: Sequence[Query]) -> Sequence[Sequence[Any]]:
    """Run queries as select_in does, and give the rows of each.

    They go in one packet, and what the connection's packet keeps back goes along with them.
    """
    asked = [
        (number, sql % (f"({_literals(chunk)})", *map(literal, rest)))
        for number, (sql, values, rest) in enumerate(queries)
        for chunk in chunks(list(values))
    ]
    found: list[list[Any]] = [[] for _ in queries]
    for (number, _), rows in zip(asked, _answers(connection, [whole for _, whole in asked]), strict=True):
        found[number] += rows
    return found


def select_row(connection: sa.Connection, sql: str, *values: Any) -> Sequence[Any]:
    """Run a SELECT that gives one row, in one packet with what the connection's packet keeps back."""
    (rows,) = _answers(connection, [sql % tuple(map(literal, values))])
    (row,) = rows
    return tuple(row)


def _answers(connection: sa.Connection, statements: Sequence[str]) -> Sequence[Sequence[Any]]:
    packet = packet_of(connection)
    if packet is not None and packet.is_open:
        return packet.select(statements) if statements else ()
    return [connection.exec_driver_sql(one, None, {"no_parameters": True}).all() for one in statements]


def _run(connection: sa.Connection, sql: str) -> None:
    """Run a whole statement as it is, at once or in the connection's packet; a % in a value is no placeholder."""
    packet = packet_of(connection)
    if packet is None:
        connection.exec_driver_sql(sql, None, {"no_parameters": True})
    else:
        packet.add(sql)


def _literals(row: Row) -> str:
    return ", ".join([_WRITERS.get(type(value), _by_driver)(value) for value in row])


def literal(value: Any) -> str:
    """Write a value as SQL, as the driver would; its own way there from a parameter takes three times as long.

    A backslash escapes because our sessions set their sql_mode, without NO_BACKSLASH_ESCAPES, themselves.
    """
    return _WRITERS.get(type(value), _by_driver)(value)


def _single(row: Row) -> Iterator[Any]:
    for value in row:
        yield from value if type(value) is Values else (value,)


def _by_driver(value: Any) -> str:
    return str(converters.escape_item(value, "utf8mb4", converters.encoders))


def _text(value: str) -> str:
    return f"'{value}'" if _needs_escape(value) is None else f"'{converters.escape_string(value)}'"


# Half of a batch's time before it is sent goes into this, so that the commonest types have a way of their own.
_WRITERS: Final[Mapping[type, Callable[[Any], str]]] = {
    str: _text,
    type(None): lambda _value: "NULL",
    # Pure ASCII, whatever the connection's character set makes of other bytes.
    bytes: lambda value: f"x'{value.hex()}'",
    int: str,
    # A time is local or UTC by its column and never has a zone here, whose offset would be part of its text.
    dt.date: lambda value: f"'{value}'",
    dt.datetime: lambda value: f"'{value}'",
    Values: attrgetter("sql"),
}
_needs_escape: Final = re.compile("[\\0\\n\\r\\x1a\"'\\\\]").search
"""Finds a character that the driver escapes; texts mostly have none."""


def chunks(rows: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """Cut rows, or values of an IN list, into those of one statement each."""
    for start in range(0, len(rows), ROWS_MAX):
        yield rows[start : start + ROWS_MAX]
