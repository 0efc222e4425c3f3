"""Rule 13: codes and texts become options of the site's own lists, or the event fails, or the fallback is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from consumer.openemr.codes import TABLES
from consumer.outcome import Applied
from consumer.ports import MisconfiguredError
from tests import clinic
from tests.integration.consumer.openemr.sites import Fields, Site, event, installed_site, medication, open_target


@contextmanager
def choosing(site: Site, **chosen: Any) -> Iterator[Site]:
    """Give the site to a writer whose operator has chosen something."""
    target = open_target(site.writer_url, site.ledger, **chosen)
    try:
        yield dataclasses.replace(site, target=target)
    finally:
        target.close()


@pytest.mark.parametrize(
    ("fields", "column", "option"),
    [
        ({"marital_status": "Married"}, "status", "married"),
        ({"marital_status": "M"}, "status", "married"),
        ({"marital_status": "Never Married"}, "status", "single"),
        ({"marital_status": "DOMESTIC PARTNER"}, "status", "domestic partner"),
        ({"language": "en-US"}, "language", "English"),
        ({"language": "spanish"}, "language", "Spanish"),
        ({"language": "ko"}, "language", "korean"),
        ({"race": "2106-3"}, "race", "white"),
        ({"race": "Black or African American"}, "race", "black_or_afri_amer"),
        ({"race": "asian"}, "race", "Asian"),
        ({"ethnicity": "2135-2"}, "ethnicity", "hisp_or_latin"),
        ({"ethnicity": "Not Hispanic or Latino"}, "ethnicity", "not_hisp_or_latin"),
    ],
)
def test_a_patients_codes_and_texts_become_options(site: Site, fields: Fields, column: str, option: str) -> None:
    """By id, by title in any case, by a code of a public system."""
    patient = clinic.patient(**fields)
    site.put(patient)

    assert site.of(patient)[column] == option


@pytest.mark.parametrize(
    ("class_code", "option"), [("amb", "AMB"), ("ambulatory", "AMB"), ("Inpatient", "IMP"), ("emergency dept", "EMER")]
)
def test_an_encounters_class_becomes_an_option(site: Site, class_code: str, option: str) -> None:
    """The visit history shows nothing for what is none."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"], class_code=class_code)
    site.put(patient, visit)

    assert site.of(visit)["class_code"] == option


@pytest.mark.parametrize(
    ("fields", "written"),
    [
        ({"route": "PO"}, {"route": "bymouth"}),
        ({"route": "3"}, {"route": "3"}),
        ({"route": "IM"}, {"route": "10"}),
        ({"form": "Tablet"}, {"form": 2}),
        ({"form": "tab"}, {"form": 2}),
        ({"form": 3}, {"form": 3}),
        ({"unit": "MG"}, {"unit": 1}),
        ({"unit": "ml"}, {"unit": 9}),
    ],
)
def test_a_prescriptions_words_become_options(site: Site, fields: Fields, written: Mapping[str, Any]) -> None:
    """Route is a text, form and unit are numbers."""
    patient = clinic.patient()
    drug = medication(patient["patient_id"], **fields)
    site.put(patient, drug)

    row = site.of(drug)
    assert {name: row[name] for name in written} == dict(written)


def test_a_route_goes_into_a_column_of_numbers_by_a_numbered_option(openemr_admin_url: str) -> None:
    """Before 7.0.0.2; an option that is no number cannot be written there."""
    with installed_site(openemr_admin_url, "6.1.0") as site:
        patient = clinic.patient()
        drug, other = medication(patient["patient_id"], route="by mouth"), medication(patient["patient_id"], route="IV")
        site.put(patient, drug, other)

        assert (site.of(drug)["route"], site.of(other)["route"]) == (1, 11)


def test_an_option_that_a_site_has_renamed_is_found_by_its_title(site: Site) -> None:
    """Ids of forms are numbers, and a site may give them other meanings."""
    patient = clinic.patient()
    drug = medication(patient["patient_id"], form="tablet")
    site.change("UPDATE list_options SET option_id = '77' WHERE list_id = 'drug_form' AND title = 'tablet'")
    try:
        with site.reopened() as one:
            one.put(patient, drug)
    finally:
        site.change("UPDATE list_options SET option_id = '2' WHERE list_id = 'drug_form' AND title = 'tablet'")

    assert site.of(drug)["form"] == 77


def test_an_inactive_option_is_none(site: Site) -> None:
    """A site retires options by their activity."""
    site.change("UPDATE list_options SET activity = 0 WHERE list_id = 'marital' AND option_id = 'widowed'")
    try:
        with site.reopened() as one:
            _, message = one.refusal(clinic.patient(marital_status="widowed"))
    finally:
        site.change("UPDATE list_options SET activity = 1 WHERE list_id = 'marital' AND option_id = 'widowed'")

    assert message == (
        "marital_status: is no option of OpenEMR's list marital,"
        " which has married, single, divorced, separated, domestic partner"
    )


