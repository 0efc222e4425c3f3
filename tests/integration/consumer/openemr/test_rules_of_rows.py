"""Rules 8 to 11 of a direct-database writer: what makes up an encounter, an order, a prescription."""

from __future__ import annotations

import datetime as dt
import uuid

import pytest

from consumer.outcome import Applied
from tests import clinic
from tests.acceptance import encounter_shown, order_shown, prescription_shown
from tests.integration.consumer.openemr.sites import Fields, Site, at, event, medication

FORM = "form_name, formdir, deleted, therapy_group_id, user, groupname, authorized, date, pid, encounter, form_id"
STARTED = at("2025-02-28 19:30:00")
"""Of the made-up encounters, in New York."""


def own_code() -> str:
    """Give a code that no other test orders."""
    return uuid.uuid4().hex[:20]


def forms(site: Site, pid: int) -> list[tuple[object, ...]]:
    """Give a patient's forms rows."""
    rows = site.rows(f"SELECT {FORM} FROM forms WHERE pid = %s ORDER BY id", pid)
    return [tuple(row.values()) for row in rows]


def patient_with_visit(site: Site) -> tuple[Fields, Fields]:
    """Apply a new patient and his encounter."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    site.put(patient, visit)
    return patient, visit


def test_rule_8_an_encounter_is_its_row_and_its_forms_row(site: Site) -> None:
    """Without the exact forms row it is on no visit list."""
    patient, visit = patient_with_visit(site)

    row, pid = site.of(visit), site.of(patient)["pid"]
    common = ("New Patient Encounter", "newpatient", 0, None, "emrsync", "Default", 1)
    assert forms(site, pid) == [(*common, STARTED, pid, row["encounter"], row["id"])]
    assert {name: row[name] for name in ("pid", "date", "sensitivity", "pc_catid", "class_code")} == {
        "pid": pid,
        "date": STARTED,
        "sensitivity": "normal",
        "pc_catid": 5,
        "class_code": "AMB",
    }
    assert (row["facility"], row["facility_id"], row["billing_facility"]) == ("Your Clinic Name Here", 3, 3)
    assert (row["provider_id"], row["reason"]) == (0, "")
    assert site.mapped(visit)["local_id"] == row["encounter"]
    assert site.mapped(visit)["row_id"] == row["id"]
    assert encounter_shown(site.clerk, row["uuid"]) == 1


def test_rule_8_the_forms_row_follows_the_encounters_start(site: Site) -> None:
    """Both are on screen."""
    patient, visit = patient_with_visit(site)

    site.put({**visit, "started_at": "2025-03-02T12:00:00Z"}, operation="update")

    moved = at("2025-03-02 07:00:00")
    assert [row[7] for row in forms(site, site.of(patient)["pid"])] == [moved]
    assert site.of(visit)["date"] == moved


def test_rule_8_an_encounter_that_the_visit_list_has_lost_comes_back_with_the_next_state(site: Site) -> None:
    """A merge or a repair may take the row of `forms` along; FHIR would go on showing the encounter, and no screen."""
    patient, visit = patient_with_visit(site)
    before = forms(site, site.of(patient)["pid"])
    site.change("DELETE FROM forms WHERE pid = %s", site.of(patient)["pid"])
    assert encounter_shown(site.clerk, site.of(visit)["uuid"]) == 0

    site.put({**visit, "reason": "cough"}, operation="update")

    assert encounter_shown(site.clerk, site.of(visit)["uuid"]) == 1
    assert forms(site, site.of(patient)["pid"]) == before
    site.put({**visit, "reason": "cold"}, operation="update")
    assert forms(site, site.of(patient)["pid"]) == before


def test_rule_9_an_order_is_its_row_its_one_line_and_its_forms_row(site: Site) -> None:
    """In the encounter it names, as OpenEMR's screens and FHIR read it."""
    patient, visit = patient_with_visit(site)
    order = clinic.order(
        patient["patient_id"],
        encounter_id=visit["encounter_id"],
        order_id=f"O-{uuid.uuid4().hex[:16]}",
        provider_npi="1234567893",
        instructions="fasting",
        diagnosis_codes=["ICD10:E11.9", "ICD10:I10"],
        code={"system": "http://loinc.org", "code": own_code(), "display": "Glucose"},
    )
    site.put(order)

    row, pid, number = site.of(order), site.of(patient)["pid"], site.of(visit)["encounter"]
    order_id = row["procedure_order_id"]
    common = ("Procedure Order", "procedure_order", 0, None, "emrsync", "Default", 1)
    ordered = at("2025-03-01 05:00:00")
    assert forms(site, pid)[1:] == [(*common, ordered, pid, number, order_id)]
    assert (row["patient_id"], row["encounter_id"], row["activity"], row["lab_id"]) == (pid, number, 1, 0)
    assert (row["provider_id"], row["date_ordered"], row["order_status"]) == (3, ordered, "pending")
    assert (row["procedure_order_type"], row["patient_instructions"]) == ("laboratory_test", "fasting")
    assert (row["external_id"], row["control_id"]) == (order["order_id"], "")
    line = site.row("SELECT * FROM procedure_order_code WHERE procedure_order_id = %s", order_id)
    assert (line["procedure_order_seq"], line["procedure_code"]) == (1, f"LOINC:{order['code']['code']}")
    assert (line["procedure_name"], line["diagnoses"]) == ("Glucose", "ICD10:E11.9;ICD10:I10")
    assert (line["procedure_order_title"], line["procedure_type"]) == ("laboratory_test", "laboratory_test")
    assert (line["procedure_source"], line["do_not_send"]) == ("1", 0)
    assert order_shown(site.clerk, row["uuid"]) == 1


