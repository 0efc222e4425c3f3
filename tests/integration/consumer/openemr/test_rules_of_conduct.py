"""Rules 14 to 20 of a direct-database writer: order, updates, conflicts, authorship, audit, locks."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa

from connectors.events import EntityKey
from connectors.outbox import EntityType
from consumer.openemr.identifiers import row_uuid
from consumer.outcome import Applied, ErrorClass, Failed, Waiting
from consumer.ports import TransientError
from tests import clinic
from tests.acceptance import patient_shown
from tests.integration.consumer.openemr.clerks import REPOINTED
from tests.integration.consumer.openemr.sites import Fields, Site, at, event, key_of, medication

LONG_AGO = at("2001-01-01")
GONE = "its row is gone from OpenEMR: deleted there, or merged into another patient"


def whole_patient(site: Site) -> tuple[Fields, Fields, Fields, Fields]:
    """Apply a patient, an encounter, a laboratory order and a medication order in it."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    named = {"encounter_id": visit["encounter_id"]}
    order, drug = clinic.order(patient["patient_id"], **named), medication(patient["patient_id"], **named)
    site.put(patient, visit, order, drug)
    return patient, visit, order, drug


def test_rule_14_a_child_waits_for_its_patient_and_nothing_is_written_for_pid_0(site: Site) -> None:
    """OpenEMR would take pid 0 without a word."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    missing = Waiting(EntityKey(EntityType.PATIENT, patient["patient_id"]))
    children = (visit, clinic.order(patient["patient_id"]), medication(patient["patient_id"]))
    with site.statements() as sent:
        outcomes = site.apply(*(event("create", one) for one in children))

    assert outcomes == [missing] * 3
    assert [one for one in sent if one.startswith("INSERT INTO") and site.ledger not in one] == []
    assert site.rows("SELECT 1 FROM form_encounter WHERE pid = 0") == []


def test_rule_14_an_order_waits_for_the_encounter_it_names(site: Site) -> None:
    """And is then in it."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    order = clinic.order(patient["patient_id"], encounter_id=visit["encounter_id"])
    site.put(patient)
    waiting = event("create", order)

    assert site.apply(waiting) == [Waiting(EntityKey(EntityType.ENCOUNTER, visit["encounter_id"]))]
    assert site.apply(event("create", visit), waiting) == [Applied(), Applied()]
    assert site.of(order)["encounter_id"] == site.of(visit)["encounter"]


