"""Create, update, delete and create again: what OpenEMR shows after each step."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from consumer.outcome import Applied
from tests import clinic
from tests.acceptance import encounter_in_fhir, encounter_shown, order_shown, patient_shown, prescription_shown
from tests.integration.consumer.openemr.sites import Fields, Site, at, event, medication


def patient_with_visit(site: Site) -> tuple[Fields, Fields]:
    """Apply a new patient and his encounter."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    site.put(patient, visit)
    return patient, visit


def test_a_patient_is_shown_hidden_and_shown_again_with_the_same_chart(site: Site) -> None:
    """Numbers and uuid stay for ever: a FHIR client's references do not break."""
    patient = clinic.patient()
    site.put(patient)
    first = site.of(patient)
    assert patient_shown(site.clerk, patient["patient_id"]) == 1
    site.put({**patient, "given_name": "Grace"}, operation="update")
    assert patient_shown(site.clerk, patient["patient_id"]) == 1

    site.delete(patient)
    assert patient_shown(site.clerk, patient["patient_id"]) == 0

    site.put({**patient, "given_name": "Jean"})
    assert patient_shown(site.clerk, patient["patient_id"]) == 1
    again = site.of(patient)
    assert (again["pid"], again["uuid"], again["fname"]) == (first["pid"], first["uuid"], "Jean")
    assert site.mapped(patient)["deleted_at"] is None


def test_an_unchanged_payload_after_a_delete_brings_the_entity_back(site: Site) -> None:
    """What has the same content as before the delete is a change all the same."""
    patient, visit = patient_with_visit(site)
    order = clinic.order(patient["patient_id"], encounter_id=visit["encounter_id"])
    drug = medication(patient["patient_id"], encounter_id=visit["encounter_id"])
    site.put(order, drug)
    for one in (drug, order, visit, patient):
        site.delete(one)

    site.put(patient, visit, order, drug)

    assert patient_shown(site.clerk, patient["patient_id"]) == 1
    assert encounter_shown(site.clerk, site.of(visit)["uuid"]) == 1
    assert order_shown(site.clerk, site.of(order)["uuid"]) == 1
    assert prescription_shown(site.clerk, site.of(drug)["uuid"]) == 1


def test_an_encounter_that_nothing_hangs_on_is_removed_and_made_anew(site: Site) -> None:
    """Row and forms row go, as OpenEMR's own delete does; the new one has the same uuid and a new number."""
    _, visit = patient_with_visit(site)
    first = site.of(visit)
    pid = first["pid"]
    site.put({**visit, "reason": "cough"}, operation="update")
    assert encounter_shown(site.clerk, first["uuid"]) == 1

    assert site.delete(visit) == Applied()
    assert site.rows("SELECT 1 FROM form_encounter WHERE pid = %s", pid) == []
    assert site.rows("SELECT 1 FROM forms WHERE pid = %s", pid) == []
    assert encounter_shown(site.clerk, first["uuid"]) == encounter_in_fhir(site.clerk, first["uuid"]) == 0
    known = site.mapped(visit)
    assert (known["local_id"], known["row_id"], known["uuid"]) == (None, None, first["uuid"])
    assert known["deleted_at"] is not None

    site.put(visit)
    again = site.of(visit)
    assert encounter_shown(site.clerk, again["uuid"]) == 1
    assert again["uuid"] == first["uuid"]
    assert again["encounter"] > first["encounter"]


def hang_form(site: Site, pid: int, number: int) -> None:
    """Record vital signs."""
    site.change("INSERT INTO forms (pid, encounter, form_id, formdir) VALUES (%s, %s, 1, 'vitals')", pid, number)


def hang_bill(site: Site, pid: int, number: int) -> None:
    """Bill a code."""
    site.change("INSERT INTO billing (pid, encounter, activity) VALUES (%s, %s, 1)", pid, number)


def hang_issue(site: Site, pid: int, number: int) -> None:
    """Link a problem."""
    site.change("INSERT INTO issue_encounter (pid, encounter, list_id, resolved) VALUES (%s, %s, 1, 0)", pid, number)


def hang_order(site: Site, pid: int, number: int) -> None:
    """Order a test on OpenEMR's own screen."""
    site.change("INSERT INTO procedure_order (patient_id, encounter_id) VALUES (%s, %s)", pid, number)