@pytest.mark.parametrize(
    ("kind", "order_type"), [("laboratory", "laboratory_test"), ("imaging", "imaging"), ("procedure", "procedure")]
)
def test_rule_9_order_and_line_say_what_kind_it_is(site: Site, kind: str, order_type: str) -> None:
    """FHIR's category comes from the order, its DiagnosticReport from the line's title."""
    patient, visit = patient_with_visit(site)
    order = clinic.order(patient["patient_id"], encounter_id=visit["encounter_id"], kind=kind)
    site.put(order)

    row = site.of(order)
    line = site.row("SELECT * FROM procedure_order_code WHERE procedure_order_id = %s", row["procedure_order_id"])
    assert row["procedure_order_type"] == order_type
    assert (line["procedure_order_title"], line["procedure_type"]) == (order_type, order_type)


def test_rule_9_two_orders_of_one_second_and_code_are_two_orders(site: Site) -> None:
    """OpenEMR's FHIR API shows only the first line of an order."""
    patient, visit = patient_with_visit(site)
    named = {"encounter_id": visit["encounter_id"]}
    orders = [clinic.order(patient["patient_id"], **named) for _ in range(2)]
    site.put(*orders)

    assert len({site.of(one)["procedure_order_id"] for one in orders}) == 2
    assert [order_shown(site.clerk, site.of(one)["uuid"]) for one in orders] == [1, 1]


def test_rule_9_an_order_follows_the_encounter_it_names(site: Site) -> None:
    """Into another, out of all, and back; a forms row may not point where the order does not."""
    patient, first = patient_with_visit(site)
    second = clinic.encounter(patient["patient_id"])
    order = clinic.order(patient["patient_id"], encounter_id=first["encounter_id"])
    site.put(second, order)
    pid = site.of(patient)["pid"]

    def where() -> tuple[int, list[int]]:
        shown = site.rows(
            "SELECT encounter FROM forms WHERE pid = %s AND formdir = 'procedure_order' AND deleted = 0", pid
        )
        return site.of(order)["encounter_id"], [row["encounter"] for row in shown]

    into, back = site.of(second)["encounter"], site.of(first)["encounter"]
    site.put({**order, "encounter_id": second["encounter_id"]}, operation="update")
    assert where() == (into, [into])
    site.put({**order, "encounter_id": None}, operation="update")
    assert where() == (0, [])
    site.put(order, operation="update")
    assert where() == (back, [back])


def test_rules_8_and_9_forms_of_other_kinds_with_the_same_number_are_not_touched(site: Site) -> None:
    """form_id is the number of a row in the form's own table, and tables count for themselves."""
    patient, visit = patient_with_visit(site)
    order = clinic.order(patient["patient_id"], encounter_id=visit["encounter_id"])
    site.put(order)
    pid, number = site.of(patient)["pid"], site.of(visit)["encounter"]
    ids = (site.of(visit)["id"], site.of(order)["procedure_order_id"])
    insert = "INSERT INTO forms (pid, encounter, form_id, formdir, date, deleted) VALUES (%s, %s, %s, %s, %s, 1)"
    for form_id in ids:
        site.change(insert, pid, number, form_id, "vitals", at("2001-01-01"))
    sql = "SELECT * FROM forms WHERE pid = %s AND formdir = 'vitals'"
    before = site.rows(sql, pid)

    site.put({**visit, "reason": "cough"}, {**order, "status": "completed"}, operation="update")
    site.apply(event("delete", order), event("delete", visit))
    site.put(visit, order)

    assert site.rows(sql, pid) == before


