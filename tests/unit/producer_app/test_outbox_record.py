"""What record_change refuses before it asks the database anything."""

from __future__ import annotations

import datetime as dt
import time
import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from connectors.outbox import EntityType, Operation, TargetSystem
from connectors.payloads import PatientV1, PayloadError
from producer_app.errors import TransactionError
from producer_app.outbox import checked_payload, new_outbox_id, record_change
from tests import clinic


def record(connection: object, targets: object = (TargetSystem.OPENEMR,)) -> None:
    """Record a change through whatever is given."""
    record_change(
        connection,  # type: ignore[arg-type]
        entity_type=EntityType.PATIENT,
        operation=Operation.CREATE,
        payload=clinic.patient(),
        targets=targets,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("given", [None, "postgresql://", object(), orm.scoped_session(orm.sessionmaker())])
def test_what_is_no_connection_or_session_is_a_type_error(given: object) -> None:
    """At once, and not as an attribute error somewhere inside."""
    with pytest.raises(TypeError, match="connection: is a"):
        record(given)


def test_a_connection_without_transaction_is_refused() -> None:
    """SQLAlchemy would begin one by itself and roll it back at the end: the change would vanish silently."""
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection, pytest.raises(TransactionError, match="no transaction is open"):
        record(connection)
    engine.dispose()


def test_a_session_without_transaction_is_refused() -> None:
    """The same holds for a session."""
    engine = sa.create_engine("sqlite://")
    with orm.Session(engine) as session, pytest.raises(TransactionError, match="no transaction is open"):
        record(session)
    engine.dispose()


def test_a_database_that_cannot_hold_an_outbox_is_refused() -> None:
    """Debezium streams from three databases."""
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection, pytest.raises(TypeError, match="is to sqlite"):
        record(connection)
    engine.dispose()


def test_an_outbox_id_is_a_uuid_of_version_7_that_begins_with_the_time() -> None:
    """Time first, so that the index of the primary key grows at its end."""
    before = time.time_ns() // 1_000_000

    made = [new_outbox_id() for _ in range(1_000)]

    after = time.time_ns() // 1_000_000
    assert {7} == {one.version for one in made}
    assert {uuid.RFC_4122} == {one.variant for one in made}
    assert all(before <= one.int >> 80 <= after for one in made)
    assert len(made) == len(set(made))


def test_a_payload_is_taken_as_model_mapping_text_and_bytes() -> None:
    """An application hands over what it has; a mapping may hold dates."""
    fields = clinic.patient(birth_date=dt.date(1980, 2, 29))

    from_mapping = checked_payload(EntityType.PATIENT, fields)

    assert isinstance(from_mapping, PatientV1)
    text = from_mapping.model_dump_json()
    assert from_mapping == checked_payload(EntityType.PATIENT, from_mapping)
    assert from_mapping == checked_payload(EntityType.PATIENT, text)
    assert from_mapping == checked_payload(EntityType.PATIENT, text.encode())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nick_name": "x"}, "nick_name: is no field of this payload"),
        ({"birth_date": "29.2.1980"}, "birth_date: "),
        ({"sex": "F"}, "sex: "),
        ({"given_name": 7}, "given_name: "),
        ({"address": {"city": "Sam\0pleton"}}, "address.city: holds a NUL character"),
        ({"patient_id": "P-\x01"}, "patient_id: holds a control character"),
        ({"patient_id": "P" * 101}, "patient_id: "),
        ({"given_name": object()}, "payload: holds a value that JSON cannot express"),
        ({"given_name": "\ud800"}, "payload: holds a value that JSON cannot express"),
    ],
    ids=["unknown", "date", "enum", "type", "nul", "control", "long", "object", "surrogate"],
)
def test_a_wrong_field_is_named_and_no_value_told(changes: dict[str, object], said: str) -> None:
    """The last ones are what a database would refuse later, with the row in its message."""
    with pytest.raises(PayloadError, match=said) as caught:
        checked_payload(EntityType.PATIENT, clinic.patient(**changes))

    assert clinic.FAMILY_NAME not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_backslash_before_u0000_is_no_nul() -> None:
    """In JSON text the two look alike."""
    written = checked_payload(EntityType.PATIENT, clinic.patient(given_name=r"a\u0000b"))

    assert isinstance(written, PatientV1)
    assert written.given_name == r"a\u0000b"


def test_a_payload_of_another_type_is_a_type_error() -> None:
    """A list is JSON too, but no payload."""
    with pytest.raises(TypeError, match="payload: is a list"):
        checked_payload(EntityType.PATIENT, [clinic.patient()])  # type: ignore[arg-type]