def test_rule_14_a_batch_in_any_order_is_written_parents_first(site: Site) -> None:
    """Children came over faster partitions."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    named = {"encounter_id": visit["encounter_id"]}
    order, drug = clinic.order(patient["patient_id"], **named), medication(patient["patient_id"], **named)

    site.put(drug, order, visit, patient)

    assert site.of(order)["patient_id"] == site.of(drug)["patient_id"] == site.of(patient)["pid"]
    assert site.of(drug)["encounter"] == site.of(visit)["encounter"]


def test_rule_15_an_update_leaves_a_clerks_other_columns_and_says_who_and_when(site: Site) -> None:
    """Of two who change the same column the later one wins; ours are the mapped ones."""
    patient, *_ = whole_patient(site)
    pid = site.of(patient)["pid"]
    site.change(
        "UPDATE patient_data SET occupation = 'baker', providerID = 3, hipaa_mail = 'YES', fname = 'Typo',"
        " updated_by = 1, date = %s, dupscore = 7 WHERE pid = %s",
        LONG_AGO,
        pid,
    )

    site.put({**patient, "given_name": "Grace", "title": "Dr."}, operation="update")

    row = site.of(patient)
    assert (row["occupation"], row["providerID"], row["hipaa_mail"], row["dupscore"]) == ("baker", 3, "YES", 7)
    assert (row["fname"], row["title"], row["pid"]) == ("Grace", "Dr.", pid)
    assert row["updated_by"] == row["created_by"] == 2
    assert row["date"] > LONG_AGO


def test_rule_15_an_update_of_visits_and_orders_leaves_other_columns(site: Site) -> None:
    """Billing notes, laboratory numbers, refills filled, and what a prescription is for."""
    _, visit, order, drug = whole_patient(site)
    site.change(
        "UPDATE form_encounter SET billing_note = 'paid', supervisor_id = 1 WHERE id = %s", site.of(visit)["id"]
    )
    order_id = site.of(order)["procedure_order_id"]
    site.change("UPDATE procedure_order SET lab_id = 9, control_id = 'L-1' WHERE procedure_order_id = %s", order_id)
    site.change("UPDATE procedure_order_code SET do_not_send = 1 WHERE procedure_order_id = %s", order_id)
    inward = {"usage_category": "inpatient", "usage_category_title": "Inpatient", "request_intent": "plan"}
    clerks = {"pharmacy_id": 8, "drug_id": 5, "updated_by": 1, **inward, "request_intent_title": "Plan"}
    sets = ", ".join(f"{name} = %s" for name in clerks)
    site.change(f"UPDATE prescriptions SET {sets} WHERE id = %s", *clerks.values(), site.of(drug)["id"])

    changes: list[Fields] = [{**visit, "reason": "cough"}, {**order, "status": "completed"}, {**drug, "dosage": "2"}]
    site.put(*changes, operation="update")

    assert (site.of(visit)["billing_note"], site.of(visit)["supervisor_id"]) == ("paid", 1)
    assert (site.of(order)["lab_id"], site.of(order)["control_id"]) == (9, "L-1")
    sql = "SELECT do_not_send FROM procedure_order_code WHERE procedure_order_id = %s"
    assert site.value(sql, order_id) == 1
    assert {name: site.of(drug)[name] for name in clerks} == {**clerks, "updated_by": 2}
    assert (site.of(visit)["reason"], site.of(order)["order_status"], site.of(drug)["dosage"]) == (
        "cough",
        "complete",
        "2",
    )


def test_rule_15_an_update_that_changes_nothing_leaves_no_trace(site: Site) -> None:
    """FHIR's _lastUpdated stays honest; the event is settled all the same."""
    patient, visit, order, drug = whole_patient(site)
    for one, column in ((patient, "date"), (drug, "date_modified")):
        table = "patient_data" if one is patient else "prescriptions"
        site.change(f"UPDATE {table} SET {column} = %s WHERE uuid = %s", LONG_AGO, site.of(one)["uuid"])
    for table, column in (("patient_data", "last_updated"), ("form_encounter", "last_update")):
        site.change(f"UPDATE {table} SET {column} = %s WHERE pid = %s", LONG_AGO, site.of(patient)["pid"])
    before = [site.of(one) for one in (patient, visit, order, drug)]
    assert before[0]["last_updated"] == before[1]["last_update"] == LONG_AGO
    last = event("update", patient)

    site.put(visit, order, drug, operation="update")
    assert site.apply(last) == [Applied()]

    assert [site.of(one) for one in (patient, visit, order, drug)] == before
    assert site.mapped(patient)["last_seq"] == last.seq


def test_rule_15_a_change_moves_openemrs_own_time_stamps(site: Site) -> None:
    """They follow by themselves, in the site's local time."""
    patient, visit, *_ = whole_patient(site)
    for table, column in (("patient_data", "last_updated"), ("form_encounter", "last_update")):
        site.change(f"UPDATE {table} SET {column} = %s WHERE pid = %s", LONG_AGO, site.of(patient)["pid"])

    site.put({**patient, "given_name": "Grace"}, {**visit, "reason": "cough"}, operation="update")

    with site.target._connection.begin():
        now = site.target._connection.exec_driver_sql("SELECT NOW()").scalar_one()
    assert abs(site.of(patient)["last_updated"] - now) < dt.timedelta(minutes=1)
    # A TIMESTAMP is an instant, and shown in the zone of whoever asks.
    age = "SELECT ABS(TIMESTAMPDIFF(SECOND, last_update, NOW())) FROM form_encounter WHERE pid = %s"
    assert site.value(age, site.of(patient)["pid"]) < 60


def test_rule_16_a_deleted_patient_keeps_the_chart_and_loses_the_external_id(site: Site) -> None:
    """OpenEMR has no such state, and a hard delete is never ours to do; twice is as once."""
    patient, visit, *_ = whole_patient(site)
    pid = site.of(patient)["pid"]
    kept = Applied("the chart stays in OpenEMR, without its external id")
    with site.statements() as sent:
        assert site.delete(patient) == kept
        assert site.delete(patient) == Applied()

    row = site.of(patient)
    assert (row["pid"], row["pubpid"], row["lname"]) == (pid, f"deleted:{patient['patient_id']}", clinic.FAMILY_NAME)
    assert patient_shown(site.clerk, patient["patient_id"]) == 0
    assert site.of(visit)["pid"] == pid
    assert [one for one in sent if one.startswith("DELETE")] == []
    assert site.apply(event("update", {**visit, "reason": "x"})) == [
        Waiting(EntityKey(EntityType.PATIENT, patient["patient_id"]), deleted=True)
    ]


