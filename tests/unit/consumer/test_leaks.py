"""A patient's name, planted wherever a payload or record can hold it, is told to nobody."""

from __future__ import annotations

import traceback
from collections.abc import MutableMapping
from typing import Any

import pytest

from connectors.events import HEADERS, EntityKey, Event
from connectors.outbox import EntityType
from consumer.dead_letters import DeadLetterLimits, TooManyDeadLettersError, added_headers
from consumer.loop import LoopLimits
from tests import clinic
from tests.clinic import FAMILY_NAME as NAME
from tests.made_events import event, headers
from tests.pipeline import Pipeline

KEY = EntityKey(EntityType.PATIENT, "P-1")


def patient(**changes: Any) -> Event:
    """Give an event of patient P-1."""
    return event(clinic.patient(patient_id="P-1", **changes), key=KEY)


@pytest.mark.parametrize(
    "one",
    [
        patient(sex=NAME),
        patient(birth_date=NAME),
        patient(deceased_at=f"2025-01-01T00:00:00Z {NAME}"),
        patient(address=NAME),
        patient(address={"line": [NAME]}),
        patient(given_name=NAME * 100),
        patient(email={NAME: NAME}),
        patient(**{NAME: NAME}, sex=None),
        event(clinic.patient(patient_id=NAME), key=KEY),
        event(clinic.order("P-1", order_id="O-1", kind=NAME)),
        event(clinic.order("P-1", order_id="O-1", status=NAME)),
        event(clinic.encounter("P-1", encounter_id="E-1", started_at="2025-01-01T00:00:00Z", ended_at=NAME)),
        event(f'{{"family_name": "{NAME}", }}'.encode(), key=KEY),
        event(f'"{NAME}"'.encode(), key=KEY),
        event(NAME.encode(), key=KEY),
        event(NAME.encode() + b"\xff", key=KEY),
    ],
)
def test_a_failed_event_names_fields_only(one: Event, logged: list[MutableMapping[str, Any]]) -> None:
    """In the row, and in the log."""
    world = Pipeline()
    world.deliver(world.write(one))
    world.drain([world.member()])

    assert [("failed", "failed")] == world.state(one)
    assert NAME not in str(world.row(one).error_message)
    assert "event_failed" in {entry["action"] for entry in logged}


@pytest.mark.parametrize("name", HEADERS)
def test_a_dead_letter_is_told_by_names_of_headers_only(name: str, logged: list[MutableMapping[str, Any]]) -> None:
    """In the headers that it gets, in its row, and in the log; it alone holds the content."""
    world = Pipeline()
    one = world.write(patient())
    wrong = {**dict(headers(one)), name: NAME.encode()}
    world.broker.produce("emrsync.patient", b"P-1", one.payload, list(wrong.items()))
    world.drain([world.member()])

    [(record, reason)] = world.broker.dead_letters
    assert NAME in str(record)
    assert NAME not in str(added_headers(record, reason))
    assert NAME not in str(world.row(one).error_message)
    assert "dead_letter" in {entry["action"] for entry in logged}


@pytest.mark.parametrize("key", [NAME.encode(), NAME.encode() * 10, NAME.encode() + b"\xff", b" " + NAME.encode()])
def test_too_many_dead_letters_are_told_by_position_and_reason_only(
    key: bytes, logged: list[MutableMapping[str, Any]]
) -> None:
    """The error that ends the process."""
    world = Pipeline(limits=LoopLimits(dead_letters=DeadLetterLimits(share_max=0)))
    wrong = {**dict(headers(patient())), "operation": NAME.encode()}
    world.broker.produce("emrsync.patient", key, NAME.encode(), list(wrong.items()))
    with pytest.raises(TooManyDeadLettersError) as caught:
        world.member().run()

    assert NAME not in "".join(traceback.format_exception(caught.value))
    assert "halted" in {entry["action"] for entry in logged}


def test_what_is_applied_and_what_waits_is_logged_without_content(logged: list[MutableMapping[str, Any]]) -> None:
    """Ids and counts."""
    world = Pipeline()
    world.happen(clinic.encounter("P-2", reason=NAME))
    world.happen(clinic.patient())
    world.drain([world.member()])

    assert NAME not in str(logged)
    assert NAME not in str([row.error_message for row in world.source.outbox.values()])