def hang_drug(site: Site, pid: int, number: int) -> None:
    """Prescribe on OpenEMR's own screen."""
    site.change(
        "INSERT INTO prescriptions (patient_id, encounter, txDate, usage_category_title, request_intent_title)"
        " VALUES (%s, %s, '2025-01-01', '', '')",
        pid,
        number,
    )


@pytest.mark.parametrize("hang", [hang_form, hang_bill, hang_issue, hang_order, hang_drug])
def test_an_encounter_that_something_hangs_on_is_hidden_and_comes_back(
    site: Site, hang: Callable[[Site, int, int], None]
) -> None:
    """A clinician's work is never orphaned; the outcome says what was done instead."""
    _, visit = patient_with_visit(site)
    first = site.of(visit)
    number, pid = first["encounter"], first["pid"]
    hang(site, pid, number)

    outcome = site.delete(visit)

    hidden = Applied("other rows hang on the encounter in OpenEMR: hidden from the visit list, not removed")
    assert outcome == hidden
    assert encounter_shown(site.clerk, first["uuid"]) == 0
    assert site.of(visit)["id"] == first["id"]
    sql = "SELECT deleted FROM forms WHERE pid = %s AND formdir = 'newpatient'"
    assert site.rows(sql, pid) == [{"deleted": 1}]
    assert site.rows("SELECT 1 FROM forms WHERE pid = %s AND formdir <> 'newpatient' AND deleted = 1", pid) == []
    assert site.delete(visit) == Applied()

    site.put({**visit, "reason": "cough"})
    assert encounter_shown(site.clerk, first["uuid"]) == 1
    assert site.of(visit)["encounter"] == number


def test_what_was_deleted_before_does_not_hold_an_encounter(site: Site) -> None:
    """Inactive rows are nobody's work any more."""
    patient, visit = patient_with_visit(site)
    named = {"encounter_id": visit["encounter_id"]}
    order, drug = clinic.order(patient["patient_id"], **named), medication(patient["patient_id"], **named)
    site.put(order, drug)
    site.change("INSERT INTO billing (pid, encounter, activity) VALUES (%s, %s, 0)", *_place(site, visit))
    uuid_of_visit = site.of(visit)["uuid"]

    site.apply(*(event("delete", one) for one in (visit, order, drug)))

    assert encounter_in_fhir(site.clerk, uuid_of_visit) == 0
    assert site.rows("SELECT 1 FROM form_encounter WHERE uuid = %s", uuid_of_visit) == []


def _place(site: Site, visit: Fields) -> tuple[int, int]:
    return site.of(visit)["pid"], site.of(visit)["encounter"]


def test_an_order_that_comes_back_is_in_its_encounters_new_number(site: Site) -> None:
    """Its old one was removed with the encounter."""
    patient, visit = patient_with_visit(site)
    named = {"encounter_id": visit["encounter_id"]}
    order, drug = clinic.order(patient["patient_id"], **named), medication(patient["patient_id"], **named)
    site.put(order, drug)
    site.apply(*(event("delete", one) for one in (order, drug, visit)))

    site.put(visit, order, drug)

    number = site.of(visit)["encounter"]
    assert (site.of(order)["encounter_id"], site.of(drug)["encounter"]) == (number, number)
    assert order_shown(site.clerk, site.of(order)["uuid"]) == 1
    shown = site.rows(
        "SELECT encounter FROM forms WHERE form_id = %s AND formdir = 'procedure_order'", _id(site, order)
    )
    assert shown == [{"encounter": number}]


def _id(site: Site, order: Fields) -> int:
    known: int = site.mapped(order)["local_id"]
    return known


