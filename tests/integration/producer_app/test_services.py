"""Each service function in one transaction: business row and outbox rows, both or neither."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
import sqlalchemy as sa

from connectors.outbox import EntityType, TargetSystem
from producer_app import services, views
from producer_app.bootstrap import Application
from producer_app.errors import AlreadyExistsError, DeletedError, InvalidChangeError, NotFoundError, StorageError
from tests import clinic
from tests.integration.producer_app.conftest import Inspection

YEAR = dt.datetime.now(tz=dt.UTC).year


def test_create_update_delete_of_each_entity(application: Application, inspection: Inspection) -> None:
    """The whole life of three entities, parents first and last."""
    uow = application.unit_of_work()
    patient = clinic.patient()
    encounter = clinic.encounter(patient["patient_id"])
    order = clinic.order(patient["patient_id"], encounter_id=encounter["encounter_id"])

    services.create_patient(uow, patient)
    services.create_encounter(uow, encounter)
    services.create_order(uow, order)
    services.update_patient(uow, patient["patient_id"], {**patient, "given_name": "Eve"})
    services.update_encounter(uow, encounter["encounter_id"], {**encounter, "class_code": "EMER"})
    services.update_order(uow, order["order_id"], {**order, "status": "completed"})
    services.delete_order(uow, order["order_id"])
    services.delete_encounter(uow, encounter["encounter_id"])
    services.delete_patient(uow, patient["patient_id"])

    rows = inspection.outbox()
    assert [(row["entity_type"], row["operation"]) for row in rows] == [
        ("patient", "create"),
        ("encounter", "create"),
        ("order", "create"),
        ("patient", "update"),
        ("encounter", "update"),
        ("order", "update"),
        ("order", "delete"),
        ("encounter", "delete"),
        ("patient", "delete"),
    ]
    assert json.loads(rows[3]["payload"]) == {**patient, "given_name": "Eve"}
    assert json.loads(rows[8]["payload"]) == {**patient, "given_name": "Eve"}
    shown = views.entity_view(application.engine, EntityType.PATIENT, patient["patient_id"])
    assert shown.deleted_at is not None
    assert shown.state["given_name"] == "Eve"


def test_an_update_replaces_the_whole_state(application: Application, inspection: Inspection) -> None:
    """A field that is not in it any more is gone."""
    uow = application.unit_of_work()
    patient = clinic.patient(email="ada@example.org")
    services.create_patient(uow, patient)
    del patient["email"]

    services.update_patient(uow, patient["patient_id"], patient)

    assert json.loads(inspection.outbox()[-1]["payload"]) == patient
    shown = views.entity_view(application.engine, EntityType.PATIENT, patient["patient_id"])
    assert shown.state == patient


@pytest.mark.parametrize("statement", ["INSERT INTO sync_outbox", "COMMIT"])
def test_a_failure_after_the_business_row_keeps_neither(
    application: Application, inspection: Inspection, statement: str
) -> None:
    """The connection fails between the two inserts, or at commit."""
    patient = clinic.patient()

    def fail(*_arguments: Any) -> None:
        raise sa.exc.DataError("", {}, Exception("the disk is full"))

    def fail_at_outbox(_connection: Any, _cursor: Any, sql: str, *_arguments: Any) -> None:
        if sql.startswith(statement):
            assert inspection.business_rows() == 0
            fail()

    if statement == "COMMIT":
        sa.event.listen(application.engine, "commit", fail)
    else:
        sa.event.listen(application.engine, "before_cursor_execute", fail_at_outbox)

    with pytest.raises(StorageError):
        services.create_patient(application.unit_of_work(), patient)

    assert (inspection.business_rows(), inspection.outbox()) == (0, [])


def test_a_second_creation_of_an_id_is_refused(application: Application, inspection: Inspection) -> None:
    """Also when the first was deleted: ids are never used twice."""
    uow = application.unit_of_work()
    patient = clinic.patient()
    services.create_patient(uow, patient)
    with pytest.raises(AlreadyExistsError, match=patient["patient_id"]) as caught:
        services.create_patient(uow, patient)
    services.delete_patient(uow, patient["patient_id"])
    with pytest.raises(AlreadyExistsError):
        services.create_patient(uow, patient)

    assert clinic.FAMILY_NAME not in str(caught.value)
    assert [row["operation"] for row in inspection.outbox()] == ["create", "delete"]


@pytest.mark.parametrize("entity_id", ["P-2025-999999", "", "a\0b", "x" * 101, " P"])
def test_an_unknown_entity_is_not_found(application: Application, entity_id: str) -> None:
    """Whatever the id looks like: no database error comes of it."""
    with pytest.raises(NotFoundError):
        services.update_patient(application.unit_of_work(), "P-2025-999999", clinic.patient(patient_id=None))
    with pytest.raises(NotFoundError):
        services.delete_patient(application.unit_of_work(), entity_id)
    with pytest.raises(NotFoundError):
        views.entity_view(application.engine, EntityType.PATIENT, entity_id)


def test_a_deleted_entity_cannot_be_changed(application: Application, inspection: Inspection) -> None:
    """Its delete is the last event."""
    uow = application.unit_of_work()
    patient = clinic.patient()
    services.create_patient(uow, patient)
    services.delete_patient(uow, patient["patient_id"])

    with pytest.raises(DeletedError):
        services.update_patient(uow, patient["patient_id"], patient)
    with pytest.raises(DeletedError):
        services.delete_patient(uow, patient["patient_id"])

    assert [row["operation"] for row in inspection.outbox()] == ["create", "delete"]


def test_what_a_change_refers_to_must_exist_undeleted(application: Application, inspection: Inspection) -> None:
    """It need not have been synced: that is the consumer's matter."""
    uow = application.unit_of_work()
    patient = clinic.patient()
    services.create_patient(uow, patient)
    order = clinic.order(patient["patient_id"])

    with pytest.raises(InvalidChangeError, match="patient_id: no such patient"):
        services.create_encounter(uow, clinic.encounter("P-2025-999999"))
    with pytest.raises(InvalidChangeError, match="encounter_id: no such encounter"):
        services.create_order(uow, {**order, "encounter_id": "E-2025-999999"})
    services.create_order(uow, order)
    services.delete_patient(uow, patient["patient_id"])
    with pytest.raises(InvalidChangeError, match="patient_id: no such patient, or it was deleted"):
        services.update_order(uow, order["order_id"], order)
    services.delete_order(uow, order["order_id"])

    assert [row["operation"] for row in inspection.outbox()] == ["create", "create", "delete", "delete"]
    assert inspection.business_rows() == 2


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ("{", "payload"),
        ("[]", "payload"),
        (b"\xff", "payload"),
        (clinic.patient(birth_date="1980"), "birth_date"),
        (clinic.patient(nick_name="A"), "nick_name"),
        (clinic.patient(patient_id=7), "patient_id"),
    ],
    ids=["syntax", "list", "bytes", "date", "unknown", "id"],
)
def test_invalid_input_names_the_field_and_writes_nothing(
    application: Application, inspection: Inspection, payload: Any, field: str
) -> None:
    """Not even an id is spent."""
    with pytest.raises(InvalidChangeError) as caught:
        services.create_patient(application.unit_of_work(), payload)

    assert [error.field for error in caught.value.fields] == [field]
    assert (inspection.business_rows(), inspection.outbox()) == (0, [])