def remove_as_a_merge_does(site: Site, patient: Fields, into: Fields) -> None:
    """Delete a patient's row and give all he has to another."""
    source, target = site.of(patient)["pid"], site.of(into)["pid"]
    for table, column in REPOINTED:
        site.change(f"UPDATE {table} SET {column} = %s WHERE {column} = %s", target, source)
    site.change("DELETE FROM patient_data WHERE pid = %s", source)


def test_rule_17_a_patient_that_a_clerk_merged_away_is_a_conflict_for_him_and_his_children(site: Site) -> None:
    """Nothing is created anew; others of the batch are done, and a delete has nothing left to do."""
    patient, visit, order, drug = whole_patient(site)
    other = clinic.patient()
    site.put(other)
    remove_as_a_merge_does(site, patient, other)
    rows_before = site.value("SELECT COUNT(*) FROM patient_data")

    changed: list[Fields] = [{**one, "title": "Dr."} for one in (patient, visit, order, drug)]
    new_visit, bystander = clinic.encounter(patient["patient_id"]), {**other, "title": "Dr."}
    outcomes = site.apply(*(event("update", one) for one in (*changed, new_visit, bystander)))

    orphan = Failed(ErrorClass.CONFLICT, f"patient_id: {GONE}")
    assert outcomes == [
        Failed(ErrorClass.CONFLICT, f"patient {patient['patient_id']}: {GONE}"),
        *[orphan] * 4,
        Applied(),
    ]
    assert site.value("SELECT COUNT(*) FROM patient_data") == rows_before
    assert site.rows("SELECT 1 FROM patient_data WHERE pubpid = %s", patient["patient_id"]) == []
    assert site.of(visit)["pid"] == site.of(other)["pid"]
    assert site.delete(patient) == Applied()
    assert site.mapped(patient)["local_id"] is None


@pytest.mark.parametrize("index", [1, 2, 3])
def test_rule_17_a_row_that_a_clerk_deleted_is_a_conflict(site: Site, index: int) -> None:
    """Of an encounter, an order, a prescription; by deleter.php."""
    one = whole_patient(site)[index]
    known = site.mapped(one)
    table = {1: "form_encounter", 2: "procedure_order", 3: "prescriptions"}[index]
    site.change(f"DELETE FROM {table} WHERE uuid = %s", known["uuid"])

    error_class, message = site.refusal({**one, "instructions": "x", "reason": "x"}, operation="update")

    key = key_of(one)
    assert (error_class, message) == ("conflict", f"{key.entity_type} {key.entity_id}: {GONE}")
    assert site.rows(f"SELECT 1 FROM {table} WHERE uuid = %s", known["uuid"]) == []
    assert site.mapped(one) == known


def test_rule_17_an_order_whose_encounter_a_clerk_deleted_is_a_conflict(site: Site) -> None:
    """The order's own row is there, but it would point nowhere."""
    _, visit, order, _ = whole_patient(site)
    site.change("DELETE FROM form_encounter WHERE uuid = %s", site.of(visit)["uuid"])

    refused = site.refusal({**order, "status": "completed"}, operation="update")

    assert refused == ("conflict", f"encounter_id: {GONE}")


@pytest.mark.parametrize("index", [1, 2, 3])
def test_rule_17_an_entity_does_not_move_to_another_patient(site: Site, index: int) -> None:
    """Its forms, results and bills would stay behind."""
    one = whole_patient(site)[index]
    other = clinic.patient()
    site.put(other)
    without_visit = {} if index == 1 else {"encounter_id": None}

    refused = site.refusal({**one, "patient_id": other["patient_id"], **without_visit}, operation="update")

    assert refused == ("conflict", "patient_id: differs from the patient this was created for")


def test_rule_17_an_order_does_not_change_between_medication_and_others(site: Site) -> None:
    """They are rows of two tables."""
    _, _, order, drug = whole_patient(site)

    for one, other in ((order, drug), (drug, order)):
        refused = site.refusal({**other, "order_id": one["order_id"]}, operation="update")

        assert refused == ("conflict", "kind: differs from what this order was created as")


