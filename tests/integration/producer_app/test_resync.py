"""States that are told again: full, locked, once for each target, and nothing of the business rows is changed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from connectors.outbox import RESYNC, EntityType, TargetSystem, sync_outbox
from producer_app import services
from producer_app.bootstrap import Application, build
from producer_app.config import AppSettings
from producer_app.resync import entities, tell_again
from producer_app.tables import patient_cache
from tests import clinic
from tests.integration.producer_app.conftest import migrate


@pytest.fixture(params=["postgresql", "mariadb"])
def application(request: pytest.FixtureRequest) -> Iterator[Application]:
    """Give an application on a new database of each dialect."""
    url = request.getfixturevalue("app_url" if request.param == "postgresql" else "mariadb_url")
    if request.param == "mariadb":
        migrate(url)
    built = build(AppSettings.read(app_url=url, app_lock_timeout_seconds=10))
    yield built
    built.close()


def outbox(application: Application) -> list[sa.RowMapping]:
    """Give the rows with a cause."""
    payload = sa.cast(sync_outbox.c.payload, sa.Text()).label("payload")
    columns = [sync_outbox.c[name] for name in ("entity_id", "operation", "target_system", "cause")]
    with application.engine.connect() as connection:
        asked = sa.select(*columns, payload).where(sync_outbox.c.cause.is_not(None)).order_by(sync_outbox.c.seq)
        return list(connection.execute(asked).mappings())


def test_live_and_deleted_entities_are_told_with_their_full_state(application: Application) -> None:
    """In the order of their ids; one that does not exist is passed over."""
    uow = application.unit_of_work()
    live, gone = clinic.patient(patient_id="P-1"), clinic.patient(patient_id="P-2")
    services.create_patient(uow, live)
    services.create_patient(uow, gone)
    services.delete_patient(uow, "P-2")
    with application.engine.begin() as connection:
        before = connection.execute(sa.select(patient_cache)).all()

    told = tell_again(uow, EntityType.PATIENT, ["P-2", "P-1", "P-nobody"], targets=(TargetSystem.FHIR,))

    assert (2, ()) == (told.recorded, told.refused)
    assert [("P-1", "update", "fhir", RESYNC, live), ("P-2", "delete", "fhir", RESYNC, gone)] == [
        (row["entity_id"], row["operation"], row["target_system"], row["cause"], json.loads(row["payload"]))
        for row in outbox(application)
    ]
    with application.engine.connect() as connection:
        assert before == connection.execute(sa.select(patient_cache)).all()


def test_a_state_that_the_contract_refuses_is_named_and_holds_up_no_other(application: Application) -> None:
    """Such as one from before a rule."""
    uow = application.unit_of_work()
    services.create_patient(uow, clinic.patient(patient_id="P-1"))
    services.create_patient(uow, clinic.patient(patient_id="P-2"))
    with application.engine.begin() as connection:
        wrong = json.dumps({"patient_id": "P-1", "sex": "unheard-of"})
        connection.execute(sa.update(patient_cache).where(patient_cache.c.patient_id == "P-1").values(state=wrong))

    told = tell_again(uow, EntityType.PATIENT, ["P-1", "P-2"])

    assert (1, ("P-1",)) == (told.recorded, told.refused)
    assert ["P-2"] == [row["entity_id"] for row in outbox(application)]


def test_a_change_under_way_is_waited_for_and_what_is_told_is_the_newer_state(application: Application) -> None:
    """An older state with a higher seq would overwrite the change."""
    uow = application.unit_of_work()
    patient = clinic.patient(patient_id="P-1")
    services.create_patient(uow, patient)
    newer = {**patient, "given_name": "Grace"}
    with application.engine.connect() as other:
        wanted = patient_cache.c.patient_id == "P-1"
        other.execute(sa.update(patient_cache).where(wanted).values(state=json.dumps(newer)))
        telling = threading.Thread(target=tell_again, args=(application.unit_of_work(), EntityType.PATIENT, ["P-1"]))
        telling.start()
        telling.join(0.5)
        assert telling.is_alive()
        other.commit()
        telling.join()

    assert [newer] == [json.loads(row["payload"]) for row in outbox(application)]


def test_entities_without_a_row_in_the_outbox_are_found(application: Application) -> None:
    """Purged ones; with every, all."""
    uow = application.unit_of_work()
    for entity_id in ("P-1", "P-2"):
        services.create_patient(uow, clinic.patient(patient_id=entity_id))
    with application.engine.begin() as connection:
        connection.execute(sa.delete(sync_outbox).where(sync_outbox.c.entity_id == "P-1"))

        assert ["P-1"] == list(connection.scalars(entities(EntityType.PATIENT, every=False)))
        assert {"P-1", "P-2"} == set(connection.scalars(entities(EntityType.PATIENT, every=True)))