def test_rule_9_a_line_that_a_clinicians_save_dropped_comes_back_with_the_next_state(site: Site) -> None:
    """Without a line the order is on no list and in no FHIR answer."""
    patient, visit = patient_with_visit(site)
    order = clinic.order(patient["patient_id"], encounter_id=visit["encounter_id"])
    site.put(order)
    row = site.of(order)
    site.change("DELETE FROM procedure_order_code WHERE procedure_order_id = %s", row["procedure_order_id"])
    site.change("UPDATE procedure_order SET activity = 0 WHERE procedure_order_id = %s", row["procedure_order_id"])
    assert order_shown(site.clerk, row["uuid"]) == 0

    site.put({**order, "status": "completed"}, operation="update")

    assert order_shown(site.clerk, row["uuid"]) == 1


def compendium(site: Site, code: str) -> list[tuple[object, ...]]:
    """Give the compendium's entries of a code, as the order form looks them up."""
    rows = site.rows(
        "SELECT procedure_code, name, description, procedure_type, lab_id, activity, parent = procedure_type_id"
        " FROM procedure_type WHERE procedure_code = %s AND lab_id = 0",
        code,
    )
    return [tuple(row.values()) for row in rows]


def test_rule_10_an_ordered_code_is_in_the_compendium_once(site: Site) -> None:
    """Else the order form's first save drops the line; another writer, or a restart, adds no second entry."""
    patient, visit = patient_with_visit(site)
    named = {"encounter_id": visit["encounter_id"]}
    code = own_code()
    coded = {"system": "LOINC", "code": code, "display": "Glucose"}
    site.put(*(clinic.order(patient["patient_id"], code=coded, **named) for _ in range(3)))
    site.put(clinic.order(patient["patient_id"], code=coded, **named))
    with site.reopened() as restarted:
        restarted.put(clinic.order(patient["patient_id"], code=coded, **named))

    assert compendium(site, f"LOINC:{code}") == [(f"LOINC:{code}", "Glucose", "Glucose", "ord", 0, 1, 1)]


def test_rule_10_codes_that_differ_in_case_have_one_entry(site: Site) -> None:
    """The form's look-up ignores case, and two hits would show the line twice."""
    patient, visit = patient_with_visit(site)
    named = {"encounter_id": visit["encounter_id"]}
    code = f"a{own_code()[1:]}"
    orders = [
        clinic.order(patient["patient_id"], code={"system": "LOINC", "code": one, "display": "Glucose"}, **named)
        for one in (code, code.upper())
    ]
    site.put(*orders)
    with site.reopened() as restarted:
        restarted.put(
            clinic.order(
                patient["patient_id"], code={"system": "loinc", "code": code.title(), "display": "Glucose"}, **named
            )
        )

    assert len(compendium(site, f"LOINC:{code}")) == 1
    lines = [
        site.value(
            "SELECT procedure_code FROM procedure_order_code WHERE procedure_order_id = %s",
            site.of(one)["procedure_order_id"],
        )
        for one in orders
    ]
    assert lines == [f"LOINC:{code}", f"LOINC:{code.upper()}"]


def test_rule_10_an_entry_of_the_sites_own_is_left_as_it_is(site: Site) -> None:
    """The laboratory's people name their tests."""
    patient, visit = patient_with_visit(site)
    code = own_code()
    site.change(
        "INSERT INTO procedure_type (procedure_code, name, procedure_type, lab_id, parent)"
        " VALUES (%s, 'Own', 'ord', 0, 0)",
        f"LOINC:{code}",
    )
    coded = {"system": "LOINC", "code": code, "display": "Glucose"}
    site.put(clinic.order(patient["patient_id"], encounter_id=visit["encounter_id"], code=coded))

    assert compendium(site, f"LOINC:{code}") == [(f"LOINC:{code}", "Own", "", "ord", 0, 1, 0)]


def test_rule_10_a_long_name_is_shortened_in_the_compendiums_label_only(site: Site) -> None:
    """The order's line holds it whole."""
    patient, visit = patient_with_visit(site)
    code, name = own_code(), "å" * 200
    coded = {"system": "LOINC", "code": code, "display": name}
    order = clinic.order(patient["patient_id"], encounter_id=visit["encounter_id"], code=coded)
    site.put(order)

    assert compendium(site, f"LOINC:{code}") == [(f"LOINC:{code}", "å" * 62 + "…", name, "ord", 0, 1, 1)]
    line = site.row(
        "SELECT procedure_name FROM procedure_order_code WHERE procedure_order_id = %s",
        site.of(order)["procedure_order_id"],
    )
    assert line == {"procedure_name": name}


