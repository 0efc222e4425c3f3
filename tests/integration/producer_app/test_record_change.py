"""The outbox part alone, as another application uses it, on PostgreSQL and MariaDB."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

import connectors.migrations
from connectors.outbox import EntityType, Operation, TargetSystem, sync_outbox
from connectors.payloads import PayloadError
from producer_app.errors import TransactionError
from producer_app.outbox import Change, record_change, record_changes
from tests import clinic


@pytest.fixture(params=["postgresql", "mariadb"])
def engine(request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    """Give an engine of a database that has an outbox and a table of the other application."""
    url = request.getfixturevalue("app_url" if request.param == "postgresql" else "mariadb_url")
    if request.param == "mariadb":
        connectors.migrations.upgrade(url)
    made = sa.create_engine(url, hide_parameters=True)
    with made.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE person (person_id VARCHAR(100) PRIMARY KEY, version INT)")
    yield made
    made.dispose()


def record(connection: sa.Connection | orm.Session, **given: object) -> tuple[uuid.UUID, ...]:
    """Record the creation of a patient."""
    arguments = {"payload": clinic.patient(), **given}
    return record_change(
        connection,
        entity_type=EntityType.PATIENT,
        operation=Operation.CREATE,
        **arguments,  # type: ignore[arg-type]
    )


def rows(engine: sa.Engine) -> list[sa.RowMapping]:
    """Return the committed outbox rows in the order of seq, the payload as text."""
    columns = [column for column in sync_outbox.c if column.name != "payload"]
    payload = sa.cast(sync_outbox.c.payload, sa.Text() if engine.dialect.name == "postgresql" else sa.CHAR())
    with engine.connect() as connection:
        statement = sa.select(*columns, payload.label("payload")).order_by(sync_outbox.c.seq)
        return list(connection.execute(statement).mappings())


def test_one_row_per_target_is_written_through_a_connection(engine: sa.Engine) -> None:
    """Every column that the application fills, written by hand; the database fills the rest."""
    fields = clinic.patient(given_name="김민준 O'Ada 🙂")
    with engine.begin() as connection:
        ids = record(connection, payload=fields, entity_id=fields["patient_id"], targets=tuple(TargetSystem))

    first, second = rows(engine)
    assert ids == (first["outbox_id"], second["outbox_id"])
    assert (first["target_system"], second["target_system"]) == ("openemr", "fhir")
    assert first["seq"] < second["seq"]
    assert json.loads(first["payload"]) == fields
    assert {
        "entity_type": "patient",
        "entity_id": fields["patient_id"],
        "operation": "create",
        "payload_version": 1,
        "status": "pending",
        "outcome": None,
        "retry_count": 0,
        "processed_at": None,
    }.items() <= dict(first).items()


def test_a_session_is_neither_flushed_nor_committed(engine: sa.Engine) -> None:
    """The caller decides when its own objects are written and when all is kept."""

    class Base(orm.DeclarativeBase):
        pass

    class Person(Base):
        __tablename__ = "person"
        person_id: orm.Mapped[str] = orm.mapped_column(sa.String(100), primary_key=True)

    with orm.Session(engine) as session:
        session.add(Person(person_id="P-1"))
        record(session)
        assert [Person] == [type(one) for one in session.new]
        assert rows(engine) == []

        session.commit()

    assert len(rows(engine)) == 1


def test_the_row_shares_the_fate_of_the_callers_transaction(engine: sa.Engine) -> None:
    """Business row and outbox row: both or neither."""
    with engine.connect() as connection:
        connection.exec_driver_sql("INSERT INTO person VALUES ('P-1', 1)")
        record(connection)
        connection.rollback()

        assert connection.exec_driver_sql("SELECT COUNT(*) FROM person").scalar() == 0
    assert rows(engine) == []


def test_a_connection_in_autocommit_is_refused(engine: sa.Engine) -> None:
    """There, begin() succeeds and means nothing: each row would be a transaction of its own."""
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")

    with autocommit.begin() as connection, pytest.raises(TransactionError, match="autocommit"):
        record(connection)
    with orm.Session(autocommit) as session, session.begin(), pytest.raises(TransactionError, match="autocommit"):
        record(session)

    assert rows(engine) == []


@pytest.mark.parametrize("targets", [(), (TargetSystem.FHIR, TargetSystem.FHIR), ("hl7v2",), "fhir"])
def test_targets_must_be_some_each_once(engine: sa.Engine, targets: object) -> None:
    """A change without target would never arrive anywhere."""
    with engine.begin() as connection, pytest.raises((ValueError, TypeError)):
        record(connection, targets=targets)

    assert rows(engine) == []


def test_a_payload_of_another_entity_than_was_locked_is_refused(engine: sa.Engine) -> None:
    """Its order would be guarded by the wrong row."""
    with engine.begin() as connection, pytest.raises(PayloadError, match="patient_id: differs"):
        record(connection, entity_id="P-2025-000001")

    assert rows(engine) == []


def test_one_wrong_payload_among_many_keeps_all_from_being_sent(engine: sa.Engine) -> None:
    """A caller that catches the error and goes on must not have half of them."""
    changes = [
        Change(EntityType.PATIENT, Operation.CREATE, clinic.patient()),
        Change(EntityType.PATIENT, Operation.CREATE, clinic.patient(sex="?")),
    ]
    with engine.begin() as connection, pytest.raises(PayloadError):
        record_changes(connection, changes)

    assert rows(engine) == []


def test_many_changes_are_numbered_in_the_order_given(engine: sa.Engine) -> None:
    """The consumer applies the changes of one entity in the order of seq."""
    fields = clinic.patient()
    changes = [
        Change(EntityType.PATIENT, Operation.UPDATE, {**fields, "given_name": f"Ada {number}"}) for number in range(300)
    ]
    with engine.begin() as connection:
        ids = record_changes(connection, changes, targets=tuple(TargetSystem))

    found = rows(engine)
    assert list(ids) == [row["outbox_id"] for row in found]
    assert [f"Ada {number}" for number in range(300) for _ in TargetSystem] == [
        json.loads(row["payload"])["given_name"] for row in found
    ]


def test_without_the_callers_lock_the_order_of_seq_is_not_the_order_of_commits(engine: sa.Engine) -> None:
    """Why the docstring demands the lock: the later seq is committed first, and would be applied before the other."""
    with engine.connect() as first, engine.connect() as second:
        first.begin()
        second.begin()
        record(first)
        record(second)
        second.commit()
        (early,) = rows(engine)
        first.commit()

    late, still_early = rows(engine)
    assert early["seq"] == still_early["seq"]
    assert late["seq"] < early["seq"]
