"""Rules 1 to 7 of a direct-database writer: transactions, keys, uuids, numbers."""

from __future__ import annotations

import dataclasses
import re
import uuid

import pytest

from consumer.openemr import identifiers
from consumer.openemr.identifiers import row_uuid
from consumer.outcome import Applied, Duplicate, ErrorClass, Failed
from consumer.ports import MisconfiguredError
from tests import clinic
from tests.integration.consumer.openemr.sites import Site, event, key_of, medication


def registered(site: Site, uuid_of_row: bytes) -> list[tuple[object, ...]]:
    """Give what the registry says of a uuid."""
    rows = site.rows(
        "SELECT table_name, table_id, table_vertical, couchdb, document_drive, mapped FROM uuid_registry"
        " WHERE uuid = %s",
        uuid_of_row,
    )
    return [tuple(row.values()) for row in rows]


def test_rule_1_record_registry_form_and_map_come_together_or_not_at_all(site: Site) -> None:
    """The registry refuses one encounter of a batch: nothing is left of it, and the others are whole."""
    patient = clinic.patient()
    good, bad = clinic.encounter(patient["patient_id"]), clinic.encounter(patient["patient_id"])
    taken = row_uuid(key_of(bad))
    site.change(
        "INSERT INTO uuid_registry (uuid, table_name, table_id, created) VALUES (%s, 'lists', 'id', NOW())", taken
    )

    outcomes = site.apply(*(event("create", one) for one in (patient, bad, good)))

    reason = "uuid_registry.PRIMARY: is taken (database error 1062)"
    assert outcomes == [Applied(), Failed(ErrorClass.CONFLICT, reason), Applied()]
    pid = site.of(patient)["pid"]
    number = site.of(good)["encounter"]
    assert site.rows("SELECT encounter FROM form_encounter WHERE pid = %s", pid) == [{"encounter": number}]
    assert site.rows("SELECT encounter FROM forms WHERE pid = %s", pid) == [{"encounter": number}]
    entity_id = bad["encounter_id"]
    for table in ("entity_map", "applied_event"):
        assert site.rows(f"SELECT 1 FROM {site.ledger}.{table} WHERE entity_id = %s", entity_id) == []


def test_rule_2_the_same_event_twice_has_one_effect(site: Site) -> None:
    """In one batch, and again later."""
    first = event("create", clinic.patient())

    assert site.apply(first, dataclasses.replace(first)) == [Applied(), Duplicate()]
    assert site.apply(first) == [Duplicate()]
    assert site.rows("SELECT 1 FROM patient_data WHERE pubpid = %s", first.key.entity_id) == [{"1": 1}]


def test_rule_2_our_map_and_not_pubpid_tells_whose_row_it_is(site: Site) -> None:
    """A clerk's patient bears the same external id, and the clerk then changes ours."""
    patient = clinic.patient()
    pid = 1 + site.value("SELECT MAX(pid) FROM patient_data")
    site.change("INSERT INTO patient_data (pid, pubpid, lname) VALUES (%s, %s, 'Clerk')", pid, patient["patient_id"])

    site.put(patient)
    site.change("UPDATE patient_data SET pubpid = 'elsewhere' WHERE uuid = %s", site.mapped(patient)["uuid"])
    site.put({**patient, "given_name": "Grace"}, operation="update")

    clerks = site.row("SELECT lname, fname, uuid FROM patient_data WHERE pid = %s", pid)
    assert clerks == {"lname": "Clerk", "fname": "", "uuid": None}
    assert (site.of(patient)["fname"], site.of(patient)["pubpid"]) == ("Grace", patient["patient_id"])


