"""Multi-row statements as text and parameters, so that a batch costs one round trip per table."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import sqlalchemy as sa

Row: TypeAlias = Sequence[Any]

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
    """Insert rows in as few statements as possible; constants are SQL expressions by column, the same in all rows."""
    names = ", ".join(f"`{name}`" for name in (*columns, *constants))
    row_sql = "(" + ", ".join((*itertools.repeat("%s", len(columns)), *constants.values())) + ")"
    for chunk in _chunks(rows):
        sql = f"INSERT INTO {table} ({names}) VALUES {', '.join(itertools.repeat(row_sql, len(chunk)))} {suffix}"  # noqa: S608 - names are ours
        connection.exec_driver_sql(sql, tuple(itertools.chain.from_iterable(chunk)))


def update_rows(
    connection: sa.Connection,
    table: str,
    keys: Sequence[str],
    columns: Sequence[str],
    rows: Sequence[Row],
    *,
    constants: Mapping[str, str] = _NOTHING,
    condition: str = "TRUE",
) -> None:
    """Update many rows by one join; each row holds the values of `keys`, then those of `columns`.

    Keys are numbers: a text in the join would have the connection's collation, and the site's tables may have another.
    condition is SQL on the table, known as t. A statement per row costs eight times as much; an upsert on OpenEMR's
    keys could overwrite a clerk's row.
    """
    named = (*keys, *columns)
    first = "SELECT " + ", ".join(f"%s AS `{name}`" for name in named)
    other = " UNION ALL SELECT " + ", ".join(itertools.repeat("%s", len(named)))
    match = " AND ".join(f"t.`{name}` = v.`{name}`" for name in keys)
    sets = ", ".join(
        (*(f"t.`{name}` = v.`{name}`" for name in columns), *(f"t.`{name}` = {sql}" for name, sql in constants.items()))
    )
    for chunk in _chunks(rows):
        values = first + "".join(itertools.repeat(other, len(chunk) - 1))
        sql = f"UPDATE {table} t JOIN ({values}) v ON {match} SET {sets} WHERE {condition}"  # noqa: S608 - names are ours
        connection.exec_driver_sql(sql, tuple(itertools.chain.from_iterable(chunk)))


def select_in(connection: sa.Connection, sql: str, values: Iterable[Any], *rest: Any) -> Sequence[Any]:
    """Run a SELECT whose first parameter is an IN list (and the rest plain); no values, no rows and no statement."""
    found: list[Any] = []
    for chunk in _chunks(list(values)):
        found += connection.exec_driver_sql(sql, (tuple(chunk), *rest)).all()
    return found


def _chunks(rows: Sequence[Any]) -> Iterable[Sequence[Any]]:
    for start in range(0, len(rows), ROWS_MAX):
        yield rows[start : start + ROWS_MAX]