@pytest.mark.parametrize("kind", ["laboratory", "imaging", "procedure"])
def test_an_order_is_shown_hidden_and_shown_again(site: Site, kind: str) -> None:
    """Inactive and with its form deleted, as OpenEMR's own delete leaves it."""
    patient, visit = patient_with_visit(site)
    order = clinic.order(patient["patient_id"], encounter_id=visit["encounter_id"], kind=kind)
    site.put(order)
    first = site.of(order)
    assert order_shown(site.clerk, first["uuid"]) == 1
    site.put({**order, "status": "completed"}, operation="update")
    assert order_shown(site.clerk, first["uuid"]) == 1

    assert site.delete(order) == Applied()
    assert order_shown(site.clerk, first["uuid"]) == 0
    assert site.of(order)["activity"] == 0
    sql = "SELECT deleted FROM forms WHERE form_id = %s AND formdir = 'procedure_order'"
    assert site.rows(sql, first["procedure_order_id"]) == [{"deleted": 1}]
    assert len(site.rows("SELECT 1 FROM procedure_order_code WHERE procedure_order_id = %s", _id(site, order))) == 1
    assert site.mapped(order)["deleted_at"] is not None

    site.put({**order, "priority": "urgent"})
    assert order_shown(site.clerk, first["uuid"]) == 1
    assert site.of(order)["procedure_order_id"] == first["procedure_order_id"]
    assert site.rows(sql, first["procedure_order_id"]) == [{"deleted": 0}]


def test_an_order_without_an_encounter_is_in_fhir_and_asks_to_be_attached(site: Site) -> None:
    """No forms row: there is no encounter to list it in."""
    patient = clinic.patient()
    order = clinic.order(patient["patient_id"])
    site.put(patient, order)

    assert (site.of(order)["encounter_id"], site.of(order)["activity"]) == (0, 1)
    assert site.rows("SELECT 1 FROM forms WHERE pid = %s", site.of(patient)["pid"]) == []
    assert site.delete(order) == Applied()
    site.put({**order, "status": "completed"})
    assert site.of(order)["activity"] == 1


def test_a_deleted_prescription_is_stopped_and_a_new_state_makes_it_live(site: Site) -> None:
    """FHIR says stopped for what is inactive, and reads the change from date_modified."""
    patient, visit = patient_with_visit(site)
    drug = medication(patient["patient_id"], encounter_id=visit["encounter_id"])
    site.put(drug)
    first = site.of(drug)
    assert prescription_shown(site.clerk, first["uuid"]) == 1
    site.change("UPDATE prescriptions SET date_modified = '2001-01-01' WHERE id = %s", first["id"])

    assert site.delete(drug) == Applied()
    stopped = site.of(drug)
    assert (stopped["active"], stopped["end_date"], stopped["drug"]) == (0, None, "aspirin 100 mg")
    assert stopped["date_modified"] > at("2001-01-01")
    assert prescription_shown(site.clerk, first["uuid"]) == 0

    site.put({**drug, "dosage": "2"})
    assert prescription_shown(site.clerk, first["uuid"]) == 1
    assert site.of(drug)["id"] == first["id"]


def test_a_delete_of_what_never_came_leaves_a_mark_and_a_later_create_is_written(site: Site) -> None:
    """Of every kind, the medication order too, whose kind a delete does not tell."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    drug = medication(patient["patient_id"], encounter_id=visit["encounter_id"])
    order = clinic.order(patient["patient_id"], encounter_id=visit["encounter_id"])
    several = (patient, visit, drug, order)

    assert site.apply(*(event("delete", one) for one in several)) == [Applied()] * 4
    assert [site.mapped(one)["local_id"] for one in several] == [None] * 4

    site.put(*several)
    assert site.of(drug)["active"] == 1
    assert site.of(order)["activity"] == 1
    assert site.value("SELECT COUNT(*) FROM uuid_registry WHERE uuid IN (%s, %s)", *_uuids(site, drug, order)) == 2


def _uuids(site: Site, *several: Fields) -> list[bytes]:
    return [site.mapped(one)["uuid"] for one in several]


def test_create_update_and_delete_in_one_batch_leave_the_last_state(site: Site) -> None:
    """Folded: the row is written once, or not at all."""
    kept, gone = clinic.patient(), clinic.patient()
    events = [
        event("create", kept),
        event("create", gone),
        event("delete", kept),
        event("delete", gone),
        event("create", {**kept, "given_name": "Jean"}),
    ]

    assert site.apply(*events) == [Applied()] * 5
    assert site.of(kept)["fname"] == "Jean"
    assert site.rows("SELECT 1 FROM patient_data WHERE pubpid LIKE %s", f"%{gone['patient_id']}") == []
