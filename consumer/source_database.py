"""What the adapters of the source database share: the engine, comparisons with lists of ids, meanings of errors."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from consumer.ports import MisconfiguredError, RaceError, TransientError

ROWS_MAX: Final = 500
"""Rows of one statement."""

_Key = TypeVar("_Key", uuid.UUID, str)

# PostgreSQL's states and MySQL's numbers of a server that is there and takes no writes now.
_READ_ONLY: Final[tuple[str | int, ...]] = ("25006", 1290, 1792, 1836)

# Lost to another writer at the same rows: the same transaction wins the next time.
_DEADLOCK: Final[tuple[str | int, ...]] = ("40P01", 1213)

# MySQL's and MariaDB's numbers that the driver counts among the operational ones, and that no waiting cures.
_MISCONFIGURED: Final[Mapping[str | int, str]] = {
    1044: "the account may not use the database",
    1045: "the account or its password is refused",
    1049: "there is no such database",
    1064: "it does not know SKIP LOCKED: a retrier needs MariaDB from 10.6 or MySQL from 8.0",
    1142: "the account lacks a right: run emrsync provision",
    1143: "the account lacks a right: run emrsync provision",
    1698: "the account or its password is refused",
}

# A connection that PostgreSQL refuses has no state, only these words, whatever is quoted between them.
_REFUSED_BY_POSTGRESQL: Final = re.compile(
    r"FATAL: +(password authentication failed|role .* does not exist|database .* does not exist|no pg_hba.conf entry)"
)


def create_engine(url: str) -> sa.Engine:
    """Make the marker account's engine: two connections, with time limits, in UTC."""
    options: dict[str, object] = {"connect_timeout": 5}
    if sa.make_url(url).get_backend_name() != "postgresql":
        # DATETIME columns of the outbox are UTC.
        options |= {"charset": "utf8mb4", "init_command": "SET time_zone = '+00:00'", "read_timeout": 30}
    else:
        # A batch's update takes milliseconds; longer means a lock or an outage, which is tried again.
        options |= {"options": "-c statement_timeout=30000 -c lock_timeout=10000 -c timezone=UTC"}
        # The driver has no time-out for an answer: a network that swallows packets is noticed by TCP, after 15 s.
        options |= {"keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 2, "tcp_user_timeout": 15_000}
    return sa.create_engine(
        url,
        isolation_level="READ COMMITTED",
        pool_size=2,  # one for the marks of batches, one for what is released from the waiting room meanwhile
        max_overflow=0,
        connect_args=options,
    )


def one_of(connection: sa.Connection, column: sa.ColumnElement[Any], values: Sequence[Any]) -> sa.ColumnElement[bool]:
    """Compare with a list of values: as one array on PostgreSQL, where 500 parameters cost more than the update."""
    if connection.dialect.name != "postgresql":
        return column.in_(values)
    if not isinstance(values[0], uuid.UUID):
        return column == sa.any_(sa.bindparam(None, list(values), type_=postgresql.ARRAY(sa.Text())))
    # Written as one text, since objects one by one cost the driver six times as much.
    listed = sa.bindparam(None, "{" + ",".join([value.hex for value in values]) + "}", type_=sa.Text())
    return column == sa.any_(sa.cast(listed, postgresql.ARRAY(postgresql.UUID())))


def chunks(values: Sequence[_Key]) -> Iterator[Sequence[_Key]]:
    """Cut into statements, sorted, so that members come to shared rows in much the same order."""
    ordered = sorted(values, key=_sorted_by)
    for start in range(0, len(ordered), ROWS_MAX):
        yield ordered[start : start + ROWS_MAX]


def _sorted_by(value: _Key) -> int | str:
    return value.int if isinstance(value, uuid.UUID) else value  # a UUID's own comparison is Python's


@contextmanager
def translated() -> Iterator[None]:
    """Raise what the use cases know; the driver's text may hold values and is cut off.

    Raises:
        TransientError, RaceError, MisconfiguredError.
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        raise _meaning(error) from None


def _meaning(error: sa.exc.DBAPIError) -> Exception:
    code = _code(error)
    if code in _MISCONFIGURED:
        return MisconfiguredError(f"the source database: {_MISCONFIGURED[code]} (database error {code})")
    if not isinstance(code, int) and _REFUSED_BY_POSTGRESQL.search(str(error.orig)):
        return MisconfiguredError("the source database: it refuses the account, its password or the database's name")
    transient = isinstance(error, sa.exc.InterfaceError | sa.exc.OperationalError) or error.connection_invalidated
    if transient or code in _READ_ONLY:
        return _transient(error, code)
    return MisconfiguredError(f"the source database refused a statement on the outbox (database error {code})")


def _transient(error: sa.exc.DBAPIError, code: str | int) -> TransientError:
    if code in _DEADLOCK:
        return RaceError(f"the source database: deadlock with another writer ({code})")
    if code in _READ_ONLY:
        return TransientError(f"the source database is read-only (database error {code})")
    if isinstance(error, sa.exc.InterfaceError) or error.connection_invalidated:
        return TransientError("the source database: connection lost")
    return TransientError(f"the source database is away or busy ({code})")


def _code(error: sa.exc.DBAPIError) -> str | int:
    """Return MySQL's number, else PostgreSQL's state, or the error's name where it has none; never its text."""
    arguments: tuple[object, ...] = error.orig.args if error.orig is not None else ()
    # MySQL's driver gives a state too, which says less: 42000 is a wrong statement and a missing right alike.
    if arguments and isinstance(arguments[0], int):
        return arguments[0]
    state = getattr(error.orig, "sqlstate", None)
    return state if isinstance(state, str) else type(error.orig).__name__