def test_rule_2_an_encounter_is_found_after_a_clerk_has_emptied_its_external_id(site: Site) -> None:
    """OpenEMR's own form does so whenever a visit is edited."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"], encounter_id=f"E-{uuid.uuid4().hex[:12]}")
    site.put(patient, visit)
    assert site.of(visit)["external_id"] == visit["encounter_id"]
    site.change("UPDATE form_encounter SET external_id = '' WHERE id = %s", site.of(visit)["id"])

    site.put({**visit, "reason": "cough"}, operation="update")

    assert site.rows("SELECT reason FROM form_encounter WHERE pid = %s", site.of(patient)["pid"]) == [
        {"reason": "cough"}
    ]


def test_rule_3_the_uuid_is_in_the_insert_and_no_statement_changes_it(site: Site) -> None:
    """OpenEMR fills in and overwrites what comes without; a uuid that changes is another FHIR resource."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    named = {"encounter_id": visit["encounter_id"]}
    several = [
        patient,
        visit,
        clinic.order(patient["patient_id"], **named),
        medication(patient["patient_id"], **named),
    ]
    with site.statements() as sent:
        site.put(*several)
        before = [site.of(one)["uuid"] for one in several]
        for operation in ("update", "delete", "create"):
            changed = [{**one, "title": "Dr."} for one in several]
            site.apply(*(event(operation, one) for one in changed))

    tables = ("patient_data", "form_encounter", "procedure_order", "prescriptions")
    inserts = [one for one in sent if re.match(rf"INSERT INTO ({'|'.join(tables)}) ", one)]
    assert len(inserts) >= len(tables)
    assert [one for one in inserts if "`uuid`" not in one] == []
    assert [one for one in sent if re.search(r"UPDATE .* SET .*uuid", one) and "entity_map" not in one] == []
    assert [site.of(one)["uuid"] for one in several] == before
    assert before == [row_uuid(key_of(one)) for one in several]
    assert all(uuid.UUID(bytes=one).version == 5 for one in before)


def test_rule_4_the_registry_has_one_row_per_uuid_and_uuid_mapping_is_left_alone(site: Site) -> None:
    """table_id is the name of the id column; re-creation adds no second row."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    named = {"encounter_id": visit["encounter_id"]}
    order = clinic.order(patient["patient_id"], **named)
    drug = medication(patient["patient_id"], **named)
    several = [patient, visit, order, drug]
    site.put(*several)
    site.apply(*(event("delete", one) for one in several))
    site.put(*several)

    rest = ("", "", 0, 0)
    assert registered(site, site.of(patient)["uuid"]) == [("patient_data", "id", *rest)]
    assert registered(site, site.of(visit)["uuid"]) == [("form_encounter", "id", *rest)]
    assert registered(site, site.of(order)["uuid"]) == [("procedure_order", "procedure_order_id", *rest)]
    assert registered(site, site.of(drug)["uuid"]) == [("prescriptions", "id", *rest)]
    assert site.rows("SELECT created FROM uuid_registry WHERE created IS NULL") == []
    assert site.rows("SELECT 1 FROM uuid_registry WHERE uuid = UNHEX(REPEAT('00', 16))") == []
    assert site.rows("SELECT 1 FROM uuid_mapping") == []


def test_rule_5_encounters_and_prescriptions_are_numbered_by_openemrs_sequence(site: Site) -> None:
    """No number is above the sequence, none is given twice, and the sequence never goes back."""
    patient = clinic.patient()
    site.put(patient)
    before = site.value("SELECT id FROM sequences")
    numbers: list[int] = []
    for _ in range(3):
        visit = clinic.encounter(patient["patient_id"])
        drug = medication(patient["patient_id"], encounter_id=visit["encounter_id"])
        site.put(visit, drug)
        numbers += [site.of(visit)["encounter"], site.of(drug)["id"]]
        site.change("UPDATE sequences SET id = LAST_INSERT_ID(id + 1)")
        numbers.append(site.value("SELECT LAST_INSERT_ID()"))

    assert len(numbers) == len(set(numbers))
    assert before < max(numbers) <= site.value("SELECT id FROM sequences")
    assert site.value("SELECT MAX(encounter) FROM form_encounter") <= site.value("SELECT id FROM sequences")


def test_rule_5_prescription_ids_step_over_those_that_openemrs_api_gave_out(site: Site) -> None:
    """Its API takes auto_increment; an upsert by the UI on a number of ours would move a drug to another patient."""
    patient = clinic.patient()
    first, second = (medication(patient["patient_id"]) for _ in range(2))
    site.put(patient, first)
    ahead = site.value("SELECT id FROM sequences") + 250
    site.change(
        "INSERT INTO prescriptions (id, patient_id, drug, txDate, usage_category_title, request_intent_title)"
        " VALUES (%s, 1, 'of a clerk', '2025-01-01', '', '')",
        ahead,
    )

    site.put(second)

    assert site.of(second)["id"] > ahead
    assert site.value("SELECT id FROM sequences") >= site.of(second)["id"]
    assert site.value("SELECT drug FROM prescriptions WHERE id = %s", ahead) == "of a clerk"


def test_rule_5_writers_that_prescribe_in_turn_keep_their_leases(site: Site) -> None:
    """Giving one up for another member's prescription used up 500 numbers each time, and they end at 2³¹."""
    patient = clinic.patient()
    drugs = [medication(patient["patient_id"]) for _ in range(8)]
    with site.reopened() as one, site.reopened() as other:
        one.put(patient)
        before = site.value("SELECT id FROM sequences")
        for number, drug in enumerate(drugs):
            (other if number % 2 else one).put(drug)

    assert site.value("SELECT id FROM sequences") == before + 2 * identifiers.SEQUENCE_LEASE
    ids = [site.of(drug)["id"] for drug in drugs]
    assert ids[2::2] == [ids[0] + 1, ids[0] + 2, ids[0] + 3]
    assert ids[3::2] == [ids[1] + 1, ids[1] + 2, ids[1] + 3]


