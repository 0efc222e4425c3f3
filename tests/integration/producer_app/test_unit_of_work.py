"""Nothing is kept that was not committed."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from connectors.outbox import EntityType, Operation
from producer_app.bootstrap import Application
from producer_app.errors import StorageError, TransactionError
from producer_app.outbox import record_change
from producer_app.unit_of_work import UnitOfWork
from tests import clinic
from tests.integration.producer_app.conftest import Inspection


def record(uow: UnitOfWork) -> None:
    """Record some change in the open unit of work."""
    fields = clinic.patient()
    record_change(uow.connection, entity_type=EntityType.PATIENT, operation=Operation.CREATE, payload=fields)


def test_what_was_committed_is_kept(application: Application, inspection: Inspection) -> None:
    """The counterpart of the two tests below."""
    with application.unit_of_work() as uow:
        record(uow)
        uow.commit()

    assert len(inspection.outbox()) == 1


def test_leaving_without_commit_rolls_back(application: Application, inspection: Inspection) -> None:
    """A forgotten commit loses work visibly, a forgotten rollback would keep half of it."""
    with application.unit_of_work() as uow:
        record(uow)

    assert inspection.outbox() == []


def test_an_error_rolls_back(application: Application, inspection: Inspection) -> None:
    """Whatever the error is."""

    class SurpriseError(Exception):
        pass

    def record_and_fail() -> None:
        with application.unit_of_work() as uow:
            record(uow)
            raise SurpriseError

    with pytest.raises(SurpriseError):
        record_and_fail()

    assert inspection.outbox() == []


def test_a_unit_of_work_serves_again_after_an_error(application: Application, inspection: Inspection) -> None:
    """An importer uses one for all its batches, and none of them may leak a connection."""
    uow = application.unit_of_work()
    for _ in range(application.engine.pool.size() + 1):  # type: ignore[attr-defined]
        with pytest.raises(StorageError, match="UndefinedTable"), uow:
            uow.connection.execute(sa.text("SELECT * FROM no_such_table"))

    with uow:
        record(uow)
        uow.commit()

    assert len(inspection.outbox()) == 1


def test_its_use_outside_of_with_is_our_own_mistake(application: Application) -> None:
    """Statements outside of a transaction would each be their own."""
    uow = application.unit_of_work()

    with pytest.raises(TransactionError):
        uow.commit()
    with uow, pytest.raises(TransactionError):
        uow.__enter__()
    with uow, pytest.raises(TransactionError):
        uow.new_entity_id(EntityType.PATIENT)
