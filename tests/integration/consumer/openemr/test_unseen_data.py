"""Data of systems that emrsync was not written for: each row is done, or refused for a reason that is right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from connectors.outbox import EntityType
from consumer.outcome import Applied, Failed, Outcome, Waiting
from producer_app.synthea import _found, _Tally
from tests.fhir_bundles import Resource, payload
from tests.integration.consumer.openemr.sites import event, installed_site

VERSIONS: Final = ("6.1.0", "7.0.3", "8.2.0-dev")

_US_CORE: Final = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-"


def omb(kind: str, code: str) -> Resource:
    """Give the US Core extension for race or ethnicity."""
    return {"url": f"{_US_CORE}{kind}", "extension": [{"url": "ombCategory", "valueCoding": {"code": code}}]}


def patient(number: int, **changes: Any) -> Resource:
    """Give a Patient."""
    fields = {
        "resourceType": "Patient",
        "id": f"fhir-patient-{number}",
        "name": [{"family": "Quillfeather", "given": ["Ada", "Maria", "Lucia"], "prefix": ["Ms."]}],
        "gender": "female",
        "birthDate": "1961-12-31",
    }
    return {**fields, **changes}


def coded(code: str, *, system: str = "", text: str | None = None, display: str | None = None) -> Resource:
    """Give a CodeableConcept."""
    coding = [{"system": system, "code": code} | ({} if display is None else {"display": display})]
    return {"coding": coding} if text is None else {"coding": coding, "text": text}


def of_patient(kind: str, name: str, number: int = 1, **changes: Any) -> Resource:
    """Give a resource about a patient."""
    return {
        "resourceType": kind,
        "id": f"fhir-{name}",
        "subject": {"reference": f"Patient/fhir-patient-{number}"},
        **changes,
    }


def encounter(name: str, code: str, number: int = 1, **changes: Any) -> Resource:
    """Give an Encounter."""
    period = {"start": "2019-10-27T01:30:00-04:00", "end": "2019-10-27T03:15:00.500-05:00"}
    return of_patient("Encounter", f"visit-{name}", number, **{"class": {"code": code}, "period": period, **changes})


def request(name: str, category: str, number: int = 1, **changes: Any) -> Resource:
    """Give a ServiceRequest."""
    fields = {
        "status": "active",
        "intent": "order",
        "category": [coded(category)],
        "code": coded("2345-7", system="http://loinc.org", display="Glucose [Mass/volume] in Serum or Plasma"),
        "authoredOn": "2019-10-27T08:00:00Z",
    }
    return of_patient("ServiceRequest", f"request-{name}", number, **{**fields, **changes})


def prescription(name: str, number: int = 1, **changes: Any) -> Resource:
    """Give a MedicationRequest."""
    fields = {
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": coded("860975", text="metformin 500 mg extended release oral tablet"),
        "authoredOn": "2019-10-27T08:00:00+00:00",
    }
    return of_patient("MedicationRequest", f"drug-{name}", number, **{**fields, **changes})


LABORATORY, IMAGING, PROCEDURE = "108252007", "363679005", "387713003"
SNOMED: Final = "http://snomed.info/sct"

RESOURCES: Final = (
    patient(
        1,
        extension=[omb("race", "2106-3"), omb("ethnicity", "2186-5")],
        maritalStatus=coded("M"),
        communication=[{"language": coded("en-US")}],
        telecom=[
            {"system": "phone", "use": "home", "value": "+1 555 0100"},
            {"system": "email", "value": "a@b.example"},
        ],
        address=[{"line": ["1 Mill Lane", "Flat 2"], "city": "Bedford", "state": "MA", "postalCode": "01730"}],
    ),
    patient(2, gender="other", extension=[omb("race", "2131-1"), omb("ethnicity", "2135-2")]),
    patient(3, gender="unknown", deceasedDateTime="2020-02-29T23:59:60Z"),
    patient(4, deceasedDateTime="2020-02-29"),
    patient(5, birthDate="1961"),
    patient(6, birthDate="1961-12"),
    patient(7, name=[{"text": "Ada Quillfeather"}]),
    patient(8, maritalStatus=coded("C")),
    patient(9, name=[{"family": "Ó Súilleabháin-Quillfeather", "given": ["\U0001d49cda"]}]),
    patient(10, communication=[{"language": coded("tlh")}]),
    encounter("amb", "AMB", reasonCode=[coded("25064002", text="Headache — 3 days")]),
    encounter("imp", "IMP"),
    encounter("obs", "OBSENC"),
    encounter("early", "PRENC"),
    encounter("unknown", "XYZ"),
    encounter("word", "outpatient"),
    encounter("planned", "AMB", period={}),
    encounter("day", "AMB", period={"start": "2019-10-27"}),
    encounter("backward", "AMB", period={"start": "2019-10-27T10:00:00Z", "end": "2019-10-27T09:00:00Z"}),
    encounter("orphan", "AMB", 99),
    request("lab", LABORATORY, encounter={"reference": "Encounter/fhir-visit-amb"}, priority="urgent"),
    request("image", IMAGING, code=coded("399208008", system=SNOMED, display="Plain X-ray of chest")),
    request("procedure", PROCEDURE, status="completed", code=coded("80146002", system=SNOMED, display="Appendectomy")),
    request("error", LABORATORY, status="entered-in-error"),
    request("bare", LABORATORY, code=coded("2345-7", system="http://loinc.org")),
    request("local", LABORATORY, code=coded("GLU", system="https://lab.example/codes", display="Glucose")),
    request("early", LABORATORY, encounter={"reference": "Encounter/fhir-visit-nowhere"}),
    prescription(
        "full",
        dosageInstruction=[{"text": "1 tablet daily", "route": coded("26643006", text="Oral")}],
        dispenseRequest={"numberOfRepeatsAllowed": 3, "quantity": {"value": 30}},
    ),
    prescription("stopped", status="stopped"),
    prescription("route", dosageInstruction=[{"route": coded("x", text="by osmosis")}]),
    prescription("nameless", medicationCodeableConcept={"coding": []}),
)

REFUSED: Final[Mapping[str, tuple[str, str]]] = {
    "fhir-patient-3": ("invalid_payload", "deceased_at"),
    "fhir-patient-4": ("invalid_payload", "deceased_at"),
    "fhir-patient-5": ("invalid_payload", "birth_date"),
    "fhir-patient-6": ("invalid_payload", "birth_date"),
    "fhir-patient-7": ("invalid_payload", "family_name"),
    "fhir-patient-8": ("unknown_option", "marital_status"),
    "fhir-patient-10": ("unknown_option", "language"),
    "fhir-visit-unknown": ("unknown_option", "class_code"),
    "fhir-visit-planned": ("invalid_payload", "started_at"),
    "fhir-visit-day": ("invalid_payload", "started_at"),
    "fhir-visit-backward": ("invalid_payload", "ended_at"),
    "fhir-request-error": ("invalid_payload", "status"),
    "fhir-request-bare": ("invalid_payload", "code.display"),
    "fhir-drug-stopped": ("invalid_payload", "status"),
    "fhir-drug-route": ("unknown_option", "route"),
    "fhir-drug-nameless": ("invalid_payload", "drug"),
}
"""By id, the error class and the field; everything else is applied, or waits for what is in no bundle."""

ORPHANS: Final = {"fhir-visit-orphan": "fhir-patient-99", "fhir-request-early": "fhir-visit-nowhere"}

VINTAGES: Final[Mapping[str, Mapping[str, Sequence[str]]]] = {
    "before 2021": {
        "patients.csv": (
            (
                "Id,BIRTHDATE,DEATHDATE,SSN,DRIVERS,PASSPORT,PREFIX,FIRST,LAST,SUFFIX,MAIDEN,MARITAL,RACE,ETHNICITY,GENDER,"
                "BIRTHPLACE,ADDRESS,CITY,STATE,COUNTY,ZIP,LAT,LON,HEALTHCARE_EXPENSES,HEALTHCARE_COVERAGE"
            ),
            (
                "v1-p1,1950-01-31,2011-05-06,999-00-0001,S9,X1,Mrs.,Ada1,Quill2,,,M,white,irish,F,Nowhere,1 Mill Lane,"
                "Bedford,Massachusetts,Middlesex County,01730,42.1,-71.2,1.5,2.5"
            ),
            "v1-p2,1950-02-30,,,,,,Ada1,Quill2,,,S,hispanic,puerto_rican,F,,,,,,,,,,",
        ),
        "encounters.csv": (
            "Id,START,STOP,PATIENT,ORGANIZATION,PROVIDER,ENCOUNTERCLASS,CODE,DESCRIPTION,COST,REASONCODE,REASONDESCRIPTION",
            "v1-e1,2010-05-03T11:02:24Z,2010-05-03T11:17:24Z,v1-p1,,,wellness,162673000,Check up,129.16,,",
            "v1-e2,2010-05-03,2010-05-03,v1-p1,,,ambulatory,185345009,Symptom,129.16,,",
            "v1-e3,2010-05-03T11:02:24Z,,v1-p1,,,exam,185345009,Symptom,129.16,,",
        ),
        "medications.csv": (
            "START,STOP,PATIENT,ENCOUNTER,CODE,DESCRIPTION,COST,DISPENSES,TOTALCOST,REASONCODE,REASONDESCRIPTION",
            "2010-05-03T11:02:24Z,2010-05-10T11:02:24Z,v1-p1,v1-e1,313782,Acetaminophen 325 MG Oral Tablet,5.2,1,5.2,,",
        ),
        "procedures.csv": (
            "DATE,PATIENT,ENCOUNTER,CODE,DESCRIPTION,COST,REASONCODE,REASONDESCRIPTION",
            "2010-05-03T11:02:24Z,v1-p1,v1-e1,430193006,Medication Reconciliation,495.2,,",
        ),
        "imaging_studies.csv": (
            (
                "Id,DATE,PATIENT,ENCOUNTER,BODYSITE_CODE,BODYSITE_DESCRIPTION,MODALITY_CODE,MODALITY_DESCRIPTION,SOP_CODE,"
                "SOP_DESCRIPTION"
            ),
            "v1-i1,2010-05-03T11:02:24Z,v1-p1,v1-e1,40983000,Arm,DX,Digital Radiography,1.2,Image Storage",
        ),
    },
    "of columns that are yet to come": {
        "patients.csv": ("GENDER,LAST,FIRST,BIRTHDATE,Id,PRONOUNS", "X,Quill,Ada,2001-02-03,v9-p1,they"),
        "encounters.csv": (
            "Id,START,STOP,PATIENT,ENCOUNTERCLASS,DESCRIPTION,TELECOM",
            "v9-e1,2031-01-01T00:00:00+05:30,,v9-p1,virtual,Video visit,x",
        ),
        "medications.csv": (
            "START,STOP,PATIENT,ENCOUNTER,CODE,DESCRIPTION",
            "2031-01-01T00:00:00Z,,v9-p1,,1,Drug 1 MG",
        ),
        "procedures.csv": (
            "START,PATIENT,ENCOUNTER,SYSTEM,CODE,DESCRIPTION",
            "2031-01-01T00:00:00Z,v9-p1,v9-e1,http://loinc.org,2345-7,Glucose",
            "2031-01-01T00:00:00Z,v9-p1,v9-e1,http://example.org,1,Unknown system",
        ),
        "imaging_studies.csv": ("Id,DATE,PATIENT,ENCOUNTER,PROCEDURE_CODE,MODALITY_DESCRIPTION",),
    },
}

REFUSED_ROWS: Final = {
    "patients.csv BIRTHDATE: is no date or instant of ISO 8601",
    "encounters.csv START: has no offset from UTC",
    "encounters.csv ENCOUNTERCLASS: has no OpenEMR encounter class",
    "imaging_studies.csv PROCEDURE_CODE: is blank",
    "procedures.csv SYSTEM: is no code system that is known",
}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_row_is_done_or_refused_for_the_right_reason(
    openemr_admin_url: str, tmp_path: Path, version: str
) -> None:
    """By the word of each resource and row; what is done is shown once in every place this version has."""
    with installed_site(openemr_admin_url, version) as site:
        fields = [payload(one) for one in RESOURCES]
        imported, refused = exports(tmp_path)
        events = [event("create", one) for one in (*fields, *imported)]
        outcomes = dict(zip((one.key.entity_id for one in events), site.apply(*events), strict=True))

        assert {name: reason(outcome) for name, outcome in outcomes.items() if isinstance(outcome, Failed)} == REFUSED
        parked = {name: one.parent.entity_id for name, one in outcomes.items() if isinstance(one, Waiting)}
        assert parked == ORPHANS
        done = [name for name, outcome in outcomes.items() if isinstance(outcome, Applied)]
        assert len(done) == len(events) - len(REFUSED) - len(ORPHANS)
        assert refused == REFUSED_ROWS
        assert len(imported) == 8
        seen = site.verified(*done)
        assert (seen.fine, seen.live) == (True, len(done))


def exports(folder: Path) -> tuple[list[Mapping[str, Any]], set[str]]:
    """Give the payloads of all vintages, parents first, and the reasons of rows that became none."""
    found: list[Mapping[str, Any]] = []
    refused: set[str] = set()
    for number, files in enumerate(VINTAGES.values()):
        export = folder / str(number)
        export.mkdir()
        for name, lines in files.items():
            (export / name).write_text("\n".join(lines), encoding="utf-8")
        tally = _Tally()
        for entity_type in (EntityType.PATIENT, EntityType.ENCOUNTER, EntityType.ORDER):
            payloads = (one.payload for one in _found(export, entity_type, None, tally))
            found += [json.loads(one.model_dump_json(exclude_none=True)) for one in payloads]
        refused |= {f"{file} {why}" for file, why in tally.refused}
    return found, refused


def reason(outcome: Outcome) -> tuple[str, str]:
    """Give class and field of a failure."""
    assert isinstance(outcome, Failed)
    return outcome.error_class.value, outcome.message.partition(":")[0]