def test_rule_5_an_id_that_openemrs_api_gave_out_of_our_lease_is_left_to_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its auto_increment goes on after our last prescription; only the ids up to its own are given up, at once."""
    monkeypatch.setattr("consumer.apply.RACES_MAX", 1)
    patient = clinic.patient()
    first, second = (medication(patient["patient_id"]) for _ in range(2))
    with site.reopened() as one:
        one.put(patient, first)
        before = site.value("SELECT id FROM sequences")
        clerks = site.of(first)["id"] + 1
        site.change(
            "INSERT INTO prescriptions (patient_id, drug, txDate, usage_category_title, request_intent_title)"
            " VALUES (1, 'of a clerk', '2025-01-01', '', '')"
        )
        assert site.value("SELECT drug FROM prescriptions WHERE id = %s", clerks) == "of a clerk"
        one.put(second)

    assert site.of(second)["id"] == clerks + 1
    assert site.value("SELECT id FROM sequences") == before


def test_rule_5_a_sequence_at_its_end_is_told_and_not_moved(site: Site) -> None:
    """Each start would else move it on, and OpenEMR's own columns end there too."""
    patient = clinic.patient()
    site.put(patient)
    before = site.value("SELECT id FROM sequences")
    last = identifiers.NUMBER_MAX - 1
    try:
        site.change("UPDATE sequences SET id = %s", last)
        with site.reopened() as one, pytest.raises(MisconfiguredError, match="number in sequences would pass"):
            one.put(clinic.encounter(patient["patient_id"]))
        assert site.value("SELECT id FROM sequences") == last
    finally:
        site.change("UPDATE sequences SET id = %s", before)


