"""The database's errors in the application's words."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from producer_app.database_errors import database_errors, is_duplicate, translated
from producer_app.errors import AppError, BusyError, InvalidChangeError, StorageError, UnavailableError
from tests import clinic


class DriverError(Exception):
    """Stands for the driver's own: psycopg has sqlstate, PyMySQL the number as first argument."""

    def __init__(self, *arguments: object, sqlstate: str | None = None) -> None:
        super().__init__(*arguments)
        self.sqlstate = sqlstate


def wrapped(kind: type[sa.exc.DBAPIError], cause: DriverError) -> sa.exc.DBAPIError:
    """Give a database error as SQLAlchemy wraps the driver's, parameters and all."""
    return kind("INSERT", {"family_name": clinic.FAMILY_NAME}, cause)


@pytest.mark.parametrize(
    ("kind", "cause", "expected"),
    [
        (sa.exc.OperationalError, DriverError("down"), UnavailableError),
        (sa.exc.OperationalError, DriverError(sqlstate="57P01"), UnavailableError),
        (sa.exc.OperationalError, DriverError(2003, "down"), UnavailableError),
        (sa.exc.InterfaceError, DriverError("gone"), UnavailableError),
        (sa.exc.OperationalError, DriverError(sqlstate="55P03"), BusyError),
        (sa.exc.OperationalError, DriverError(sqlstate="40P01"), BusyError),
        (sa.exc.OperationalError, DriverError(1205, "lock"), BusyError),
        (sa.exc.OperationalError, DriverError(1213, "deadlock"), BusyError),
        (sa.exc.ProgrammingError, DriverError(sqlstate="42P01"), StorageError),
        (sa.exc.OperationalError, DriverError(sqlstate="28P01"), StorageError),
        (sa.exc.DataError, DriverError(1406, "long"), StorageError),
        (sa.exc.OperationalError, DriverError(1142, "denied", sqlstate="42000"), StorageError),
        (sa.exc.OperationalError, DriverError(1045, "denied", sqlstate="28000"), StorageError),
        (sa.exc.OperationalError, DriverError(1205, "lock", sqlstate="HY000"), BusyError),
        (sa.exc.OperationalError, DriverError(1054, "column", sqlstate="42S22"), StorageError),
    ],
)
def test_a_database_error_becomes_the_category_that_tells_what_to_do(
    kind: type[sa.exc.DBAPIError], cause: DriverError, expected: type[AppError]
) -> None:
    """Waiting cures a lost connection and a held row, and neither a missing table nor a wrong password."""
    assert type(translated(wrapped(kind, cause))) is expected


def test_a_full_pool_is_unavailable_and_names_the_setting() -> None:
    """The operator can act on it."""
    error = translated(sa.exc.TimeoutError("QueuePool limit"))

    assert isinstance(error, UnavailableError)
    assert "EMRSYNC_APP_POOL_SIZE" in str(error)


def test_the_cause_is_cut_off_because_it_holds_the_row() -> None:
    """PostgreSQL quotes the failing row in the detail of its message."""
    with pytest.raises(StorageError) as caught, database_errors():
        raise wrapped(sa.exc.DataError, DriverError(f"Failing row contains ({clinic.FAMILY_NAME})", sqlstate="22001"))

    assert clinic.FAMILY_NAME not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (DriverError(sqlstate="23505"), True),
        (DriverError(1062, "Duplicate entry", sqlstate="23000"), True),
        (DriverError(sqlstate="23502"), False),
        (DriverError(1048, "cannot be null", sqlstate="23000"), False),
    ],
)
def test_only_a_unique_key_says_duplicate(cause: DriverError, *, expected: bool) -> None:
    """Another integrity error told as "already exists" would send the reader the wrong way."""
    assert is_duplicate(sa.exc.IntegrityError("INSERT", {}, cause)) is expected


def test_an_invalid_change_names_field_and_reason() -> None:
    """This text is what a person reads."""
    assert str(InvalidChangeError.of("patient_id", "no such patient")) == "patient_id: no such patient"
