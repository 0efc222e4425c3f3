"""The same writer on every version and patch level of OpenEMR, every character set and every sql_mode."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import pytest

from consumer.openemr import gate
from consumer.openemr.installation import versions
from consumer.openemr.shape import read_shape
from consumer.outcome import Applied, ErrorClass, Failed
from consumer.ports import MisconfiguredError, PausedError
from tests import clinic
from tests.dialects import of_one_dialect
from tests.integration.consumer.openemr.lives import live_through
from tests.integration.consumer.openemr.sites import Site, event, installed_site, medication, open_target
from tests.scratch import connected

VERSION_LIMIT_S: Final = 20.0
"""For one version, schema and writer's account included; about 1 s on a quiet machine."""

PATCH_LEVELS: Final = {
    "7.0.0.1": ("7.0.0", ("ALTER TABLE prescriptions MODIFY route INT NULL",)),
    "7.0.2.0": (
        "7.0.2",
        (
            "ALTER TABLE form_encounter DROP last_update, DROP ordering_provider_id",
            "ALTER TABLE patient_data DROP last_updated",
        ),
    ),
    "7.0.2.1": ("7.0.2", ("ALTER TABLE patient_data DROP last_updated",)),
    "8.1.0, lists upgraded unevenly": (
        "8.1.0",
        ("UPDATE list_options SET option_id = 'declne_to_specfy' WHERE (list_id, seq) = ('ethnicity', 10)",),
    ),
}
"""By patch level: the version whose facts we have, and what was different before its last patch."""

OPENEMRS_SQL_MODE: Final = ""
STRICT: Final = "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_AUTO_CREATE_USER,NO_ENGINE_SUBSTITUTION"


@pytest.fixture(params=[OPENEMRS_SQL_MODE, STRICT], ids=["lax", "strict"])
def server_sql_mode(request: pytest.FixtureRequest, openemr_admin_url: str) -> Iterator[None]:
    """Let the server give new sessions a sql_mode, and its own one again afterwards."""
    with connected(openemr_admin_url) as connection:
        before = connection.exec_driver_sql("SELECT @@GLOBAL.sql_mode").scalar_one()
        connection.exec_driver_sql("SET GLOBAL sql_mode = %s", (request.param,))
        try:
            yield
        finally:
            connection.exec_driver_sql("SET GLOBAL sql_mode = %s", (before,))


@pytest.mark.parametrize("version", versions())
def test_every_version_takes_every_kind_through_its_life(openemr_admin_url: str, version: str) -> None:
    """All fields given: what a version has no column for is named, and the rest is written."""
    started = time.monotonic()
    with installed_site(openemr_admin_url, version) as site:
        live_through(site)

    assert time.monotonic() - started < VERSION_LIMIT_S


@pytest.mark.parametrize("level", PATCH_LEVELS)
def test_every_patch_level_takes_every_kind_through_its_life(openemr_admin_url: str, level: str) -> None:
    """Tables change between patches of one version, and the version row does not tell."""
    version, statements = PATCH_LEVELS[level]
    with installed_site(openemr_admin_url, version, *statements) as site:
        live_through(site)


@pytest.mark.parametrize("version", ["6.0.0", "8.2.0-dev"])
def test_the_servers_own_sql_mode_makes_no_difference(
    server_sql_mode: None, openemr_admin_url: str, version: str
) -> None:
    """OpenEMR's advice is an empty one, distributions set a strict one; neither cuts or zeroes what we write."""
    with installed_site(openemr_admin_url, version) as site:
        live_through(site)
        assert site.refusal(clinic.patient(given_name="x" * 256))[0] == "too_long"
        assert site.refusal(clinic.patient(birth_date="0000-01-01"))[0] == "invalid_payload"


@pytest.mark.parametrize("version", ["6.0.0", "7.0.3", "8.2.0-dev"])
def test_a_database_of_three_bytes_refuses_what_it_cannot_hold_by_field(openemr_admin_url: str, version: str) -> None:
    """And holds all the rest; nothing is cut at the character, as a lax session would."""
    with installed_site(openemr_admin_url, version, charset="utf8mb3") as site:
        live_through(site)
        patient = clinic.patient(family_name="김")
        site.put(patient)
        visit = clinic.encounter(patient["patient_id"], reason="😷")
        order = clinic.order(patient["patient_id"], instructions="𠮷")
        drug = medication(patient["patient_id"], drug="💊")
        refused = [
            Failed(
                ErrorClass.REFUSED,
                f"{name}: has a character that OpenEMR's {column} cannot hold (character set utf8mb3)",
            )
            for name, column in (
                ("family_name", "patient_data.lname"),
                ("reason", "form_encounter.reason"),
                ("instructions", "procedure_order.patient_instructions"),
                ("drug", "prescriptions.drug"),
            )
        ]

        new = clinic.patient(family_name="𠮷")
        assert site.apply(*(event("create", one) for one in (new, visit, order, drug))) == refused
        assert site.rows("SELECT 1 FROM form_encounter WHERE pid = %s", site.of(patient)["pid"]) == []
        assert site.of(patient)["lname"] == "김"


