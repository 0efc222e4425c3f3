"""The database's exceptions as the application's own, because their texts and causes hold row values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa

from producer_app.errors import AppError, BusyError, StorageError, UnavailableError

_DUPLICATE_SQLSTATE: Final = "23505"
_DUPLICATE_ERRNO: Final = 1062

_LOCK_SQLSTATES: Final = {"40001", "40P01", "55P03"}
_LOCK_ERRNOS: Final = {1205, 1213}

# Missing tables and privileges, and wrong passwords.
_REFUSED_SQLSTATE_CLASSES: Final = {"42", "28"}
# Too many connections, shutting down, connection killed, and the driver's own for a connection not made or lost.
_ABSENT_ERRNOS: Final = {0, 1040, 1053, 1927, 2002, 2003, 2006, 2013}


def _code(error: sa.exc.DBAPIError) -> str | int | None:
    """Return the error number of MySQL and MariaDB, whose SQLSTATE says less, or the SQLSTATE of PostgreSQL."""
    arguments = getattr(error.orig, "args", ())
    if arguments and isinstance(arguments[0], int):
        return arguments[0]
    sqlstate = getattr(error.orig, "sqlstate", None)
    return sqlstate if isinstance(sqlstate, str) else None


def _waiting_helps(error: sa.exc.DBAPIError, code: str | int | None) -> bool:
    """Say whether the server was absent, rather than refusing what it was asked."""
    if not isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError):
        return False
    if isinstance(code, int):
        # PyMySQL calls nearly everything an OperationalError, a missing privilege too.
        return code in _ABSENT_ERRNOS
    return code is None or code[:2] not in _REFUSED_SQLSTATE_CLASSES


def is_duplicate(error: sa.exc.IntegrityError) -> bool:
    """Say whether a unique key refused the row."""
    return _code(error) in {_DUPLICATE_SQLSTATE, _DUPLICATE_ERRNO}


def translated(error: sa.exc.SQLAlchemyError) -> AppError:
    """Give the application's error for one of the database's: what happened and what to do, without any value."""
    if isinstance(error, sa.exc.TimeoutError):
        return UnavailableError("every database connection is in use; try again, or raise EMRSYNC_APP_POOL_SIZE")
    if not isinstance(error, sa.exc.DBAPIError):
        return StorageError(f"the statement was refused before it was sent ({type(error).__name__})")
    code = _code(error)
    if code in _LOCK_SQLSTATES or code in _LOCK_ERRNOS:
        return BusyError(f"another transaction holds the row ({code}); try again")
    if _waiting_helps(error, code):
        return UnavailableError(f"the application's database does not answer ({code or 'no connection'})")
    kind = type(error.orig).__name__
    return StorageError(f"the database refused a statement ({kind}, {code}); are its tables and grants up to date?")


@contextlib.contextmanager
def database_errors() -> Iterator[None]:
    """Turn every database error inside into an AppError whose cause, which holds values, is cut off."""
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        raise translated(error) from None
