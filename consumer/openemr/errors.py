"""What an error of OpenEMR's database means for the events, in words without values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import sqlalchemy as sa

from consumer.outcome import ErrorClass, Failed
from consumer.ports import (
    LockedError,
    MisconfiguredError,
    OutdatedError,
    PausedError,
    RaceError,
    RefusedError,
    RestoredError,
    TransientError,
)

# Numbers of MariaDB's and MySQL's error catalogues, and of the client's.
_TRANSIENT: Final = {
    0: "connection lost",
    1021: "disk is full",
    1040: "too many connections",
    1041: "server is out of memory",
    1047: "cluster node is not ready",
    1053: "server is shutting down",
    1114: "table space is full",
    1158: "network read error",
    1159: "network read time-out",
    1160: "network write error",
    1161: "network write time-out",
    1180: "commit failed",
    1203: "too many connections of this account",
    1226: "this account's limit is reached",
    1290: "server is read-only",
    1317: "query interrupted",
    1792: "transaction is read-only",
    1836: "server is read-only",
    1927: "connection killed",
    1969: "statement time limit",
    2002: "cannot connect",
    2003: "cannot connect",
    2006: "server has gone away",
    2013: "connection lost during a query",
    2014: "connection out of step",
    2055: "connection lost",
    3024: "statement time limit",
    4031: "server closed an idle connection",
}
_LOCKED: Final = 1205
# Lost to another writer, member or clerk: the same transaction may win the next time.
_CROSSED: Final = {
    _LOCKED: "rows or a table are locked by someone else",
    1020: "a row changed under a snapshot",
    1213: "deadlock",
    1412: "a table was altered meanwhile",
}
_REFUSED: Final = {
    1048: "must not be absent",
    1062: "is taken",
    1136: "count of values is wrong",
    1153: "the statement is larger than max_allowed_packet",
    1264: "is out of range",
    1265: "does not fit the column's type",
    1292: "is no valid date, time or number",
    1300: "holds an invalid character",
    1364: "has no default and no value",
    1366: "holds a character or value the column cannot store",
    1406: "is longer than the column",
    1411: "is no valid date or time",
    1451: "other rows refer to it",
    1452: "refers to a row that is not there",
    3819: "breaks a check constraint",
    4025: "breaks a check constraint",
}
_MISCONFIGURED: Final = {
    1044: "the account may not use the database",
    1045: "the account or its password is refused",
    1049: "there is no such database",
    1054: "a column is not there: the schema is another one than at the start",
    1129: "this host is blocked after many broken connections: mariadb-admin flush-hosts frees it",
    1130: "this host may not connect",
    1142: "the account lacks a right: run emrsync provision",
    1143: "the account lacks a right: run emrsync provision",
    1146: "a table is not there: run emrsync provision",
    1698: "the account or its password is refused",
}
_DUPLICATE: Final = 1062
_NOT_THERE: Final = {1054, 1146}
_OVERFLOW: Final = 1690
_RESTORED: Final = (
    "the ledger beside OpenEMR is behind the group's offsets, as after a restore from a backup: "
    "emrsync resume --from-ledger says what is missing and brings it"
)
_OUR_MISTAKE: Final = -1  # the driver refused the statement itself, and has no number for it

# Numbers that OpenEMR's own code may take at the same moment; the next try takes others.
_RACED: Final = {("patient_data", "pid"), ("prescriptions", "PRIMARY")}

_TABLE: Final = re.compile(
    r"^\s*(?:INSERT INTO|UPDATE|DELETE FROM|SELECT .*? FROM)\s+`?([\w.]+)`?", re.IGNORECASE | re.DOTALL
)
# The formats in full, since a value that the text quotes may look like any part of them. MariaDB names the table of a
# joined update `(temporary)`, in no schema.
_COLUMN: Final = re.compile(
    r"(?:\A|.* for )(?:column|Column|Field) (?:`[^`]*`\.)*[`'](\w+)[`']"
    r" (?:at row \d+|cannot be null|doesn't have a default value)\Z",
    re.DOTALL,
)
_KEY: Final = re.compile(r".* for key [`'](?:\w+\.)?(\w+)[`']\Z", re.DOTALL)


@contextmanager
def translated(ledger_schema: str) -> Iterator[None]:
    """Raise what the use cases know instead of the driver's errors; the cause is cut off, since it holds values.

    Raises:
        TransientError, LockedError, PausedError, RestoredError, RaceError, RefusedError, OutdatedError,
        MisconfiguredError.
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        raise _meaning(error, ledger_schema) from None


def _meaning(error: sa.exc.DBAPIError, ledger_schema: str) -> Exception:
    arguments = error.orig.args if error.orig is not None else ()
    number = arguments[0] if arguments and isinstance(arguments[0], int) else _OUR_MISTAKE
    text = arguments[1] if len(arguments) > 1 and isinstance(arguments[1], str) else ""
    table = _table(error.statement)
    if number in _TRANSIENT or error.connection_invalidated:
        return TransientError(f"OpenEMR's database: {_TRANSIENT.get(number, 'connection lost')} ({number})")
    column = _column(number, text)
    if number in _CROSSED:
        return _crossed(number, table, ledger_schema)
    if number == _DUPLICATE and (table.startswith(f"{ledger_schema}.") or (table, column) in _RACED):
        return RaceError(f"{table}: another writer was first")
    if number in _REFUSED:
        where = f"{table}.{column}" if column else table
        error_class = ErrorClass.CONFLICT if number == _DUPLICATE else ErrorClass.REFUSED
        failure = Failed(error_class, f"{where}: {_REFUSED[number]} (database error {number})")
        if number == _DUPLICATE and (column == "uuid" or table == "uuid_registry"):
            # An entity's uuid is always the same: another member inserts it now, or it is there without the ledger.
            return RaceError(f"{where}: another writer was first", failure)
        return RefusedError(failure.error_class, failure.message)
    return _of_the_site(number, table, ledger_schema)


def _crossed(number: int, table: str, ledger_schema: str) -> Exception:
    """Tell who was in the way: a lock that lasts is no race."""
    message = f"OpenEMR's database: {_CROSSED[number]} ({number})"
    if number != _LOCKED:
        return RaceError(message)
    # Who begins maintenance waits for the last batch, and all that come after him wait for the same row.
    return TransientError(message) if table == f"{ledger_schema}.site_state" else LockedError(message)


def _of_the_site(number: int, table: str, ledger_schema: str) -> Exception:
    """Tell what no event can help."""
    if number == _OVERFLOW and table == f"{ledger_schema}.site_state":
        return PausedError("writing into OpenEMR is paused")  # gate.sentry; whoever asks the gate learns why
    if number == _OVERFLOW and table == f"{ledger_schema}.stream_position":
        return RestoredError(_RESTORED)  # Ledger.require_sql
    reason = _MISCONFIGURED.get(number, f"a statement on {table} was refused")
    # Of our own tables only a migration brings what is missing.
    outdated = number in _NOT_THERE and not table.startswith(f"{ledger_schema}.")
    kind = OutdatedError if outdated else MisconfiguredError
    return kind(f"OpenEMR's database: {reason} (database error {number})")


def _table(statement: str | None) -> str:
    found = _TABLE.match(statement or "")
    return found[1] if found else "OpenEMR"


def _column(number: int, text: str) -> str | None:
    found = (_KEY if number == _DUPLICATE else _COLUMN).match(text)
    return found[1] if found else None
