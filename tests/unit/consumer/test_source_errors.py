"""What the source database answers becomes words without values, and an outage is told from a wrong setting."""

from __future__ import annotations

import psycopg
import pymysql
import pytest
import sqlalchemy as sa
from psycopg import errors

from consumer.ports import MisconfiguredError, RaceError, TransientError
from consumer.source_database import translated
from tests.clinic import FAMILY_NAME as NAME

STATEMENT = "UPDATE sync_outbox SET status = %s"


def meaning(orig: Exception, kind: type[sa.exc.DBAPIError] = sa.exc.OperationalError) -> Exception:
    """Let the driver report an error, and give what comes out of the translation."""
    with pytest.raises((TransientError, MisconfiguredError)) as caught, translated():
        raise kind(STATEMENT, (NAME,), orig)
    assert caught.value.__cause__ is None
    assert NAME not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("orig", "kind", "said"),
    [
        (psycopg.OperationalError(f"connection failed: {NAME}"), sa.exc.OperationalError, "away or busy"),
        (psycopg.OperationalError("FATAL:  the database system is starting up"), sa.exc.OperationalError, "away"),
        (errors.DeadlockDetected(NAME), sa.exc.OperationalError, "(40P01)"),
        (errors.LockNotAvailable(NAME), sa.exc.OperationalError, "(55P03)"),
        (errors.QueryCanceled(NAME), sa.exc.OperationalError, "(57014)"),
        (errors.AdminShutdown(NAME), sa.exc.OperationalError, "(57P01)"),
        (errors.TooManyConnections(NAME), sa.exc.OperationalError, "(53300)"),
        (errors.ReadOnlySqlTransaction(NAME), sa.exc.InternalError, "read-only"),
        (psycopg.InterfaceError(NAME), sa.exc.InterfaceError, "connection lost"),
        (pymysql.err.OperationalError(1205, NAME), sa.exc.OperationalError, "(1205)"),
        (pymysql.err.OperationalError(1213, NAME), sa.exc.OperationalError, "(1213)"),
        (pymysql.err.OperationalError(2006, NAME), sa.exc.OperationalError, "(2006)"),
        (pymysql.err.OperationalError(1290, NAME), sa.exc.OperationalError, "read-only"),
    ],
    ids=lambda one: getattr(one, "__name__", None) or (one if isinstance(one, str) else type(one).__name__),
)
def test_an_outage_is_transient(orig: Exception, kind: type[sa.exc.DBAPIError], said: str) -> None:
    """Whatever the number or state."""
    error = meaning(orig, kind)

    assert isinstance(error, TransientError)
    assert said in str(error)


@pytest.mark.parametrize(
    ("orig", "kind", "said"),
    [
        (psycopg.OperationalError(f'FATAL:  password authentication failed for user "{NAME}"'), None, "password"),
        (psycopg.OperationalError(f'FATAL:  database "{NAME}" does not exist'), None, "database's name"),
        (pymysql.err.OperationalError(1045, NAME), None, "password is refused"),
        (pymysql.err.OperationalError(1142, NAME), None, "lacks a right"),
        (errors.InsufficientPrivilege(NAME), sa.exc.ProgrammingError, "42501"),
        (errors.UndefinedTable(NAME), sa.exc.ProgrammingError, "42P01"),
        (pymysql.err.ProgrammingError(1064, NAME), sa.exc.ProgrammingError, "SKIP LOCKED"),
        (pymysql.err.ProgrammingError(1146, NAME), sa.exc.ProgrammingError, "1146"),
    ],
    ids=lambda one: getattr(one, "__name__", None) or (one if isinstance(one, str) else type(one).__name__),
)
def test_a_wrong_setting_is_none(orig: Exception, kind: type[sa.exc.DBAPIError] | None, said: str) -> None:
    """No waiting cures it."""
    error = meaning(orig, kind or sa.exc.OperationalError)

    assert isinstance(error, MisconfiguredError)
    assert said in str(error)


@pytest.mark.parametrize("orig", [errors.DeadlockDetected(NAME), pymysql.err.OperationalError(1213, NAME)])
def test_a_deadlock_is_a_race_that_may_be_run_again_at_once(orig: Exception) -> None:
    """Its loser finds the rows free."""
    assert isinstance(meaning(orig), RaceError)


def test_mysqls_number_counts_more_than_its_state() -> None:
    """The driver gives both for what a server says; 42000 is a missing right and much else."""
    orig = pymysql.err.OperationalError(1142, NAME)
    orig.sqlstate = "42000"

    assert isinstance(meaning(orig), MisconfiguredError)
    assert "lacks a right" in str(meaning(orig))