def test_rule_5_encounter_numbers_step_over_those_above_the_sequence(site: Site) -> None:
    """A restored or converted site may have a sequence that lags behind."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    ahead = site.value("SELECT id FROM sequences") + 1_000
    site.change("INSERT INTO form_encounter (encounter, pid) VALUES (%s, 1)", ahead)

    with site.reopened() as restarted:
        restarted.put(patient, visit)

    assert ahead < site.of(visit)["encounter"] <= site.value("SELECT id FROM sequences")


def test_rule_6_pids_come_from_a_block_that_openemr_counts_on_from_above(site: Site) -> None:
    """The first patient of a block takes its top; a gap is left for clerks who are about to save."""
    site.change(f"UPDATE {site.ledger}.id_block SET next_id = end_id WHERE name = 'pid'")
    highest = site.value("SELECT MAX(pid) FROM patient_data")
    top, second, third = (clinic.patient() for _ in range(3))

    with site.reopened() as restarted:
        restarted.put(top)
        clerks = 1 + site.value("SELECT MAX(pid) FROM patient_data")
        site.change("INSERT INTO patient_data (pid, lname) VALUES (%s, 'Clerk')", clerks)
        restarted.put(second)
        restarted.put(third)

    assert site.of(top)["pid"] == highest + 101 + 100_000
    assert clerks == site.of(top)["pid"] + 1
    pids = [site.of(one)["pid"] for one in (second, third)]
    assert highest + 100 < pids[0] < pids[1] < site.of(top)["pid"]


def test_rule_6_a_pid_that_a_clerk_took_first_is_left_to_him(site: Site) -> None:
    """The writer takes the next one."""
    first, second = clinic.patient(), clinic.patient()
    with site.reopened() as restarted:
        restarted.put(first)
        taken = site.of(first)["pid"] + 1
        site.change("INSERT INTO patient_data (pid, lname) VALUES (%s, 'Clerk')", taken)
        restarted.put(second)

    assert site.value("SELECT lname FROM patient_data WHERE pid = %s", taken) == "Clerk"
    assert site.of(second)["pid"] not in {taken, site.of(first)["pid"]}


def test_rule_6_writers_side_by_side_never_share_a_pid_or_a_number(site: Site) -> None:
    """Each has its lease."""
    ours = [clinic.patient() for _ in range(6)]
    visits = [clinic.encounter(one["patient_id"]) for one in ours]
    with site.reopened() as other:
        for number, (patient, visit) in enumerate(zip(ours, visits, strict=True)):
            (other if number % 2 else site).put(patient, visit)

    assert len({site.of(one)["pid"] for one in ours}) == 6
    assert len({site.of(one)["encounter"] for one in visits}) == 6


def test_rule_7_no_statement_replaces_or_upserts_a_row_of_openemr(site: Site) -> None:
    """Such a statement overwrites a clerk's row when numbers collide."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    order = clinic.order(patient["patient_id"], encounter_id=visit["encounter_id"])
    drug = medication(patient["patient_id"], encounter_id=visit["encounter_id"])
    several = (patient, visit, order, drug)
    with site.statements() as sent:
        for operation in ("create", "update", "delete", "create"):
            site.apply(*(event(operation, {**one, "title": operation}) for one in several))

    assert [one for one in sent if one.startswith("REPLACE") or "INSERT IGNORE" in one] == []
    assert [one for one in sent if "ON DUPLICATE KEY" in one and f"INSERT INTO {site.ledger}." not in one] == []
    assert [one for one in sent if "DELETE FROM" in one and re.search("patient_data|procedure|prescr|uuid_", one)] == []


def test_rule_7_a_row_that_a_clerk_put_in_the_place_of_ours_is_not_touched(site: Site) -> None:
    """The old patient form replaces by pid: new row, no uuid."""
    patient = clinic.patient()
    site.put(patient)
    pid = site.of(patient)["pid"]
    site.change("REPLACE INTO patient_data (pid, lname) VALUES (%s, 'Clerk')", pid)

    refused = site.refusal({**patient, "given_name": "Grace"}, operation="update")

    gone = "its row is gone from OpenEMR: deleted there, or merged into another patient"
    assert refused == ("conflict", f"patient {patient['patient_id']}: {gone}")
    row = site.row("SELECT lname, fname, pubpid FROM patient_data WHERE pid = %s", pid)
    assert row == {"lname": "Clerk", "fname": "", "pubpid": ""}