def test_a_four_byte_character_is_held_where_tables_are_utf8mb4(openemr_admin_url: str) -> None:
    """As OpenEMR makes its databases itself."""
    with installed_site(openemr_admin_url, "6.0.0") as site:
        patient = clinic.patient(family_name="𠮷")
        site.put(patient)

        assert site.of(patient)["lname"] == "𠮷"


def accept(site: Site) -> None:
    """Accept the tables as they are now."""
    with connected(site.writer_url) as connection:
        gate.accept(connection, site.ledger, read_shape(connection), "test")
        connection.commit()


def test_columns_are_read_again_when_an_upgrade_takes_one_away(openemr_admin_url: str) -> None:
    """Once that is accepted the writer goes on with what is left, and says what it left out."""
    with installed_site(openemr_admin_url, "8.2.0-dev") as site:
        patient = clinic.patient(preferred_name="Addie")
        site.put(patient)
        site.change("ALTER TABLE patient_data DROP preferred_name")
        with pytest.raises(PausedError, match=r"changed \(patient_data\.preferred_name\)"):
            site.put({**patient, "given_name": "Grace"}, operation="update")
        accept(site)

        left_out = Applied("preferred_name: this version of OpenEMR has no column for it")
        changed, other = {**patient, "given_name": "Grace"}, clinic.patient()
        assert site.apply(event("update", changed), event("create", other)) == [left_out, Applied()]
        assert site.of(patient)["fname"] == "Grace"


def test_columns_are_read_again_when_an_upgrade_renames_one_that_has_another_name(openemr_admin_url: str) -> None:
    """Instructions go into the older column where the newer is not there."""
    with installed_site(openemr_admin_url, "8.2.0-dev") as site:
        patient = clinic.patient()
        drug = medication(patient["patient_id"], instructions="daily")
        site.put(patient)
        site.change("ALTER TABLE prescriptions DROP drug_dosage_instructions")
        accept(site)

        site.put(drug)
        assert site.of(drug)["note"] == "daily"


def test_a_table_that_an_upgrade_replaces_pauses_a_running_writer_and_a_starting_one(openemr_admin_url: str) -> None:
    """It was OpenEMR when its tables were accepted, and nothing is charged or ends for the time without one."""
    with installed_site(openemr_admin_url, "8.2.0-dev") as site:
        patient = clinic.patient()
        site.put(patient)
        site.change("RENAME TABLE form_encounter TO form_encounter_before")

        with pytest.raises(PausedError, match="has no table form_encounter at this moment"):
            site.put(clinic.encounter(patient["patient_id"]))
        with pytest.raises(PausedError, match="has no table form_encounter at this moment"):
            open_target(site.writer_url, site.ledger)

        site.change("RENAME TABLE form_encounter_before TO form_encounter")
        site.put(clinic.encounter(patient["patient_id"]))


def test_a_site_without_a_column_that_every_version_has_is_refused_at_start(openemr_admin_url: str) -> None:
    """A consumer that waited for it would wait for ever."""
    with installed_site(openemr_admin_url, "8.2.0-dev") as site:
        site.change("ALTER TABLE users DROP npi")

        with pytest.raises(MisconfiguredError, match="a column is not there"):
            open_target(site.writer_url, site.ledger)


@pytest.mark.parametrize("version", ["6.0.0", "8.2.0-dev"])
def test_what_is_sent_is_understood_by_mariadb_and_mysql(openemr_admin_url: str, version: str) -> None:
    """As recorded, with what is put together at run time."""
    with installed_site(openemr_admin_url, version) as site, site.statements() as sent:
        live_through(site)

    assert len(sent) > 20
    assert [] == [found for statement in sent for found in of_one_dialect(statement)]


def test_sites_are_told_apart_by_columns_and_not_by_the_version_row(site: Site) -> None:
    """The row may be all zeroes; widths and columns are the database's own."""
    columns = site.target.site.columns

    assert ("order_intent" in columns["procedure_order"]) is not site.old
