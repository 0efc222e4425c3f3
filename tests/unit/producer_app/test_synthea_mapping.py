"""Synthea's values as the contract's, and what has no counterpart."""

from __future__ import annotations

import itertools

import pytest

from producer_app.synthea_files import SourceFile
from producer_app.synthea_mapping import (
    MAPPINGS,
    UnmappableError,
    encounter,
    imaging_study,
    medication,
    order_id,
    order_key,
    patient,
    procedure,
)

PATIENT = {"Id": "p1", "BIRTHDATE": "1931-01-02", "FIRST": "Testa", "LAST": "O'Sample", "GENDER": "F"}
ENCOUNTER = {
    "Id": "e1",
    "START": "1955-03-02T10:07:14Z",
    "PATIENT": "p1",
    "ENCOUNTERCLASS": "wellness",
    "DESCRIPTION": "General examination",
}
ORDER = {"PATIENT": "p1", "ENCOUNTER": "e1", "CODE": "313782", "DESCRIPTION": "Acetaminophen"}
STARTED = {**ORDER, "START": "2024-05-01T00:30:00Z"}


def test_a_patient_has_every_field_that_synthea_gives() -> None:
    """All fields at once, written by hand."""
    row = {
        **PATIENT,
        "DEATHDATE": "2020-12-31",
        "SSN": "999-00-0001",
        "PREFIX": "Mrs.",
        "MIDDLE": "Bea",
        "SUFFIX": "MD",
        "MARITAL": "W",
        "RACE": "black",
        "ETHNICITY": "hispanic",
        "ADDRESS": "1 Example Road",
        "CITY": "Sampleton",
        "STATE": "Massachusetts",
        "COUNTY": "Sample County",
        "ZIP": "01462",
    }

    mapped = patient(row)

    assert mapped.notes == ()
    assert mapped.fields == {
        "patient_id": "p1",
        "family_name": "O'Sample",
        "given_name": "Testa",
        "middle_name": "Bea",
        "title": "Mrs.",
        "suffix": "MD",
        "birth_date": "1931-01-02",
        "sex": "female",
        "address": {
            "line": "1 Example Road",
            "city": "Sampleton",
            "state": "Massachusetts",
            "postal_code": "01462",
            "county": "Sample County",
        },
        "marital_status": "widowed",
        "race": "black_or_afri_amer",
        "ethnicity": "hisp_or_latin",
        "national_id": "999-00-0001",
        "deceased_at": "2020-12-31T12:00:00Z",
    }


@pytest.mark.parametrize(
    ("column", "value", "field", "option"),
    [
        ("GENDER", "M", "sex", "male"),
        ("GENDER", "F", "sex", "female"),
        ("MARITAL", "M", "marital_status", "married"),
        ("MARITAL", "S", "marital_status", "single"),
        ("MARITAL", "D", "marital_status", "divorced"),
        ("MARITAL", "W", "marital_status", "widowed"),
        ("RACE", "white", "race", "white"),
        ("RACE", "asian", "race", "Asian"),
        ("RACE", "native", "race", "amer_ind_or_alaska_native"),
        ("RACE", "hawaiian", "race", "native_hawai_or_pac_island"),
        ("RACE", "other", "race", "other_race"),
        ("ETHNICITY", "nonhispanic", "ethnicity", "not_hisp_or_latin"),
    ],
)
def test_a_code_becomes_an_openemr_option(column: str, value: str, field: str, option: str) -> None:
    """The option ids are OpenEMR's own, letter by letter."""
    assert patient({**PATIENT, column: value}).fields[field] == option


def test_a_value_without_option_is_left_out_and_noted_without_the_value() -> None:
    """A patient is not refused for a marital status."""
    mapped = patient({**PATIENT, "RACE": "martian", "MARITAL": "X", "GENDER": "U"})

    assert "race" not in mapped.fields
    assert "marital_status" not in mapped.fields
    assert mapped.fields["sex"] == "unknown"
    assert mapped.notes == (
        "MARITAL: has no OpenEMR option, left out",
        "RACE: has no OpenEMR option, left out",
        "GENDER: is none that is known, taken as unknown",
    )


@pytest.mark.parametrize(
    ("synthea", "code"),
    [
        ("ambulatory", "AMB"),
        ("outpatient", "AMB"),
        ("wellness", "AMB"),
        ("urgentcare", "AMB"),
        ("home", "AMB"),
        ("emergency", "EMER"),
        ("inpatient", "IMP"),
        ("hospice", "NONAC"),
        ("snf", "NONAC"),
        ("virtual", "VR"),
    ],
)
def test_an_encounter_class_becomes_one_that_fhir_shows_once(synthea: str, code: str) -> None:
    """HH and SS would be shown twice and three times."""
    assert encounter({**ENCOUNTER, "ENCOUNTERCLASS": synthea}).fields["class_code"] == code


