"""One effect per event, whatever Kafka delivers and whoever is killed."""

from __future__ import annotations

import contextlib
import time
import uuid
from pathlib import Path

import sqlalchemy as sa

from connectors.outbox import EntityType, Operation
from tests import clinic as made_up
from tests.e2e.clinic_chain import Chain, Row
from tests.e2e.members import Member, member, wait_for

PATIENT = EntityType.PATIENT
BACKLOG = 4_000


def test_an_event_delivered_again_and_after_later_ones_changes_nothing(clinic: Chain, consumer: Member) -> None:
    """Ten more deliveries of the first state after the second one."""
    patient = made_up.patient(given_name="First")
    (first,) = clinic.write(Row(PATIENT, patient))
    clinic.wait_settled([patient["patient_id"]])
    clinic.write(Row(PATIENT, {**patient, "given_name": "Second"}, Operation.UPDATE))
    clinic.wait_settled([patient["patient_id"]])

    clinic.redeliver(first, times=10)
    marker = made_up.patient(patient_id=patient["patient_id"], given_name="Third")
    clinic.write(Row(PATIENT, marker, Operation.UPDATE))
    rows = clinic.wait_settled([patient["patient_id"]])

    assert [(row["status"], row["outcome"], row["retry_count"]) for row in rows] == [("done", "applied", 0)] * 3
    count = "SELECT COUNT(*) FROM patient_data WHERE pubpid = %s"
    assert clinic.scalar(count, patient["patient_id"]) == 1
    assert clinic.scalar("SELECT fname FROM patient_data WHERE pubpid = %s", patient["patient_id"]) == "Third"


def test_a_backlog_survives_a_member_killed_in_its_middle(clinic: Chain, tmp_path: Path) -> None:
    """After a restart every row is done, no row is double, and every uuid is registered once."""
    run = uuid.uuid4().hex[:12]
    patients = [made_up.patient(patient_id=f"P-{run}-{number}") for number in range(BACKLOG)]
    ids = [patient["patient_id"] for patient in patients]
    with member(clinic.variables, tmp_path / "killed.log") as killed:
        clinic.write(*(Row(PATIENT, patient) for patient in patients))
        mapped = "SELECT COUNT(*) FROM emr_sync.entity_map WHERE entity_id LIKE %s"
        wait_for(lambda: clinic.scalar(mapped, f"P-{run}-%") > 0, 60, lambda: killed.log)
        killed.kill()
    at_kill = clinic.scalar(mapped, f"P-{run}-%")

    with member(clinic.variables, tmp_path / "restarted.log"):
        rows = clinic.wait_settled(ids, limit_s=120)

    assert 0 < at_kill < BACKLOG
    assert {"done"} == {row["status"] for row in rows}
    assert [row["retry_count"] for row in rows] == [0] * BACKLOG
    like = f"P-{run}-%"
    assert clinic.scalar("SELECT COUNT(*) FROM patient_data WHERE pubpid LIKE %s", like) == BACKLOG
    assert clinic.scalar("SELECT COUNT(DISTINCT pubpid) FROM patient_data WHERE pubpid LIKE %s", like) == BACKLOG
    registered = "SELECT COUNT(*) FROM patient_data p JOIN uuid_registry r ON r.uuid = p.uuid WHERE p.pubpid LIKE %s"
    assert clinic.scalar(registered, like) == BACKLOG


def test_two_members_share_the_work(clinic: Chain, tmp_path: Path) -> None:
    """Each owns partitions, and together they apply every event once."""
    with (
        member(clinic.variables, tmp_path / "one.log") as one,
        member(clinic.variables, tmp_path / "two.log") as two,
    ):
        wait_for(lambda: '"action": "revoked"' in one.log, 30, lambda: one.log + two.log)
        patients = [made_up.patient() for _ in range(500)]
        encounters = [made_up.encounter(patient["patient_id"]) for patient in patients]
        clinic.write(
            *(Row(PATIENT, patient) for patient in patients),
            *(Row(EntityType.ENCOUNTER, encounter) for encounter in encounters),
        )
        ids = [patient["patient_id"] for patient in patients] + [one["encounter_id"] for one in encounters]
        rows = clinic.wait_settled(ids)

    assert {("done", 0)} == {(row["status"], row["retry_count"]) for row in rows}


def test_a_member_told_to_stop_leaves_the_group_at_once(clinic: Chain, consumer: Member) -> None:
    """SIGTERM: the batch in hand is settled, offsets are committed, exit code 0, well within 10 s."""
    patients = [made_up.patient() for _ in range(1_000)]
    clinic.write(*(Row(PATIENT, patient) for patient in patients))

    code, seconds = consumer.terminate()

    assert code == 0
    assert seconds < 10
    assert '"action": "stopped"' in consumer.log


def test_a_member_whose_connections_are_cut_goes_on_by_itself_and_charges_no_event(
    clinic: Chain, consumer: Member
) -> None:
    """Every connection of the writer and of the marker, while it works."""
    patients = [made_up.patient() for _ in range(2_000)]
    clinic.write(*(Row(PATIENT, patient) for patient in patients))
    account = "SELECT id FROM information_schema.processlist WHERE user = 'emrsync_writer'"
    cut_marker = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s"
    marker = sa.make_url(clinic.variables["EMRSYNC_SOURCE_URL"]).username
    for _ in range(3):
        with clinic.openemr.connect() as connection:
            for (number,) in connection.exec_driver_sql(account).all():
                with contextlib.suppress(sa.exc.OperationalError):  # it went by itself
                    connection.exec_driver_sql(f"KILL {number}")
        with clinic.source.connect() as connection:
            connection.exec_driver_sql(cut_marker, (marker,))
        time.sleep(0.2)
    rows = clinic.wait_settled([patient["patient_id"] for patient in patients])

    assert {("done", 0)} == {(row["status"], row["retry_count"]) for row in rows}
    assert '"action": "paused"' in consumer.log
    assert '"action": "resumed"' in consumer.log
    assert "Traceback" not in consumer.log


def test_a_record_that_is_no_event_is_parked_with_its_reason_and_holds_up_nothing(
    clinic: Chain, consumer: Member
) -> None:
    """A tombstone and a record without headers, with the same key as a good one behind them."""
    before = clinic.topic_records("emrsync.dead-letter")
    patient = made_up.patient()
    clinic.produce("emrsync.patient", patient["patient_id"], None, [])
    clinic.produce("emrsync.patient", patient["patient_id"], b"\xff\x00", [("id", b"\xff")])

    clinic.write(Row(PATIENT, patient))
    (row,) = clinic.wait_settled([patient["patient_id"]])

    assert row["status"] == "done"
    assert before + 2 == clinic.topic_records("emrsync.dead-letter")
    assert "value: is absent (a tombstone)" in consumer.log
