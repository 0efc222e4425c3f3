"""What OpenEMR's database answers, in the formats of MariaDB and MySQL, becomes words without values."""

from __future__ import annotations

import pymysql
import pytest
import sqlalchemy as sa

from consumer.openemr.errors import translated
from consumer.outcome import ErrorClass, Failed
from consumer.ports import LockedError, MisconfiguredError, OutdatedError, RaceError, RefusedError, TransientError
from tests.clinic import FAMILY_NAME as NAME

PATIENT = "INSERT INTO patient_data (`pid`, `lname`) VALUES (%s, %s) "
LEDGER = "INSERT INTO emr_sync.applied_event (`outbox_id`) VALUES (%s) "


def error_of(number: int, text: str, statement: str = PATIENT) -> Exception:
    """Let the driver report an error of one statement, and give what comes out of the translation."""
    orig = pymysql.err.DataError(number, text)
    with pytest.raises(Exception, match=r"database|another") as caught, translated("emr_sync"):
        raise sa.exc.DBAPIError(statement, (1, NAME), orig)
    return caught.value


@pytest.mark.parametrize(
    ("number", "text", "where"),
    [
        (1406, "Data too long for column 'lname' at row 1", "patient_data.lname"),
        (1264, "Out of range value for column 'pid' at row 3", "patient_data.pid"),
        (1265, "Data truncated for column 'DOB' at row 1", "patient_data.DOB"),
        (
            1366,
            f"Incorrect string value: '{NAME}' for column `openemr`.`patient_data`.`lname` at row 1",
            "patient_data.lname",
        ),
        (1366, f"Incorrect string value: '{NAME}' for column 'lname' at row 1", "patient_data.lname"),
        (1366, f"Incorrect integer value: '{NAME}' for column 'pid' at row 1", "patient_data.pid"),
        (1366, f"Incorrect string value: '{NAME} for column x' for column 'lname' at row 12", "patient_data.lname"),
        (
            1292,
            f"Incorrect datetime value: '{NAME}' for column `openemr`.`patient_data`.`date` at row 1",
            "patient_data.date",
        ),
        (1292, f"Incorrect date value: '{NAME}' for column 'DOB' at row 1", "patient_data.DOB"),
        (1292, f"Truncated incorrect DOUBLE value: '{NAME}'", "patient_data"),
        (1292, f"Truncated incorrect DOUBLE value: 'column {NAME}'", "patient_data"),
        (1292, f"Truncated incorrect DOUBLE value: 'for column '{NAME}'", "patient_data"),
        (1292, f"Truncated incorrect DOUBLE value: 'for key '{NAME}'", "patient_data"),
        (1048, "Column 'lname' cannot be null", "patient_data.lname"),
        (1364, "Field 'usage_category_title' doesn't have a default value", "patient_data.usage_category_title"),
        (1300, f"Invalid utf8mb4 character string: '{NAME}'", "patient_data"),
        (1411, f"Incorrect datetime value: '{NAME}' for function str_to_date", "patient_data"),
        (3819, "Check constraint 'chk_sex' is violated.", "patient_data"),
        (4025, "CONSTRAINT `patient_data.sex` failed for `openemr`.`patient_data`", "patient_data"),
        (1452, f"Cannot add or update a child row: a foreign key constraint fails (`{NAME}`)", "patient_data"),
        (1153, "Got a packet bigger than 'max_allowed_packet' bytes", "patient_data"),
    ],
)
def test_a_refused_row_names_table_and_column_and_no_value(number: int, text: str, where: str) -> None:
    """Whatever the server quotes."""
    error = error_of(number, text)

    assert isinstance(error, RefusedError)
    assert ErrorClass.REFUSED is error.failure.error_class
    assert error.failure.message.startswith(f"{where}: ")
    assert error.failure.message.endswith(f"(database error {number})")
    assert NAME not in error.failure.message


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (f"Duplicate entry '{NAME}' for key 'pubpid'", "patient_data.pubpid"),
        (f"Duplicate entry '{NAME}-for key 'x'' for key 'pubpid'", "patient_data.pubpid"),
        (f"Duplicate entry '{NAME}' for key 'patient_data.pubpid'", "patient_data.pubpid"),
    ],
    ids=["MariaDB", "a value with quotes", "MySQL"],
)
def test_a_value_that_a_clerk_has_taken_is_a_conflict(text: str, where: str) -> None:
    """Both servers name the key, MySQL with its table."""
    error = error_of(1062, text)

    assert isinstance(error, RefusedError)
    assert (ErrorClass.CONFLICT, f"{where}: is taken (database error 1062)") == (
        error.failure.error_class,
        error.failure.message,
    )