def test_an_encounter_of_an_unknown_class_is_refused_without_the_value() -> None:
    """OpenEMR requires a class, and a guess would be a false record."""
    with pytest.raises(UnmappableError) as caught:
        encounter({**ENCOUNTER, "ENCOUNTERCLASS": "teleportation"})

    assert str(caught.value) == "ENCOUNTERCLASS: has no OpenEMR encounter class"


def test_the_reason_of_an_encounter_is_its_diagnosis_or_else_what_it_was() -> None:
    """OpenEMR's visit list shows the reason."""
    assert encounter(ENCOUNTER).fields["reason"] == "General examination"
    assert encounter({**ENCOUNTER, "REASONDESCRIPTION": "Asthma"}).fields["reason"] == "Asthma"


def test_a_medication_is_an_order_that_is_active_until_it_ends() -> None:
    """Synthea leaves STOP blank while it is taken."""
    running = medication({**STARTED, "REASONCODE": "3718001"}).fields
    ended = medication({**STARTED, "STOP": "2024-06-01T00:30:00Z"}).fields

    assert running == {
        "patient_id": "p1",
        "encounter_id": "e1",
        "ordered_at": "2024-05-01T00:30:00+00:00",
        "kind": "medication",
        "status": "active",
        "drug": "Acetaminophen",
        "rxnorm": "313782",
        "start_date": "2024-05-01",
        "diagnosis_codes": ["SNOMED-CT:3718001"],
    }
    assert (ended["status"], ended["end_date"]) == ("completed", "2024-06-01")


@pytest.mark.parametrize(
    ("system", "kind", "code_system"),
    [
        ("SNOMED-CT", "procedure", "SNOMED-CT"),
        ("http://snomed.info/sct", "procedure", "SNOMED-CT"),
        ("http://loinc.org", "laboratory", "LOINC"),
    ],
)
def test_a_procedure_is_an_order_of_the_kind_its_code_system_tells(system: str, kind: str, code_system: str) -> None:
    """LOINC codes are measurements."""
    mapped = procedure({**STARTED, "SYSTEM": system}).fields

    assert (mapped["kind"], mapped["status"]) == (kind, "completed")
    assert mapped["code"] == {"system": code_system, "code": "313782", "display": "Acetaminophen"}


def test_a_procedure_without_system_is_of_snomed_as_in_older_exports() -> None:
    """The column came with Synthea 3.3."""
    assert procedure(STARTED).fields["code"]["system"] == "SNOMED-CT"


def test_an_imaging_study_says_what_was_done_where() -> None:
    """The file has no description of its own."""
    row = {
        "Id": "s1",
        "DATE": "2024-05-01T00:50:00Z",
        "PATIENT": "p1",
        "ENCOUNTER": "e1",
        "PROCEDURE_CODE": "399208008",
        "MODALITY_DESCRIPTION": "Digital Radiography",
        "BODYSITE_DESCRIPTION": "Thoracic structure",
    }

    mapped = imaging_study(row).fields

    assert (mapped["kind"], mapped["status"]) == ("imaging", "completed")
    assert mapped["code"] == {
        "system": "SNOMED-CT",
        "code": "399208008",
        "display": "Digital Radiography: Thoracic structure",
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"START": "yesterday"}, "START: is no date or instant of ISO 8601"),
        ({"START": "2024-05-01T00:30:00"}, "START: has no offset from UTC"),
        ({"PATIENT": None}, "PATIENT: is blank"),
        ({"CODE": None}, "CODE: is blank"),
    ],
    ids=["no time", "no offset", "no patient", "no code"],
)
def test_a_row_that_cannot_be_mapped_names_its_column(changes: dict[str, str | None], said: str) -> None:
    """So that the report can count rows by reason."""
    row = {column: value for column, value in {**STARTED, **changes}.items() if value is not None}

    with pytest.raises(UnmappableError) as caught:
        medication(row)

    assert str(caught.value) == said


def test_order_ids_are_the_same_in_every_import_and_different_for_every_order() -> None:
    """The first id is written out: another scheme would import every order anew."""
    keys = [
        order_key(SourceFile.PROCEDURES, STARTED),
        order_key(SourceFile.MEDICATIONS, STARTED),
        order_key(SourceFile.PROCEDURES, {**STARTED, "START": "2024-05-01T00:30:01Z"}),
        order_key(SourceFile.PROCEDURES, {**STARTED, "CODE": "1"}),
        order_key(SourceFile.PROCEDURES, {**STARTED, "PATIENT": "p2"}),
    ]

    ids = [order_id(key, occurrence) for key, occurrence in itertools.product(keys, (0, 1))]

    assert len(ids) == len(set(ids))
    assert ids[0] == "42665b40-f095-5335-a2fa-814b11b436da"


def test_every_file_has_a_mapping() -> None:
    """A file that is read but not mapped would be dropped silently."""
    assert set(MAPPINGS) == set(SourceFile)
