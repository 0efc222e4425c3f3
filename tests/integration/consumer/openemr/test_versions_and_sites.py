"""The same writer on sites that are not as a new one is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from consumer.outcome import Applied, ErrorClass, Failed
from consumer.ports import MisconfiguredError
from tests import clinic
from tests.integration.consumer.openemr.conftest import VERSIONS
from tests.integration.consumer.openemr.lives import live_through
from tests.integration.consumer.openemr.sites import Site, event, installed_site, medication, open_target


@pytest.fixture(scope="module")
def old_site(openemr_admin_url: str) -> Iterator[Site]:
    """Give a site whose older tables hold other characters and another order of letters than its newer ones."""
    with installed_site(
        openemr_admin_url,
        VERSIONS[0],
        "ALTER TABLE patient_data CONVERT TO CHARACTER SET utf8mb3 COLLATE utf8mb3_general_ci",
        "ALTER TABLE procedure_order_code CONVERT TO CHARACTER SET utf8mb3 COLLATE utf8mb3_general_ci",
        "ALTER TABLE procedure_type CONVERT TO CHARACTER SET utf8mb3 COLLATE utf8mb3_unicode_ci",
        "ALTER TABLE forms CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci",
        "ALTER TABLE prescriptions CONVERT TO CHARACTER SET latin1",
        "UPDATE version SET v_major = 0, v_minor = 0, v_patch = 0",
    ) as site:
        yield site


def test_a_site_of_mixed_collations_takes_every_kind_through_its_life(old_site: Site) -> None:
    """Text is never compared between a table and a list of values."""
    live_through(old_site)


def test_a_character_that_an_old_table_cannot_hold_is_refused_by_field(old_site: Site) -> None:
    """By INSERT and by UPDATE; others of the batch are done."""
    good, bad = clinic.patient(given_name="김"), clinic.patient(given_name="𠮷")
    refused = Failed(
        ErrorClass.REFUSED,
        "given_name: has a character that OpenEMR's patient_data.fname cannot hold (character set utf8mb3)",
    )
    assert old_site.apply(event("create", bad), event("create", good)) == [refused, Applied()]
    assert old_site.rows("SELECT 1 FROM patient_data WHERE pubpid = %s", bad["patient_id"]) == []

    worse = {**good, "given_name": "👩🏽"}
    other = clinic.patient()
    assert old_site.apply(event("update", worse), event("create", other)) == [refused, Applied()]
    assert old_site.of(good)["fname"] == "김"


def test_a_drug_that_an_old_table_cannot_hold_is_refused_by_field(old_site: Site) -> None:
    """Latin 1 has no Hangul."""
    patient = clinic.patient()
    old_site.put(patient)

    error_class, message = old_site.refusal(medication(patient["patient_id"], drug="아스피린"))

    assert error_class == "refused"
    assert message == "drug: has a character that OpenEMR's prescriptions.drug cannot hold (character set latin1)"


def test_a_site_without_version_is_known_by_its_columns(old_site: Site) -> None:
    """Loaded without the installer its version is 0.0.0."""
    patient = clinic.patient()
    old_site.put(patient, target="fhir")

    _, message = old_site.refusal(clinic.order(patient["patient_id"]), target="fhir")

    assert message == "target_system fhir: OpenEMR of unknown version has no ServiceRequest (7.0.4 has)"


@pytest.mark.parametrize(
    ("statement", "undone", "message"),
    [
        pytest.param(
            "UPDATE globals SET gl_value = '0' WHERE gl_name = 'full_new_patient_form'",
            "UPDATE globals SET gl_value = '1' WHERE gl_name = 'full_new_patient_form'",
            "OpenEMR's global full_new_patient_form is 0: its old static form replaces patients by pid and could"
            " overwrite ours; set it to 1 (Administration, Config, Features) and start again",
            id="the old patient form",
        ),
        pytest.param(
            "UPDATE users SET username = 'other' WHERE username = 'emrsync'",
            "UPDATE users SET username = 'emrsync' WHERE username = 'other'",
            "OpenEMR has no user emrsync: create it (no login needed), or set EMRSYNC_OPENEMR_USERNAME",
            id="no user of its own",
        ),
        pytest.param(
            "UPDATE globals SET gl_value = 'Mars/Olympus' WHERE gl_name = 'gbl_time_zone'",
            "UPDATE globals SET gl_value = 'America/New_York' WHERE gl_name = 'gbl_time_zone'",
            "the site's time zone 'Mars/Olympus' is unknown: set EMRSYNC_OPENEMR_TIME_ZONE to an IANA name",
            id="an unknown time zone",
        ),
        pytest.param(
            "UPDATE globals SET gl_value = '' WHERE gl_name = 'gbl_time_zone'",
            "UPDATE globals SET gl_value = 'America/New_York' WHERE gl_name = 'gbl_time_zone'",
            "OpenEMR's global gbl_time_zone is empty: set it (Administration, Config, Locale), or"
            " EMRSYNC_OPENEMR_TIME_ZONE to the site's IANA name",
            id="no time zone",
        ),
    ],
)
def test_a_site_that_is_set_up_wrongly_is_refused_at_start(
    site: Site, statement: str, undone: str, message: str
) -> None:
    """With what a person has to do."""
    site.change(statement)
    try:
        with pytest.raises(MisconfiguredError) as refused:
            open_target(site.writer_url, site.ledger)
    finally:
        site.change(undone)

    assert str(refused.value) == message


def test_a_database_that_is_no_openemr_is_refused_at_start(site: Site, openemr_admin_url: str) -> None:
    """The ledger's schema, by mistake."""
    url = openemr_admin_url.replace("/openemr?", f"/{site.ledger}?")

    with pytest.raises(MisconfiguredError, match="this is no OpenEMR database: it has no table patient_data"):
        open_target(url, site.ledger)


def test_another_user_and_time_zone_may_be_named(site: Site) -> None:
    """Where the site has no user emrsync, or no zone of its own."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    target = open_target(site.writer_url, site.ledger, username="clinician", time_zone="Asia/Seoul")
    try:
        dataclasses.replace(site, target=target).put(patient, visit)
    finally:
        target.close()

    assert site.of(patient)["created_by"] == 3
    assert str(site.of(visit)["date"]) == "2025-03-01 09:30:00"
    users = site.rows("SELECT user FROM forms WHERE pid = %s", site.of(patient)["pid"])
    assert users == [{"user": "clinician"}]


def test_what_a_person_adds_to_the_site_is_seen_without_a_restart(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event names it, and the site is read again; a schema that changed needs a restart."""
    monkeypatch.setattr("consumer.openemr.target.SITE_MIN_AGE_S", 0.0)
    patient = clinic.patient()
    site.put(patient)
    columns, drafting = site.target.site.columns, site.target.drafting()
    site.change("INSERT INTO list_options (list_id, option_id, title) VALUES ('marital', 'partner', 'Partner')")
    try:
        site.put({**patient, "marital_status": "partner"}, operation="update")
    finally:
        site.change("DELETE FROM list_options WHERE list_id = 'marital' AND option_id = 'partner'")

    assert site.of(patient)["status"] == "partner"
    assert site.target.site.columns is columns
    # What was drafted ahead by the site as it was is drafted anew.
    assert site.target.drafting() is not drafting