def test_a_sex_that_an_old_list_lacks_is_refused_or_written_as_the_fallback(openemr_admin_url: str) -> None:
    """6.0.0 has no option for unknown."""
    with installed_site(openemr_admin_url, "6.0.0") as site:
        unknown = clinic.patient(sex="unknown")
        message = "sex: is no option of OpenEMR's list sex, which has Female, Male"
        assert site.refusal(unknown) == ("unknown_option", message)

        with choosing(site, fallbacks={"sex": ""}) as one:
            assert one.apply(event("create", unknown)) == [
                Applied("sex: is no option of OpenEMR; the configured fallback is written")
            ]
        assert site.of(unknown)["sex"] == ""


def test_a_fallback_is_written_and_said(site: Site) -> None:
    """Of the fields that have one; known values are left alone."""
    patient = clinic.patient(race="martian", marital_status="engaged", ethnicity="hispanic")
    fallbacks = {"race": "other_race" if not site.old else "white", "marital_status": "", "ethnicity": "hisp_or_latin"}
    with choosing(site, fallbacks=fallbacks) as one:
        outcome = one.apply(event("create", patient))
        refused = one.refusal({**patient, "language": "klingon"}, operation="update")

    said = "marital_status, race: is no option of OpenEMR; the configured fallback is written"
    assert outcome == [Applied(said)]
    row = site.of(patient)
    assert (row["race"], row["status"], row["ethnicity"]) == (fallbacks["race"], "", "hisp_or_latin")
    assert refused[0] == "unknown_option"


@pytest.mark.parametrize(
    ("fallbacks", "message"),
    [
        ({"race": "martian"}, "EMRSYNC_OPENEMR_FALLBACKS: OpenEMR's list race has no option martian"),
        ({"given_name": "x"}, "EMRSYNC_OPENEMR_FALLBACKS: given_name is no coded field; those are class_code, "),
    ],
)
def test_a_fallback_that_cannot_be_written_is_refused_at_start(
    site: Site, fallbacks: Mapping[str, str], message: str
) -> None:
    """Not at the first event that needs it."""
    with pytest.raises(MisconfiguredError) as refused:
        open_target(site.writer_url, site.ledger, fallbacks=fallbacks)

    assert str(refused.value).startswith(message)


def test_an_encounter_without_a_facility_is_in_the_chosen_one(site: Site) -> None:
    """By name; the primary one if none is chosen, and an unknown choice is refused at start."""
    patient = clinic.patient()
    visit, other = clinic.encounter(patient["patient_id"]), clinic.encounter(patient["patient_id"])
    site.change("INSERT INTO facility (id, name) VALUES (77, 'North Clinic')")
    try:
        with choosing(site, facility="North Clinic") as one:
            one.put(patient, visit)
    finally:
        site.change("DELETE FROM facility WHERE id = 77")
    site.put(other)

    row = site.of(visit)
    assert (row["facility"], row["facility_id"], row["billing_facility"]) == ("North Clinic", 77, 77)
    assert site.of(other)["facility_id"] == 3
    with pytest.raises(MisconfiguredError, match="OpenEMR has no facility North Clinic"):
        open_target(site.writer_url, site.ledger, facility="North Clinic")


def test_every_created_row_that_can_name_our_user_does(site: Site) -> None:
    """OpenEMR's own audit does not see us; these columns are what a clerk sees."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    named = {"encounter_id": visit["encounter_id"]}
    several = (patient, visit, clinic.order(patient["patient_id"], **named), medication(patient["patient_id"], **named))
    site.put(*several)

    ours = site.value("SELECT id FROM users WHERE username = 'emrsync'")
    assert {site.of(several[0])["created_by"], site.of(several[3])["created_by"]} == {ours}
    users = site.rows("SELECT DISTINCT user, groupname FROM forms WHERE pid = %s", site.of(patient)["pid"])
    assert users == [{"user": "emrsync", "groupname": "Default"}]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.field)
def test_every_word_leads_to_an_option_of_the_site(site: Site, table: Any) -> None:
    """A word without one would be a promise that is not kept."""
    options = site.target.site.options[table.list_id]
    titles = {text.casefold() for pair in options.items() for text in pair} | {one.casefold() for one in table.outside}
    lost = [word for word, wanted in table.words.items() if not titles & {one.casefold() for one in wanted}]

    assert lost == ([] if not site.old or table.field != "race" else lost)
    assert set(lost) <= {"2131-1", "other"}
