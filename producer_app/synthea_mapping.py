"""Synthea's columns as payload fields: pure functions, one per file."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from connectors.outbox import EntityType
from producer_app.synthea_files import SourceFile


class UnmappableError(ValueError):
    """A row cannot become an entity; the message names column and reason, never a value."""


@dataclasses.dataclass(frozen=True, slots=True)
class Mapped:
    """The payload fields of one row, and which of its values had to be left out and why."""

    fields: Mapping[str, Any]
    notes: tuple[str, ...] = ()


_SEX: Final = MappingProxyType({"M": "male", "F": "female"})
_MARITAL: Final = MappingProxyType({"M": "married", "S": "single", "D": "divorced", "W": "widowed"})
_RACE: Final = MappingProxyType(
    {
        "white": "white",
        "asian": "Asian",
        "black": "black_or_afri_amer",
        "native": "amer_ind_or_alaska_native",
        "hawaiian": "native_hawai_or_pac_island",
        "other": "other_race",
    }
)
_ETHNICITY: Final = MappingProxyType({"hispanic": "hisp_or_latin", "nonhispanic": "not_hisp_or_latin"})
# HH and SS are real codes, but OpenEMR's FHIR API shows encounters of these classes two and three times.
_ENCOUNTER_CLASS: Final = MappingProxyType(
    {
        "ambulatory": "AMB",
        "outpatient": "AMB",
        "wellness": "AMB",
        "urgentcare": "AMB",
        "home": "AMB",
        "emergency": "EMER",
        "inpatient": "IMP",
        "hospice": "NONAC",
        "snf": "NONAC",
        "virtual": "VR",
    }
)
_CODE_SYSTEM: Final = MappingProxyType(
    {
        "SNOMED-CT": "SNOMED-CT",
        "http://snomed.info/sct": "SNOMED-CT",
        "LOINC": "LOINC",
        "http://loinc.org": "LOINC",
    }
)

ORDER_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "urn:emrsync:synthea:order")
"""Under which order ids are made from row content; another value would import every order anew."""


def patient(row: Mapping[str, str]) -> Mapped:
    """Map a row of patients.csv; Synthea's own id is the patient's."""
    notes: list[str] = []
    address = {
        "line": row.get("ADDRESS"),
        "city": row.get("CITY"),
        "state": row.get("STATE"),
        "postal_code": row.get("ZIP"),
        "county": row.get("COUNTY"),
    }
    address = {name: value for name, value in address.items() if value is not None}
    fields = {
        "patient_id": _required(row, "Id"),
        "family_name": _required(row, "LAST"),
        "given_name": _required(row, "FIRST"),
        "middle_name": row.get("MIDDLE"),
        "title": row.get("PREFIX"),
        "suffix": row.get("SUFFIX"),
        "birth_date": _date(row, "BIRTHDATE"),
        "sex": _SEX.get(_required(row, "GENDER"), "unknown"),
        "address": address or None,
        "marital_status": _optional(row, "MARITAL", _MARITAL, notes),
        "race": _optional(row, "RACE", _RACE, notes),
        "ethnicity": _optional(row, "ETHNICITY", _ETHNICITY, notes),
        "national_id": row.get("SSN"),
        # A date only: at noon UTC it is the same date at sites from UTC-11 to UTC+11.
        "deceased_at": f"{_date(row, 'DEATHDATE')}T12:00:00Z" if "DEATHDATE" in row else None,
    }
    if _required(row, "GENDER") not in _SEX:
        notes.append("GENDER: is none that is known, taken as unknown")
    return Mapped(_present(fields), tuple(notes))


def encounter(row: Mapping[str, str]) -> Mapped:
    """Map a row of encounters.csv; Synthea's own id is the encounter's."""
    class_code = _ENCOUNTER_CLASS.get(_required(row, "ENCOUNTERCLASS"))
    if class_code is None:
        raise UnmappableError("ENCOUNTERCLASS: has no OpenEMR encounter class")
    return Mapped(
        _present(
            {
                "encounter_id": _required(row, "Id"),
                "patient_id": _required(row, "PATIENT"),
                "started_at": _instant(row, "START"),
                "ended_at": _instant(row, "STOP") if "STOP" in row else None,
                "class_code": class_code,
                "reason": row.get("REASONDESCRIPTION") or row.get("DESCRIPTION"),
            }
        )
    )


def medication(row: Mapping[str, str]) -> Mapped:
    """Map a row of medications.csv to a medication order; one without an end is active."""
    return Mapped(
        _present(
            {
                **_order(row, "START"),
                "kind": "medication",
                "status": "completed" if "STOP" in row else "active",
                "drug": _required(row, "DESCRIPTION"),
                "rxnorm": _required(row, "CODE"),
                "start_date": _instant(row, "START")[:10],
                "end_date": _instant(row, "STOP")[:10] if "STOP" in row else None,
            }
        )
    )


def procedure(row: Mapping[str, str]) -> Mapped:
    """Map a row of procedures.csv to an order that was carried out; LOINC names laboratory tests."""
    # Exports before Synthea 3.3 have no such column, and only these codes.
    system = _CODE_SYSTEM.get(row.get("SYSTEM", "SNOMED-CT"))
    if system is None:
        raise UnmappableError("SYSTEM: is no code system that is known")
    return Mapped(
        _present(
            {
                **_order(row, "START"),
                "kind": "laboratory" if system == "LOINC" else "procedure",
                "status": "completed",
                "code": {
                    "system": system,
                    "code": _required(row, "CODE"),
                    "display": _required(row, "DESCRIPTION"),
                },
            }
        )
    )


def imaging_study(row: Mapping[str, str]) -> Mapped:
    """Map the first row of a study in imaging_studies.csv to an order that was carried out."""
    what = [
        _required(row, "MODALITY_DESCRIPTION"),
        *([row["BODYSITE_DESCRIPTION"]] if "BODYSITE_DESCRIPTION" in row else []),
    ]
    return Mapped(
        _present(
            {
                **_order(row, "DATE"),
                "kind": "imaging",
                "status": "completed",
                "code": {
                    "system": "SNOMED-CT",
                    "code": _required(row, "PROCEDURE_CODE"),
                    "display": ": ".join(what),
                },
            }
        )
    )


MAPPINGS: Final[Mapping[SourceFile, tuple[EntityType, Callable[[Mapping[str, str]], Mapped]]]] = {
    SourceFile.PATIENTS: (EntityType.PATIENT, patient),
    SourceFile.ENCOUNTERS: (EntityType.ENCOUNTER, encounter),
    SourceFile.MEDICATIONS: (EntityType.ORDER, medication),
    SourceFile.PROCEDURES: (EntityType.ORDER, procedure),
    SourceFile.IMAGING_STUDIES: (EntityType.ORDER, imaging_study),
}
"""What the rows of each file become, and how."""

_ORDER_KEYS: Final[Mapping[SourceFile, tuple[str, ...]]] = {
    SourceFile.MEDICATIONS: ("PATIENT", "ENCOUNTER", "START", "CODE"),
    SourceFile.PROCEDURES: ("PATIENT", "ENCOUNTER", "START", "CODE"),
    # A study has one row per image.
    SourceFile.IMAGING_STUDIES: ("PATIENT", "ENCOUNTER", "DATE", "PROCEDURE_CODE", "Id"),
}


def order_key(file: SourceFile, row: Mapping[str, str]) -> tuple[str, ...]:
    """Give the content by which an order is known again in a later import of the same export."""
    return (file.value, *(row.get(column, "") for column in _ORDER_KEYS[file]))


def order_id(key: tuple[str, ...], occurrence: int) -> str:
    """Make an order's id from its content; occurrence counts orders of equal content from 0."""
    return str(uuid.uuid5(ORDER_NAMESPACE, json.dumps([*key, occurrence])))


