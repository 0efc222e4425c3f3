"""Made-up FHIR R4 resources as other systems export them, put into the payloads of the contract word by word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Resource = Mapping[str, Any]

_RACE: Final = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-race"
_ETHNICITY: Final = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-ethnicity"
_KINDS: Final = {"108252007": "laboratory", "363679005": "imaging", "387713003": "procedure"}
"""By SNOMED CT code of a ServiceRequest's category."""


def payload(resource: Resource) -> dict[str, Any]:
    """Give the payload of a resource; what the resource lacks, the payload lacks, and no word is changed."""
    fields = _PAYLOADS[resource["resourceType"]](resource)
    return {name: value for name, value in fields.items() if value not in (None, "", {}, [])}


def _patient(one: Resource) -> dict[str, Any]:
    name, address = one["name"][0], one.get("address", [{}])[0]
    phones = {phone.get("use"): phone["value"] for phone in one.get("telecom", ()) if phone["system"] == "phone"}
    lines = address.get("line", [])
    return {
        "patient_id": one["id"],
        "family_name": name.get("family"),
        "given_name": next(iter(name.get("given", ())), None),
        "middle_name": " ".join(name.get("given", ())[1:]),
        "title": " ".join(name.get("prefix", ())),
        "birth_date": one.get("birthDate"),
        "sex": one.get("gender"),
        "address": {
            "line": next(iter(lines), None),
            "line2": ", ".join(lines[1:]) or None,
            "city": address.get("city"),
            "state": address.get("state"),
            "postal_code": address.get("postalCode"),
            "country": address.get("country"),
        },
        "phone_home": phones.get("home"),
        "phone_mobile": phones.get("mobile"),
        "marital_status": _code(one.get("maritalStatus")),
        "language": next((_code(said["language"]) for said in one.get("communication", ())), None),
        "race": _extension(one, _RACE),
        "ethnicity": _extension(one, _ETHNICITY),
        "deceased_at": one.get("deceasedDateTime"),
    }


def _encounter(one: Resource) -> dict[str, Any]:
    return {
        "encounter_id": one["id"],
        "patient_id": _id(one["subject"]),
        "started_at": one.get("period", {}).get("start"),
        "ended_at": one.get("period", {}).get("end"),
        "class_code": one["class"]["code"],
        "reason": next((_text(reason) for reason in one.get("reasonCode", ())), None),
    }


def _order(one: Resource) -> dict[str, Any]:
    return {
        "order_id": one["id"],
        "patient_id": _id(one["subject"]),
        "encounter_id": _id(one.get("encounter")),
        "ordered_at": one.get("authoredOn"),
        "status": one.get("status"),
        "priority": one.get("priority"),
    }


def _service_request(one: Resource) -> dict[str, Any]:
    coding = one["code"]["coding"][0]
    return {
        **_order(one),
        "kind": _KINDS[one["category"][0]["coding"][0]["code"]],
        "code": {name: coding[name] for name in ("system", "code", "display") if name in coding},
        "instructions": one.get("patientInstruction"),
    }


def _medication_request(one: Resource) -> dict[str, Any]:
    dosage: Resource = next(iter(one.get("dosageInstruction", ())), {})
    return {
        **_order(one),
        "kind": "medication",
        "drug": _text(one["medicationCodeableConcept"]),
        "rxnorm": _code(one["medicationCodeableConcept"]),
        "instructions": dosage.get("text"),
        "route": _text(dosage.get("route")),
        "refills": one.get("dispenseRequest", {}).get("numberOfRepeatsAllowed"),
        "quantity": one.get("dispenseRequest", {}).get("quantity", {}).get("value"),
    }


_PAYLOADS: Final = {
    "Patient": _patient,
    "Encounter": _encounter,
    "ServiceRequest": _service_request,
    "MedicationRequest": _medication_request,
}


def _id(reference: Resource | None) -> str | None:
    return None if reference is None else str(reference["reference"]).rpartition("/")[2]


def _code(concept: Resource | None) -> str | None:
    return None if concept is None else next((str(one["code"]) for one in concept.get("coding", ())), None)


def _text(concept: Resource | None) -> str | None:
    if concept is None:
        return None
    return concept.get("text") or next((one.get("display") for one in concept.get("coding", ())), None)


def _extension(one: Resource, url: str) -> str | None:
    parts = next((part["extension"] for part in one.get("extension", ()) if part["url"] == url), ())
    return next((part["valueCoding"]["code"] for part in parts if part["url"] == "ombCategory"), None)