def test_rule_11_a_prescription_has_its_date_both_titles_and_its_encounter(site: Site) -> None:
    """These columns have no default, and FHIR's lastUpdated is date_modified."""
    patient, visit = patient_with_visit(site)
    drug = medication(
        patient["patient_id"],
        encounter_id=visit["encounter_id"],
        order_id=f"M-{uuid.uuid4().hex[:16]}",
        ordered_at="2025-03-02T03:00:00Z",
        drug="amoxicillin 500 mg",
        rxnorm="308182",
        dosage=1,
        quantity=30,
        refills=2,
        route="3",
        form="2",
        instructions="twice a day",
        provider_npi="1234567893",
        start_date="2025-03-02",
    )
    site.put(drug)

    row = site.of(drug)
    wanted = {
        "patient_id": site.of(patient)["pid"],
        "encounter": site.of(visit)["encounter"],
        "provider_id": 3,
        "txDate": dt.date(2025, 3, 1),
        "date_added": at("2025-03-01 22:00:00"),
        "start_date": dt.date(2025, 3, 2),
        "end_date": None,
        "drug": "amoxicillin 500 mg",
        "drug_id": 0,
        "rxnorm_drugcode": "308182",
        "dosage": "1",
        "quantity": "30",
        "refills": 2,
        "route": "3",
        "form": 2,
        "active": 1,
        "usage_category": "outpatient",
        "usage_category_title": "Outpatient",
        "request_intent": "order",
        "request_intent_title": "Order",
        "drug_dosage_instructions": "twice a day",
        "note": None,
        "external_id": drug["order_id"],
        "created_by": 2,
        "updated_by": 2,
    }
    assert {name: row[name] for name in wanted} == wanted
    assert prescription_shown(site.clerk, row["uuid"]) == 1


def test_rule_11_diagnoses_of_a_prescription_are_kept_where_openemr_has_a_column(site: Site) -> None:
    """Since 7.0.4; before, the outcome says what was left out."""
    patient = clinic.patient()
    drug = medication(patient["patient_id"], diagnosis_codes=["ICD10:J02.9", "ICD10:I10"])
    site.put(patient)

    outcome = site.apply(event("create", drug))

    left_out = "diagnosis_codes: this version of OpenEMR has no column for it"
    assert outcome == [Applied(left_out if site.old else None)]
    assert site.of(drug).get("diagnosis") == (None if site.old else "ICD10:J02.9;ICD10:I10")


def test_rule_11_the_priority_of_a_prescription_is_told_to_have_no_column(site: Site) -> None:
    """OpenEMR's prescriptions have none."""
    patient = clinic.patient()
    site.put(patient)

    outcome = site.apply(event("create", medication(patient["patient_id"], priority="urgent")))

    assert outcome == [Applied("priority: this version of OpenEMR has no column for it")]


def test_rule_11_every_change_of_a_prescription_sets_date_modified(site: Site) -> None:
    """Nothing else tells FHIR that it changed."""
    patient = clinic.patient()
    drug = medication(patient["patient_id"])
    site.put(patient, drug)
    long_ago = at("2001-01-01")
    for change in (
        event("update", {**drug, "dosage": "2"}),
        event("delete", drug),
        event("create", {**drug, "dosage": "3"}),
    ):
        site.change("UPDATE prescriptions SET date_modified = %s WHERE id = %s", long_ago, site.of(drug)["id"])

        assert site.apply(change) == [Applied()]
        assert site.of(drug)["date_modified"] > long_ago
        assert site.of(drug)["created_by"] == 2


@pytest.mark.parametrize(
    ("status", "active", "end_date"),
    [
        ("active", 1, None),
        ("completed", 1, dt.date(2025, 3, 1)),
        ("revoked", 0, None),
        ("on-hold", 0, None),
        ("draft", 0, None),
    ],
)
def test_rule_11_a_prescriptions_status_is_told_by_active_and_end_date(
    site: Site, status: str, active: int, end_date: dt.date | None
) -> None:
    """OpenEMR has no other column for it: active without end is active, with end completed, else stopped."""
    patient = clinic.patient()
    drug = medication(patient["patient_id"], status=status)
    site.put(patient, drug)

    assert (site.of(drug)["active"], site.of(drug)["end_date"]) == (active, end_date)


def test_rule_11_titles_are_the_sites_own_whatever_they_hold(site: Site) -> None:
    """Sites rename options."""
    title = 'Patient\'s 100% \\ "own"'
    where = "WHERE list_id = 'medication-usage-category' AND option_id = 'outpatient'"
    site.change(f"UPDATE list_options SET title = %s {where}", title)
    patient = clinic.patient()
    drug = medication(patient["patient_id"])
    try:
        with site.reopened() as restarted:
            restarted.put(patient, drug)
            restarted.put({**drug, "dosage": "2"}, operation="update")
    finally:
        site.change(f"UPDATE list_options SET title = 'Outpatient' {where}")

    assert site.of(drug)["usage_category_title"] == title