def test_rule_18_rows_name_the_writers_own_user(site: Site) -> None:
    """The forms rows by name, the others by id."""
    patient, _, _, drug = whole_patient(site)

    users = site.rows("SELECT DISTINCT user, groupname, authorized FROM forms WHERE pid = %s", site.of(patient)["pid"])
    assert users == [{"user": "emrsync", "groupname": "Default", "authorized": 1}]
    for row in (site.of(patient), site.of(drug)):
        assert (row["created_by"], row["updated_by"]) == (2, 2)


def test_rule_19_the_ledger_tells_which_event_did_what_and_when(site: Site) -> None:
    """OpenEMR's own audit log does not see us."""
    patient = clinic.patient()
    events = [event("create", patient), event("update", {**patient, "title": "Dr."}), event("delete", patient)]
    for one in events:
        site.apply(one)

    rows = site.rows(
        f"SELECT outbox_id, seq, operation, target_system, outcome, detail, applied_at > UTC_TIMESTAMP() - INTERVAL 1"
        f" MINUTE AND applied_at <= UTC_TIMESTAMP(6) AS lately FROM {site.ledger}.applied_event"
        " WHERE entity_type = 'patient' AND entity_id = %s ORDER BY seq",
        patient["patient_id"],
    )
    details = (None, None, "the chart stays in OpenEMR, without its external id")
    assert [tuple(row.values()) for row in rows] == [
        (one.outbox_id.bytes, one.seq, one.operation.value, "openemr", "applied", detail, 1)
        for one, detail in zip(events, details, strict=True)
    ]


def test_rule_20_a_clerk_opens_an_encounter_while_our_transaction_is_open(site: Site) -> None:
    """The sequence's row is held for its own statement only."""
    patient = clinic.patient()
    site.put(patient)
    visits = [event("create", clinic.encounter(patient["patient_id"])) for _ in range(120)]
    site.change("SET innodb_lock_wait_timeout = 1")
    taken: list[int] = []

    def clerk(_connection: object) -> None:
        site.change("UPDATE sequences SET id = LAST_INSERT_ID(id + 1)")
        taken.append(site.value("SELECT LAST_INSERT_ID()"))

    sa.event.listen(site.target._connection, "commit", clerk)
    try:
        assert site.apply(*visits) == [Applied()] * 120
    finally:
        sa.event.remove(site.target._connection, "commit", clerk)
        site.change("SET innodb_lock_wait_timeout = DEFAULT")

    assert len(taken) == 1
    assert site.rows("SELECT 1 FROM form_encounter WHERE encounter = %s", taken[0]) == []


def test_rule_20_tables_are_written_in_one_order(site: Site) -> None:
    """Patient, encounter, order; a clerk who goes the same way never deadlocks with us."""
    with site.statements() as sent:
        whole_patient(site)

    tables = [one.split()[2] for one in sent if one.startswith("INSERT INTO") and site.ledger not in one]
    first = [table for place, table in enumerate(tables) if table not in tables[:place] and table != "procedure_type"]
    assert first == [
        "patient_data",
        "uuid_registry",
        "form_encounter",
        "forms",
        "prescriptions",
        "procedure_order",
        "procedure_order_code",
    ]


def test_rule_20_a_row_that_a_clerk_holds_delays_the_batch_and_charges_no_event(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is left behind, also not in memory: the compendium gets the new code at the next try."""
    patient, visit, order, _ = whole_patient(site)
    named = {"encounter_id": visit["encounter_id"]}
    coded = {"system": "LOINC", "code": row_uuid(key_of(order)).hex()[:20], "display": "New"}
    batch = [
        event("create", clinic.order(patient["patient_id"], code=coded, **named)),
        event("update", {**order, "code": coded}),
    ]
    order_id = site.of(order)["procedure_order_id"]
    monkeypatch.setattr("consumer.openemr.session.LOCK_WAIT_TIMEOUT_S", 1)
    monkeypatch.setattr("consumer.apply.RACES_MAX", 1)
    line = "procedure_order_id = %s AND procedure_order_seq = 1"  # the whole key, so that no gap is locked
    with site.reopened() as one:
        site.change("BEGIN")
        try:
            site.change(f"UPDATE procedure_order_code SET do_not_send = 1 WHERE {line}", order_id)
            with pytest.raises(TransientError):
                one.apply(*batch)
        finally:
            site.change("ROLLBACK")

        assert one.apply(*batch) == [Applied(), Applied()]

    sql = "SELECT COUNT(*) FROM procedure_type WHERE procedure_code = %s"
    assert site.value(sql, f"LOINC:{coded['code']}") == 1
