"""The life of one entity of each kind on any version of OpenEMR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from consumer.openemr.surfaces import SURFACES
from consumer.outcome import Applied
from tests import clinic
from tests.acceptance import encounter_shown, order_shown, patient_shown, prescription_shown
from tests.integration.consumer.openemr.sites import Fields, Site, event, key_of, medication

LEFT_OUT: Mapping[str, Mapping[str, Sequence[str]]] = {
    "patient": {
        "preferred_name, suffix, address.line2": ("6.0.0",),
        "preferred_name": ("6.1.0", "7.0.0"),
    },
    "encounter": {"ended_at": ("6.0.0", "6.1.0")},
    "medication": {"diagnosis_codes": ("6.0.0", "6.1.0", "7.0.0", "7.0.1", "7.0.2", "7.0.3")},
}
"""By kind, what has no column in which versions, in the order of the columns."""


def remark(kind: str, version: str) -> str | None:
    """Give the outcome's detail, None where all fields have their columns."""
    names = [name for name, where in LEFT_OUT[kind].items() if version in where]
    return f"{names[0]}: this version of OpenEMR has no column for it" if names else None


def assert_verified(site: Site, several: Sequence[Fields], *, live: int) -> None:
    """Every place that this version has shows each live one once, and no deleted one."""
    found = site.verified(*(key_of(one).entity_id for one in several))

    assert found.findings == ()
    assert (found.live, found.fine) == (live, live == 4)
    absent = {one.surface for one in found.surfaces if one.absent}
    assert absent == ({"FHIR ServiceRequest", "FHIR Procedure"} if site.old else set())
    due = {one.surface: one.due for one in found.surfaces}
    assert due == {
        one.name: int(live > 0 and one.name not in absent and one.name != "FHIR Procedure") for one in SURFACES
    }


def live_through(site: Site) -> None:
    """Create, update, delete and create again."""
    patient = clinic.patient(
        middle_name="M",
        preferred_name="Addie",
        suffix="Jr",
        title="Dr.",
        address={"line": "1 Main St", "line2": "Apt 2", "city": "Town", "state": "NY", "county": "C", "country": "USA"},
        marital_status="married",
        language="English",
        race="white",
        ethnicity="hisp_or_latin",
        deceased_at="2025-03-01T12:00:00Z",
        registered_at="2025-03-01T12:00:00Z",
    )
    visit = clinic.encounter(patient["patient_id"], ended_at="2025-03-01T10:00:00+09:00", category_id=9)
    named = {"encounter_id": visit["encounter_id"], "diagnosis_codes": ["ICD10:I10"]}
    order = clinic.order(patient["patient_id"], **named)
    drug = medication(
        patient["patient_id"],
        route="3",
        form="2",
        instructions="daily",
        start_date="2025-03-01",
        end_date="2025-04-01",
        **named,
    )
    expected = [
        Applied(remark("patient", site.version)),
        Applied(remark("encounter", site.version)),
        Applied(),
        Applied(remark("medication", site.version)),
    ]
    several = (patient, visit, order, drug)
    changed = [{**one, "title": "Prof.", "reason": "x", "instructions": "twice daily"} for one in several]

    def shown() -> list[int]:
        _, *uuids = (site.mapped(one)["uuid"] for one in several)
        counts = (encounter_shown, order_shown, prescription_shown)
        counted = [count(site.clerk, uuid) for count, uuid in zip(counts, uuids, strict=True)]
        return [patient_shown(site.clerk, patient["patient_id"]), *counted]

    assert site.apply(*(event("create", one) for one in several)) == expected
    assert shown() == [1, 1, 1, 1]
    assert site.apply(*(event("update", one) for one in changed)) == expected
    assert shown() == [1, 1, 1, 1]
    assert_verified(site, several, live=4)
    site.apply(*(event("delete", one) for one in several))
    assert shown() == [0, 0, 0, 0]
    assert_verified(site, several, live=0)
    assert site.apply(*(event("create", one) for one in several)) == expected
    assert shown() == [1, 1, 1, 1]
    uuids = tuple(site.mapped(one)["uuid"] for one in several)
    assert site.value("SELECT COUNT(*) FROM uuid_registry WHERE uuid IN %s", uuids) == 4