@pytest.mark.parametrize(
    ("text", "statement"),
    [
        (r"Duplicate entry '\x01\x02' for key 'PRIMARY'", LEDGER),
        (r"Duplicate entry '\x01\x02' for key 'applied_event.PRIMARY'", LEDGER),
        ("Duplicate entry '17' for key 'pid'", PATIENT),
        ("Duplicate entry '17' for key 'patient_data.pid'", PATIENT),
        ("Duplicate entry '17' for key 'PRIMARY'", "INSERT INTO prescriptions (`id`) VALUES (%s)"),
        ("Duplicate entry '17' for key 'prescriptions.PRIMARY'", "INSERT INTO prescriptions (`id`) VALUES (%s)"),
    ],
)
def test_a_key_that_another_writer_took_at_the_same_moment_is_a_race(text: str, statement: str) -> None:
    """Ledger rows, and the numbers that OpenEMR's own code gives out."""
    assert isinstance(error_of(1062, text, statement), RaceError)


@pytest.mark.parametrize(
    ("text", "statement", "where"),
    [
        (r"Duplicate entry '\x01\x02' for key 'uuid'", PATIENT, "patient_data.uuid"),
        (r"Duplicate entry '\x01\x02' for key 'patient_data.uuid'", PATIENT, "patient_data.uuid"),
        (r"Duplicate entry '\x01' for key 'PRIMARY'", "INSERT INTO uuid_registry (`uuid`) ", "uuid_registry.PRIMARY"),
    ],
)
def test_a_uuid_that_is_there_is_a_race_and_a_conflict_if_met_again(text: str, statement: str, where: str) -> None:
    """It is made from the entity's id, so another member inserts the same one at the same moment."""
    error = error_of(1062, text, statement)

    assert isinstance(error, RaceError)
    assert Failed(ErrorClass.CONFLICT, f"{where}: is taken (database error 1062)") == error.failure


@pytest.mark.parametrize(
    "number",
    [
        0,
        1021,
        1040,
        1047,
        1053,
        1114,
        1158,
        1180,
        1203,
        1226,
        1290,
        1317,
        1792,
        1836,
        1927,
        1969,
        2003,
        2006,
        2013,
        3024,
    ],
)
def test_an_outage_decides_nothing_about_an_event(number: int) -> None:
    """And tells no value either."""
    error = error_of(number, f"something about '{NAME}'")

    assert isinstance(error, TransientError)
    assert NAME not in str(error)


def test_a_row_that_somebody_holds_is_told_from_the_gate_that_maintenance_closes() -> None:
    """An event may be set aside for the first, and for the second it waits."""
    gate = "SELECT ~0 + (maintenance_since IS NOT NULL) INTO @x FROM emr_sync.site_state WHERE name = 'openemr'"

    assert type(error_of(1205, "Lock wait timeout exceeded; try restarting transaction")) is LockedError
    assert type(error_of(1205, "Lock wait timeout exceeded; try restarting transaction", gate)) is TransientError


@pytest.mark.parametrize("number", [1020, 1213, 1412])
def test_a_lock_lost_to_another_writer_is_tried_again(number: int) -> None:
    """By the same rule as a key taken at the same moment."""
    error = error_of(number, f"something about '{NAME}'")

    assert isinstance(error, RaceError)
    assert NAME not in str(error)


@pytest.mark.parametrize("number", [1044, 1045, 1049, 1142, 1143, 1698, 1064, 9_999])
def test_anything_else_needs_a_person(number: int) -> None:
    """A number that nobody thought of too."""
    error = error_of(number, f"something about '{NAME}'")

    assert isinstance(error, MisconfiguredError)
    assert NAME not in str(error)


def test_a_column_that_is_gone_makes_the_drafts_outdated() -> None:
    """OpenEMR was upgraded under a running writer."""
    error = error_of(1054, f"Unknown column '{NAME}' in 'field list'")

    assert isinstance(error, OutdatedError)
    assert NAME not in str(error)


def test_a_table_that_is_gone_makes_the_drafts_outdated() -> None:
    """An upgrade replaces it, and the gate pauses when it is looked at again."""
    error = error_of(1146, f"Table '{NAME}' doesn't exist", "UPDATE patient_data SET fname = 'x'")

    assert isinstance(error, OutdatedError)
    assert NAME not in str(error)


@pytest.mark.parametrize("number", [1054, 1146])
def test_what_the_ledger_lacks_needs_a_person(number: int) -> None:
    """A migration was forgotten: waiting would not bring it."""
    error = error_of(number, "Unknown column 'x' in 'field list'", "SELECT x FROM emr_sync.entity_map")

    assert isinstance(error, MisconfiguredError)


def test_a_lost_connection_is_transient_whatever_its_number() -> None:
    """SQLAlchemy knows that the connection is gone."""
    with pytest.raises(TransientError), translated("emr_sync"):
        raise sa.exc.DBAPIError(
            PATIENT, (NAME,), pymysql.err.OperationalError(9_999, NAME), connection_invalidated=True
        )


def test_the_drivers_error_is_cut_off() -> None:
    """It holds statement and parameters, and a traceback would print them."""
    error = error_of(1406, "Data too long for column 'lname' at row 1")

    assert error.__cause__ is None
    assert error.__suppress_context__


def test_errors_of_ours_pass_unchanged() -> None:
    """Only the database's are translated."""
    with pytest.raises(KeyError), translated("emr_sync"):
        raise KeyError("x")
