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


def _code(error: sa.exc.DBAPIError) -> str | int | None:
    """Return the SQLSTATE of PostgreSQL or the error number of MySQL and MariaDB."""
    sqlstate = getattr(error.orig, "sqlstate", None)
    if isinstance(sqlstate, str):
        return sqlstate
    arguments = getattr(error.orig, "args", ())
    return arguments[0] if arguments and isinstance(arguments[0], int) else None


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
    # 42 and 28 are missing tables and privileges, which waiting does not cure.
    permanent = isinstance(code, str) and code[:2] in {"42", "28"}
    if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError) and not permanent:
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
