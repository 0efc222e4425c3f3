"""What `where` says in words, for every place a record can be."""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid

import pytest

from connectors.connect_client import ConnectorStatus, TaskStatus
from connectors.outbox import EntityType, Status
from consumer.openemr import encounter, order, patient, prescription
from operations.parts import Unavailable
from operations.where import AppliedEvent, BusinessRow, Ledger, Mapped, OutboxRow, Source, WaitingEvent, Way
from operations.where_words import in_words

AT = dt.datetime(2025, 3, 1, 9, 30, tzinfo=dt.UTC)
OUTBOX_ID = uuid.UUID("0190a5b0-0000-7000-8000-000000000001")
OPENEMR_UUID = uuid.UUID("9d2a8c1e-0000-4000-8000-000000000007")
ROW = OutboxRow(
    outbox_id=OUTBOX_ID,
    seq=41,
    entity_type=EntityType.PATIENT,
    operation="update",
    target_system="openemr",
    status=Status.PENDING,
    outcome=None,
    retry_count=0,
    next_attempt_at=None,
    error_class=None,
    error_message=None,
    created_at=AT,
    processed_at=None,
)
MAPPED = Mapped(EntityType.PATIENT, "patient", 123, OPENEMR_UUID, None, 40, AT, None)
APPLIED = AppliedEvent(OUTBOX_ID, EntityType.PATIENT, 41, "update", "openemr", "applied", None, AT)
WAITING = WaitingEvent(OUTBOX_ID, EntityType.ENCOUNTER, 41, EntityType.PATIENT, "P-7", AT)
NAME = "update of patient, seq 41"
PENDING = f"in the outbox, not yet applied: {NAME}"
LOOK = "see whether a consumer runs (`emrsync status`)"
DOWN = Unavailable("Connection refused")
EMPTY = Ledger((), (), ())
RUNS = ConnectorStatus("emrsync-outbox", "RUNNING", "w1", (TaskStatus(0, "RUNNING", "w1"),))
FAILED = ConnectorStatus(
    "emrsync-outbox", "RUNNING", "w1", (TaskStatus(0, "FAILED", "w1", trace="java.io.IOException: gone"),)
)


def way(*rows: OutboxRow, ledger: Ledger | Unavailable = EMPTY, connector: ConnectorStatus | None = None) -> Way:
    """Build what was read of patient P-1."""
    business = (BusinessRow(EntityType.PATIENT, "patient_cache", None),)
    return Way("P-1", Source(business, rows), ledger, connector)


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (
            way(ROW, connector=RUNS),
            f"{PENDING}: the connector runs, so it is in Kafka or about to be: {LOOK}",
        ),
        (
            way(ROW, connector=FAILED),
            f"{PENDING}: not yet in Kafka, perhaps: task 0 failed on w1: java.io.IOException: gone",
        ),
        (
            way(ROW, ledger=Ledger((MAPPED,), (APPLIED,), ())),
            "in OpenEMR, not yet marked in the outbox: update of patient, seq 41",
        ),
        (
            way(
                dataclasses.replace(
                    ROW,
                    status=Status.FAILED,
                    error_class="too_long",
                    error_message="given_name: is too long",
                    retry_count=1,
                    next_attempt_at=AT,
                )
            ),
            f"failed: {NAME}: too_long: given_name: is too long (attempt 1; next attempt {AT.isoformat()})",
        ),
        (
            way(
                dataclasses.replace(
                    ROW,
                    status=Status.FAILED,
                    error_class="conflict",
                    error_message="patient_id: differs",
                    retry_count=1,
                )
            ),
            f"failed: {NAME}: conflict: patient_id: differs (attempt 1; a person may: `emrsync retry one OUTBOX_ID`)",
        ),
        (
            way(
                dataclasses.replace(
                    ROW,
                    status=Status.PROCESSING,
                    outcome="retrying",
                    error_class="too_long",
                    error_message="given_name: is too long",
                    retry_count=2,
                )
            ),
            f"being tried again: {NAME}: too_long: given_name: is too long (attempt 3)",
        ),
        (
            way(
                dataclasses.replace(ROW, entity_type=EntityType.ENCOUNTER, status=Status.PROCESSING),
                ledger=Ledger(
                    (), (), (WaitingEvent(OUTBOX_ID, EntityType.ENCOUNTER, 41, EntityType.PATIENT, "P-7", AT),)
                ),
            ),
            "waiting: update of encounter, seq 41: for patient P-7, since 2025-03-01T09:30:00+00:00",
        ),
        (
            way(dataclasses.replace(ROW, status=Status.DONE), ledger=Ledger((MAPPED,), (APPLIED,), ())),
            f"in OpenEMR as patient pid 123, uuid {OPENEMR_UUID}, state of seq 40",
        ),
        (
            way(ledger=Ledger((dataclasses.replace(MAPPED, kind="medication", deleted_at=AT),), (), ())),
            "deleted in OpenEMR at 2025-03-01T09:30:00+00:00 (was prescription 123), by seq 40",
        ),
        (
            way(),
            "a row in patient_cache, but no event in the outbox: the application has recorded none, or it was cleared",
        ),
        (
            way(ROW, ledger=Unavailable("Connection refused")),
            "OpenEMR's database could not be asked: Connection refused",
        ),
    ],
    ids=[
        "pending",
        "connector down",
        "not marked",
        "failed",
        "given up",
        "retrying",
        "waiting",
        "done",
        "deleted",
        "no event",
        "target down",
    ],
)
def test_each_place_has_its_words(read: Way, said: str) -> None:
    """One line per fact, the reason with it."""
    assert said in in_words(read)


@pytest.mark.parametrize(
    ("kind", "known_by"),
    [
        (patient.KIND, "patient pid 123"),
        (encounter.KIND, "encounter 123"),
        (order.KIND, "procedure order 123"),
        (prescription.KIND, "prescription 123"),
    ],
)
def test_a_record_is_named_as_openemr_names_it(kind: str, known_by: str) -> None:
    """The number alone could be of any table."""
    mapped = dataclasses.replace(MAPPED, kind=kind)

    assert in_words(way(ledger=Ledger((mapped,), (), ())))[-1].startswith(f"in OpenEMR as {known_by}, uuid")


def test_what_is_done_is_not_told_event_by_event() -> None:
    """The newest state is in the line about OpenEMR."""
    done = dataclasses.replace(ROW, status=Status.DONE)

    assert len(in_words(way(done, done, ledger=Ledger((MAPPED,), (), ())))) == 1


@pytest.mark.parametrize(
    ("ledger", "said"),
    [(EMPTY, "P-1 is not known"), (Unavailable("down"), "P-1 is not known to the systems that answered")],
    ids=["all answered", "one did not"],
)
def test_an_unknown_id_is_called_unknown_only_as_far_as_was_asked(ledger: Ledger | Unavailable, said: str) -> None:
    """A database that is down may know it."""
    read = Way("P-1", Source((), ()), ledger, None)

    assert not read.known
    assert in_words(read)[-1] == said


@pytest.mark.parametrize("source", [DOWN, Source((), ())], ids=["source down", "row gone"])
def test_what_only_waits_is_known_without_its_row(source: Source | Unavailable) -> None:
    """The ledger has the event, and names what it waits for."""
    read = Way("E-1", source, Ledger((), (), (WAITING,)), None)

    assert read.known
    assert list(in_words(read))[-2:] == [
        f"waiting: event of encounter, seq 41: for patient P-7, since {AT.isoformat()}",
        "not in OpenEMR",
    ]
