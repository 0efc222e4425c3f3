"""target_system fhir: the row is written only if OpenEMR's FHIR API would show it."""

from __future__ import annotations

import pytest

from consumer.outcome import Applied, ErrorClass, Failed
from tests import clinic
from tests.integration.consumer.openemr.sites import Site, event, medication


def test_what_fhir_shows_is_applied(site: Site) -> None:
    """Create, update, no change, delete, and create again."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    drug = medication(patient["patient_id"], encounter_id=visit["encounter_id"])
    for operation, changes in (("create", {}), ("update", {"title": "Dr."}), ("update", {"title": "Dr."})):
        site.put(*({**one, **changes} for one in (patient, visit, drug)), operation=operation, target="fhir")
    for one in (drug, visit, patient):
        site.apply(event("delete", one, target="fhir"))

    site.put(patient, visit, drug, target="fhir")


def test_an_order_is_refused_where_fhir_has_no_service_request(site: Site) -> None:
    """7.0.3: an order without a report is invisible there, whatever is written."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    order = clinic.order(patient["patient_id"], encounter_id=visit["encounter_id"])
    site.put(patient, visit)

    outcome = site.apply(event("create", order, target="fhir"))

    message = "target_system fhir: OpenEMR 7.0.3 has no ServiceRequest (7.0.4 has)"
    assert outcome == [Failed(ErrorClass.NOT_VISIBLE, message) if site.old else Applied()]
    shown = site.rows("SELECT 1 FROM procedure_order WHERE patient_id = %s", site.of(patient)["pid"])
    assert len(shown) == (0 if site.old else 1)


def test_an_invisible_encounter_is_rolled_back_alone(site: Site) -> None:
    """Its calendar category was removed after the writer had read the site; the rest of the batch is done."""
    site.change(
        "INSERT INTO openemr_postcalendar_categories (pc_catid, pc_catname, pc_cattype) VALUES (77, 'Short', 0)"
    )
    patient = clinic.patient()
    guilty = clinic.encounter(patient["patient_id"], category_id=77)
    bystanders = [clinic.encounter(patient["patient_id"]) for _ in range(3)]
    order = clinic.order(patient["patient_id"], encounter_id=guilty["encounter_id"])
    with site.reopened() as one:
        site.change("DELETE FROM openemr_postcalendar_categories WHERE pc_catid = 77")
        batch = [patient, bystanders[0], guilty, *bystanders[1:]]
        outcomes = one.apply(*(event("create", each, target="fhir") for each in batch), event("create", order))

    refused = Failed(ErrorClass.NOT_VISIBLE, "target_system fhir: OpenEMR's FHIR API would not show this encounter")
    assert outcomes[:-1] == [Applied(), Applied(), refused, Applied(), Applied()]
    assert outcomes[-1].__class__.__name__ == "Waiting"
    pid = site.of(patient)["pid"]
    numbers = {site.of(each)["encounter"] for each in bystanders}
    assert {
        row["encounter"] for row in site.rows("SELECT encounter FROM form_encounter WHERE pid = %s", pid)
    } == numbers
    assert {row["encounter"] for row in site.rows("SELECT encounter FROM forms WHERE pid = %s", pid)} == numbers
    sql = f"SELECT 1 FROM {site.ledger}.entity_map WHERE entity_id = %s"
    assert site.rows(sql, guilty["encounter_id"]) == []


def test_a_patient_who_lost_his_registry_row_is_rolled_back_to_what_he_was(site: Site) -> None:
    """Nothing in OpenEMR repairs the registry; target openemr writes the change all the same."""
    patient, other = clinic.patient(), clinic.patient()
    site.put(patient, other)
    site.change("DELETE FROM uuid_registry WHERE uuid = %s", site.of(patient)["uuid"])
    before = site.of(patient)

    outcomes = site.apply(*(event("update", {**one, "title": "Dr."}, target="fhir") for one in (patient, other)))

    refused = Failed(ErrorClass.NOT_VISIBLE, "target_system fhir: OpenEMR's FHIR API would not show this patient")
    assert outcomes == [refused, Applied()]
    assert site.of(patient) == before
    site.put({**patient, "title": "Dr."}, operation="update")
    assert site.of(patient)["title"] == "Dr."


@pytest.mark.parametrize("status", ["active", "completed", "revoked", "on-hold"])
def test_fhir_shows_prescriptions_of_every_status(site: Site, status: str) -> None:
    """Inactive ones as stopped."""
    patient = clinic.patient()
    drug = medication(patient["patient_id"], status=status)

    site.put(patient, drug, target="fhir")


def test_a_number_that_two_encounters_bear_is_not_taken_for_visible(site: Site) -> None:
    """FHIR doubles the orders of such encounters."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    site.put(patient, visit)
    row = site.of(visit)
    site.change("INSERT INTO form_encounter (pid, encounter) VALUES (%s, %s)", row["pid"], row["encounter"])

    error_class, _ = site.refusal({**visit, "reason": "x"}, operation="update", target="fhir")

    assert error_class == "not_visible"
