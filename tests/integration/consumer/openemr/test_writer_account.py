"""The writer's account has the tables and verbs it needs, and no more; all tests here run with it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from consumer.openemr import account, ledger_schema
from consumer.openemr.account import written_tables
from tests.integration.consumer.openemr.sites import Site
from tests.scratch import connected

ACCESS_DENIED, NO_SUCH_RIGHT, NO_RIGHT_ON_TABLE, NO_RIGHT_ON_COLUMN = 1044, 1227, 1142, 1143


@pytest.fixture
def writer(site: Site) -> Iterator[sa.Connection]:
    """Connect as the writer."""
    with connected(site.writer_url, site.database) as connection:
        yield connection


def refused(connection: sa.Connection, statement: str) -> int:
    """Give the number of the error that a statement ends with."""
    with pytest.raises(sa.exc.DBAPIError) as error:
        connection.exec_driver_sql(statement)
    assert error.value.orig is not None
    return int(error.value.orig.args[0])


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM patient_data",
        "DELETE FROM procedure_order",
        "DELETE FROM procedure_order_code",
        "DELETE FROM prescriptions",
        "DELETE FROM procedure_type",
        "DELETE FROM uuid_registry",
        "UPDATE uuid_registry SET table_name = 'x'",
        "INSERT INTO sequences (id) VALUES (1)",
        "DELETE FROM sequences",
        "REPLACE INTO patient_data (pid) VALUES (1)",
        "INSERT INTO uuid_mapping (uuid) VALUES ('')",
        "INSERT INTO users (username) VALUES ('x')",
        "UPDATE users SET active = 0",
        "UPDATE globals SET gl_value = '1'",
        "UPDATE list_options SET title = 'x'",
        "UPDATE facility SET name = 'x'",
        "UPDATE version SET v_major = 9",
        "UPDATE billing SET activity = 0",
        "DELETE FROM issue_encounter",
        "SELECT 1 FROM lists",
        "SELECT 1 FROM log",
        "SELECT 1 FROM form_vitals",
        "SELECT 1 FROM insurance_data",
        "DROP TABLE patient_data",
        "ALTER TABLE patient_data ADD x INT",
        "CREATE TABLE x (x INT)",
        "CREATE TABLE {ledger}.x (x INT)",
        "DROP TABLE {ledger}.entity_map",
        "ALTER TABLE {ledger}.entity_map ADD x INT",
        "DELETE FROM {ledger}.entity_map",
        "DELETE FROM {ledger}.applied_event",
        "UPDATE {ledger}.applied_event SET outcome = 'x'",
        "DELETE FROM {ledger}.stream_position",
        "INSERT INTO {ledger}.id_block VALUES ('x', 0, 0)",
        "UPDATE {ledger}.alembic_version SET version_num = 'x'",
        "SELECT 1 FROM mysql.user",
    ],
)
def test_the_writer_may_not(site: Site, writer: sa.Connection, statement: str) -> None:
    """The server refuses it for want of a right on the table."""
    assert refused(writer, statement.format(ledger=site.ledger)) == NO_RIGHT_ON_TABLE


@pytest.mark.parametrize(
    "statement",
    ["CREATE DATABASE test_of_writer", "DROP DATABASE {ledger}", "CREATE USER x", "SET GLOBAL sql_mode = ''"],
)
def test_the_writer_may_not_change_the_server(site: Site, writer: sa.Connection, statement: str) -> None:
    """It has no right beyond tables."""
    assert refused(writer, statement.format(ledger=site.ledger)) in {ACCESS_DENIED, NO_SUCH_RIGHT}


def test_the_writer_has_no_right_in_a_schema_whose_name_differs_by_the_underscore(
    site: Site, writer: sa.Connection
) -> None:
    """In a grant on a whole schema, _ would stand for any character."""
    twin = site.ledger.replace("_", "x")
    site.change(f"CREATE DATABASE {twin}")
    try:
        site.change(f"CREATE TABLE {twin}.entity_map (x INT)")
        assert refused(writer, f"SELECT 1 FROM {twin}.entity_map") == NO_RIGHT_ON_TABLE
    finally:
        site.change(f"DROP DATABASE {twin}")


def test_no_table_but_the_written_ones_may_be_changed(site: Site, writer: sa.Connection) -> None:
    """By what the server itself says of the grants."""
    grants = [str(row[0]) for row in writer.exec_driver_sql("SHOW GRANTS")]
    changing = {
        grant.partition(" ON ")[2].partition(" TO ")[0].replace("`", "").partition(".")[2]
        for grant in grants
        if any(verb in grant.partition(" ON ")[0] for verb in ("INSERT", "UPDATE", "DELETE")) and site.database in grant
    }

    assert changing == written_tables()
    assert [grant for grant in grants if " ON *.*" in grant and "GRANT USAGE" not in grant] == []
    assert [grant for grant in grants if "GRANT OPTION" in grant or "ALL PRIVILEGES" in grant] == []


def test_applying_the_account_again_resets_its_password_and_keeps_its_rights(
    site: Site, openemr_admin_url: str
) -> None:
    """As a second provisioning does, and an upgrade of the ledger."""
    user = f"w_{uuid.uuid4().hex[:16]}"
    url = sa.make_url(site.writer_url).set(username=user)
    try:
        for password in ("first", "second's %"):
            account.apply(
                openemr_admin_url, user=user, password=password, database=site.database, ledger_schema=site.ledger
            )
            ledger_schema.upgrade(openemr_admin_url, schema=site.ledger)
            at_password = url.set(password=password).render_as_string(hide_password=False)
            with connected(at_password, site.database) as connection:
                assert connection.exec_driver_sql("SELECT COUNT(*) FROM version").scalar_one() == 1
        first = url.set(password="first").render_as_string(hide_password=False)
        with pytest.raises(sa.exc.OperationalError, match="1045"), connected(first, site.database):
            pass
    finally:
        site.change(f"DROP USER IF EXISTS {user}")