def _order(row: Mapping[str, str], when: str) -> dict[str, Any]:
    reason = row.get("REASONCODE")
    return {
        "patient_id": _required(row, "PATIENT"),
        "encounter_id": row.get("ENCOUNTER"),
        "ordered_at": _instant(row, when),
        "diagnosis_codes": None if reason is None else [f"SNOMED-CT:{reason}"],
    }


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _required(row: Mapping[str, str], column: str) -> str:
    value = row.get(column)
    if value is None:
        raise UnmappableError(f"{column}: is blank")
    return value


def _optional(row: Mapping[str, str], column: str, known: Mapping[str, str], notes: list[str]) -> str | None:
    value = row.get(column)
    if value is not None and value not in known:
        notes.append(f"{column}: has no OpenEMR option, left out")
    return None if value is None else known.get(value)


def _date(row: Mapping[str, str], column: str) -> str:
    try:
        return dt.date.fromisoformat(_required(row, column)).isoformat()
    except ValueError as error:
        raise _no_time(column, error) from None


def _instant(row: Mapping[str, str], column: str) -> str:
    try:
        instant = dt.datetime.fromisoformat(_required(row, column))
    except ValueError as error:
        raise _no_time(column, error) from None
    if instant.tzinfo is None:
        raise UnmappableError(f"{column}: has no offset from UTC")
    return instant.isoformat()


def _no_time(column: str, error: ValueError) -> UnmappableError:
    # The text of the standard library's error repeats the value.
    return (
        error if isinstance(error, UnmappableError) else UnmappableError(f"{column}: is no date or instant of ISO 8601")
    )
