"""The writer's account has the tables and verbs it needs, and no more; all tests here run with it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from consumer.apply import apply_events
from consumer.openemr import account, gate, ledger_schema
from consumer.openemr.account import written_tables
from consumer.ports import StreamPosition
from consumer.settle import settle_events
from operations import dead_letter_actions
from operations.config import OperationsSettings
from operations.recovery_ledger import RecoveryLedger
from operations.resync_ledger import ResyncLedger, ResyncRun, Way
from operations.resync_selection import ResyncSelection
from operations.where import _APPLIED, _MAPPED, _TRAIL, _WAITING
from tests import clinic
from tests.fakes import FakeMarker, FakeSource
from tests.integration.consumer.openemr.lives import live_through
from tests.integration.consumer.openemr.sites import Site, event, installed_site
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
        "INSERT INTO {ledger}.site_state (name) VALUES ('x')",
        "DELETE FROM {ledger}.site_state",
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


def test_each_right_is_used_and_no_other_is_needed(openemr_admin_url: str) -> None:
    """By the statements that the writer and the commands that use its account send in all they do."""
    with installed_site(openemr_admin_url, "8.2.0-dev") as site:
        patient = clinic.patient()
        visit = clinic.encounter(patient["patient_id"])
        with site.reopened() as one, one.statements() as sent:
            one.target._read_tables()
            one.apply(event("create", visit))
            live_through(one)
            one.target.overdue(dt.datetime.now(dt.UTC), 1)
            one.target.reported_overdue([uuid.uuid4()])
            created = event("create", patient, target="fhir")
            settle_events(one.target, FakeMarker(FakeSource()), [created], (), clock=_now)
            one.delete(visit)
            positions = (StreamPosition("emrsync.patient", 0, 1),)
            apply_events(one.target, [created], positions, clock=_now)
        sent += recovery_statements(site)
        granted = {
            table.replace(f"{site.database}.", "").replace(f"{site.ledger}.", "ledger."): verbs
            for grant in site.rows(f"SHOW GRANTS FOR {sa.make_url(site.writer_url).username}")
            for table, verbs in [_right(next(iter(grant.values())))]
            if table != "*.*"
        }
    used: dict[str, set[str]] = {}
    reading = (_MAPPED, _APPLIED, _WAITING, _TRAIL, dead_letter_actions._READ, dead_letter_actions._INSERT)
    gates = (gate._READ, gate._ACCEPT, gate._BEGIN, gate._END, gate._PROLONG)
    read = [one.format(schema="ledger", ledger="ledger") for one in (*reading, *gates)]
    for statement in (*sent, *(" ".join(one.split()) for one in read)):
        for table, verbs in verbs_of(statement.replace(f"{site.ledger}.", "ledger.")).items():
            used.setdefault(table, set()).update(verbs)
    used.pop("information_schema.columns")

    assert used == granted


def recovery_statements(site: Site) -> list[str]:
    """Let recovery commands write and read their rows with the writer's account, and give what they send."""
    variables = {"EMRSYNC_OPENEMR_URL": site.writer_url, "EMRSYNC_LEDGER_SCHEMA": site.ledger}
    settings = OperationsSettings.of(variables)
    ledger, runs = RecoveryLedger(settings), ResyncLedger(settings)
    sent: list[str] = []

    def record(_c: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        sent.append(" ".join(statement.split()))

    for engine in (ledger._engine, runs._engine):
        sa.event.listen(engine, "before_cursor_execute", record)
    ledger.note("replay", "plan", "begun")
    ledger.save("plan", digest="x", state="running", events=1, done=0, positions={}, counts={})
    assert ledger.run("plan") is not None
    assert len(ledger.actions("replay", "plan", 10)) == 1
    run = ResyncRun(str(uuid.uuid4()), Way.OUTBOX, ResyncSelection(), "running", 1, 0, {"after_seq": 7}, _now())
    runs.save(run)
    assert (begun := runs.open_run()) is not None
    assert run == dataclasses.replace(begun, updated_at=run.updated_at)
    runs.save(dataclasses.replace(run, state="finished"))
    assert runs.open_run() is None
    ledger._engine.dispose()
    runs._engine.dispose()
    return sent


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _right(grant: str) -> tuple[str, set[str]]:
    verbs, _, rest = grant.removeprefix("GRANT ").partition(" ON ")
    return rest.partition(" TO ")[0].replace("`", ""), set(verbs.split(", "))


def verbs_of(statement: str) -> dict[str, set[str]]:
    """Give the verbs that a statement needs, by table; what a table alias stands for is found by its FROM or JOIN."""
    found: dict[str, set[str]] = {}
    text = re.sub(r"'(?:[^'\\\\]|\\\\.)*'", "''", statement)
    for pattern, verb in (
        (r"^INSERT INTO ([\w.`]+)", "INSERT"),
        (r"^UPDATE ([\w.`]+)", "UPDATE"),
        (r"^DELETE FROM ([\w.`]+)", "DELETE"),
        (r"^INSERT INTO ([\w.`]+) .* ON DUPLICATE KEY UPDATE ", "UPDATE"),
        (r"^INSERT INTO ([\w.`]+) .* ON DUPLICATE KEY UPDATE ", "SELECT"),  # MariaDB reads the columns it sets
        (r"\b(?<!DELETE )(?:FROM|JOIN) ([a-z_.`][\w.`]*)", "SELECT"),
        (r"^(?:UPDATE|DELETE FROM) ([\w.`]+) .*\b(?:WHERE|JOIN|GREATEST\(id)", "SELECT"),
    ):
        for table in re.findall(pattern, text):
            found.setdefault(table.replace("`", ""), set()).add(verb)
    return found


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