def test_an_update_with_another_id_in_the_payload_is_refused(application: Application) -> None:
    """The row that is locked and the row that is written would be two."""
    with pytest.raises(InvalidChangeError, match="patient_id: differs"):
        services.update_patient(application.unit_of_work(), "P-2025-000001", clinic.patient())


def test_an_instant_outside_of_the_calendar_is_refused(application: Application) -> None:
    """Midnight of year 1, one hour east of Greenwich, is in the year before."""
    uow = application.unit_of_work()
    patient_id = services.create_patient(uow, clinic.patient()).entity_id

    with pytest.raises(InvalidChangeError, match="started_at: is out of range"):
        services.create_encounter(uow, clinic.encounter(patient_id, started_at="0001-01-01T00:00:00+01:00"))


def test_targets_are_those_of_the_unit_of_work_or_of_the_call(application: Application, inspection: Inspection) -> None:
    """One outbox row each, in order."""
    uow = application.unit_of_work()
    patient = clinic.patient()

    services.create_patient(uow, patient)
    done = services.update_patient(uow, patient["patient_id"], patient, targets=tuple(TargetSystem))

    rows = inspection.outbox()
    assert [row["target_system"] for row in rows] == ["openemr", "openemr", "fhir"]
    assert [row["outbox_id"] for row in rows[1:]] == list(done.outbox_ids)


def test_ids_are_given_out_by_type_and_year(application: Application) -> None:
    """The caller brings none; each type counts for itself."""
    uow = application.unit_of_work()

    first = services.create_patient(uow, clinic.patient(patient_id=None)).entity_id
    second = services.create_patient(uow, json.dumps(clinic.patient(patient_id=None))).entity_id
    encounter = services.create_encounter(uow, clinic.encounter(first, encounter_id=None)).entity_id
    order = services.create_order(uow, clinic.order(first, order_id=None)).entity_id

    assert (first, second) == (f"P-{YEAR}-000001", f"P-{YEAR}-000002")
    assert (encounter, order) == (f"E-{YEAR}-000001", f"O-{YEAR}-000001")


def test_the_counter_walks_past_ids_that_a_caller_brought(application: Application) -> None:
    """A clinic that moves in brings ids of the same form."""
    uow = application.unit_of_work()
    for number in (1, 2):
        services.create_patient(uow, clinic.patient(patient_id=f"P-{YEAR}-{number:06d}"))

    assert services.create_patient(uow, clinic.patient(patient_id=None)).entity_id == f"P-{YEAR}-000003"
