"""Rows written by plain SQL after the contract arrive in OpenEMR, and their outcome in the outbox."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.outbox import EntityType, Operation, TargetSystem
from producer_app.bootstrap import build
from producer_app.config import AppSettings
from producer_app.services import create_patient
from tests import acceptance
from tests import clinic as made_up
from tests.e2e.clinic_chain import Chain, Row
from tests.e2e.members import Member, member, wait_for

PATIENT, ENCOUNTER, ORDER = EntityType.PATIENT, EntityType.ENCOUNTER, EntityType.ORDER


def _uuid(clinic: Chain, entity_id: str) -> bytes:
    found = clinic.scalar("SELECT uuid FROM emr_sync.entity_map WHERE entity_id = %s", entity_id)
    assert isinstance(found, bytes)
    return found


@pytest.mark.parametrize("target", list(TargetSystem))
def test_a_patient_with_encounter_and_orders_is_shown_by_openemr(
    clinic: Chain, consumer: Member, target: TargetSystem
) -> None:
    """The children are written first, so that they have to wait for their parents on the way."""
    patient = made_up.patient()
    encounter = made_up.encounter(patient["patient_id"])
    laboratory = made_up.order(patient["patient_id"], encounter_id=encounter["encounter_id"])
    medication = {
        **made_up.order(patient["patient_id"], encounter_id=encounter["encounter_id"], kind="medication"),
        "drug": "Amoxicillin 250 MG",
    }
    del medication["code"]
    ids = [patient["patient_id"], encounter["encounter_id"], laboratory["order_id"], medication["order_id"]]

    clinic.write(
        Row(ORDER, medication, target=target),
        Row(ORDER, laboratory, target=target),
        Row(ENCOUNTER, encounter, target=target),
        Row(PATIENT, patient, target=target),
    )
    rows = clinic.wait_settled(ids)

    assert [(row["status"], row["outcome"], row["error_message"]) for row in rows] == [("done", "applied", None)] * 4
    assert all(row["processed_at"] >= row["created_at"] for row in rows)
    with clinic.openemr.connect() as connection:
        assert acceptance.patient_shown(connection, patient["patient_id"]) == 1
        assert acceptance.encounter_shown(connection, _uuid(clinic, encounter["encounter_id"])) == 1
        assert acceptance.order_shown(connection, _uuid(clinic, laboratory["order_id"])) == 1
        assert acceptance.prescription_shown(connection, _uuid(clinic, medication["order_id"])) == 1


def test_what_is_deleted_is_no_longer_shown(clinic: Chain, consumer: Member) -> None:
    """Create → update → delete of every entity, children deleted first as an application does."""
    patient = made_up.patient()
    encounter = made_up.encounter(patient["patient_id"])
    order = made_up.order(patient["patient_id"], encounter_id=encounter["encounter_id"])
    ids = [patient["patient_id"], encounter["encounter_id"], order["order_id"]]
    entities = [(PATIENT, patient), (ENCOUNTER, encounter), (ORDER, order)]

    clinic.write(*(Row(kind, payload) for kind, payload in entities))
    clinic.wait_settled(ids)
    clinic.write(*(Row(kind, payload, Operation.UPDATE) for kind, payload in entities))
    clinic.write(*(Row(kind, payload, Operation.DELETE) for kind, payload in reversed(entities)))
    rows = clinic.wait_settled(ids)

    assert [(row["status"], row["outcome"]) for row in rows] == [("done", "applied")] * 9
    with clinic.openemr.connect() as connection:
        assert acceptance.patient_shown(connection, patient["patient_id"]) == 0
        assert acceptance.encounter_shown(connection, _uuid(clinic, encounter["encounter_id"])) == 0
        assert acceptance.order_shown(connection, _uuid(clinic, order["order_id"])) == 0


def test_an_encounter_whose_patient_is_missing_waits_then_fails_with_that_reason_and_is_applied_when_it_comes(
    clinic: Chain, tmp_path: Path
) -> None:
    """Nothing is stuck: the failed row is taken up by itself."""
    patient = made_up.patient()
    encounter = made_up.encounter(patient["patient_id"])

    with member({**clinic.variables, "EMRSYNC_PARENT_WAIT_SECONDS": "2"}, tmp_path / "consumer.log"):
        clinic.write(Row(ENCOUNTER, encounter))
        wait_for(lambda: clinic.states([encounter["encounter_id"]])[0]["status"] == "processing", 30, lambda: "")
        (row,) = clinic.wait_settled([encounter["encounter_id"]])

        assert (row["status"], row["error_class"], row["retry_count"]) == ("failed", "parent_missing", 1)
        assert f"patient {patient['patient_id']} is not in OpenEMR yet" in row["error_message"]

        clinic.write(Row(PATIENT, patient))
        row = clinic.wait_done(encounter["encounter_id"])
        assert (row["status"], row["outcome"], row["error_message"]) == ("done", "applied", None)


def test_only_the_guilty_event_of_a_batch_fails(clinic: Chain, consumer: Member) -> None:
    """One name is too long, one option unknown; the message names the field and never the value."""
    good = [made_up.patient() for _ in range(200)]
    too_long = made_up.patient(family_name=made_up.FAMILY_NAME * 30)
    unknown = made_up.patient(race="Quillfeatherish")
    everyone = [*good[:100], too_long, unknown, *good[100:]]

    clinic.write(*(Row(PATIENT, payload) for payload in everyone))
    rows = {row["entity_id"]: row for row in clinic.wait_settled([payload["patient_id"] for payload in everyone])}

    failed = {key: (row["error_class"], row["error_message"]) for key, row in rows.items() if row["status"] == "failed"}
    assert {
        too_long["patient_id"]: (
            "too_long",
            "family_name: has 360 characters, OpenEMR's patient_data.lname holds 255",
        ),
        unknown["patient_id"]: (
            "unknown_option",
            (
                "race: is no option of OpenEMR's list race, which has decline_to_specify, amer_ind_or_alaska_native,"
                " Asian, black_or_afri_amer, native_hawai_or_pac_island, white, other_race"
            ),
        ),
    } == failed
    assert made_up.FAMILY_NAME not in consumer.log


def test_status_updates_produce_no_record(clinic: Chain, consumer: Member) -> None:
    """The publication carries inserts only."""
    patient = made_up.patient()
    before = clinic.topic_records("emrsync.patient")

    clinic.write(Row(PATIENT, patient))
    clinic.wait_settled([patient["patient_id"]])
    marker = made_up.patient()
    clinic.write(Row(PATIENT, marker))
    clinic.wait_settled([marker["patient_id"]])

    assert before + 2 == clinic.topic_records("emrsync.patient")


def test_the_business_row_tells_when_openemr_got_it(clinic: Chain, consumer: Member) -> None:
    """last_synced_at is written in the transaction that marks the outbox row."""
    application = build(AppSettings.read(app_url=clinic.variables["EMRSYNC_APP_URL"]))
    try:
        recorded = create_patient(application.unit_of_work(), made_up.patient())
    finally:
        application.close()
    (row,) = clinic.wait_settled([recorded.entity_id])

    with clinic.source.connect() as connection:
        synced = connection.exec_driver_sql(
            "SELECT last_synced_at FROM patient_cache WHERE patient_id = %s", (recorded.entity_id,)
        ).scalar()
    assert row["processed_at"] == synced
