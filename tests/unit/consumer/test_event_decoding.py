"""Records become events, or say which part is wrong, without its value."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest

from connectors.events import EntityKey, Event, EventError, decode
from connectors.outbox import EntityType, Operation, TargetSystem
from tests.clinic import FAMILY_NAME

HEADERS: dict[str, bytes | None] = {
    "id": b"01912345-6789-7abc-8def-0123456789ab",
    "entity_type": b"patient",
    "operation": b"update",
    "target_system": b"fhir",
    "seq": b"42",
    "payload_version": b"1",
    "created_at": b"2025-03-01T12:00:00.123456Z",
}


def test_a_record_becomes_an_event() -> None:
    """The payload's bytes unchanged."""
    expected = Event(
        outbox_id=uuid.UUID("01912345-6789-7abc-8def-0123456789ab"),
        key=EntityKey(EntityType.PATIENT, "P-2025-000001"),
        operation=Operation.UPDATE,
        target_system=TargetSystem.FHIR,
        seq=42,
        payload_version=1,
        created_at=dt.datetime(2025, 3, 1, 12, 0, 0, 123_456, tzinfo=dt.UTC),
        payload=b' {"a":1} ',
    )

    assert expected == decode(b"P-2025-000001", b' {"a":1} ', HEADERS)


@pytest.mark.parametrize(
    "text", [b"2025-03-01T12:00:00.123456+00:00", b"2025-03-01T21:00:00.123456+09:00", b"1740830400123456"]
)
def test_instants_come_as_iso_text_or_epoch_microseconds(text: bytes) -> None:
    """PostgreSQL's, and MySQL's and MariaDB's."""
    found = decode(b"P-1", b"{}", HEADERS | {"created_at": text}).created_at

    assert dt.datetime(2025, 3, 1, 12, 0, 0, 123_456, tzinfo=dt.UTC) == found


def test_other_headers_are_ignored() -> None:
    """Tracing adds its own."""
    assert 42 == decode(b"P-1", b"{}", HEADERS | {"traceparent": b"\xff"}).seq


@pytest.mark.parametrize(("added", "expected"), [({}, None), ({"cause": None}, None), ({"cause": b"resync"}, "resync")])
def test_the_cause_may_be_absent(added: dict[str, bytes | None], expected: str | None) -> None:
    """Older connectors do not send it, and events of changes have none."""
    assert expected == decode(b"P-1", b"{}", HEADERS | added).cause


@pytest.mark.parametrize("name", sorted(HEADERS))
@pytest.mark.parametrize("raw", [None, b"", b"\xff", FAMILY_NAME.encode()])
def test_a_header_that_is_absent_or_wrong_is_named(name: str, raw: bytes | None) -> None:
    """And its value is not told."""
    with pytest.raises(EventError, match=rf"^header {name}: ") as caught:
        decode(b"P-1", b"{}", HEADERS | {name: raw})

    assert FAMILY_NAME not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("seq", b"-1"),
        ("seq", b"9223372036854775808"),
        ("seq", b"1.0"),
        ("seq", b" 1"),
        ("payload_version", b"32768"),
        ("entity_type", b"Patient"),
        ("operation", b"upsert"),
        ("target_system", b"openemr,fhir"),
        ("created_at", b"2025-03-01T12:00:00"),
    ],
)
def test_values_out_of_range_are_refused(name: str, raw: bytes) -> None:
    """By the header's name."""
    with pytest.raises(EventError, match=f"header {name}: "):
        decode(b"P-1", b"{}", HEADERS | {name: raw})


@pytest.mark.parametrize("raw", [b"9999999999999999999", b"0001-01-01T00:00:00+23:59"])
def test_an_instant_outside_the_calendar_is_refused(raw: bytes) -> None:
    """Any other error than EventError would stop the consumer at this record for ever."""
    with pytest.raises(EventError, match="header created_at: "):
        decode(b"P-1", b"{}", HEADERS | {"created_at": raw})


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        (b"P-1", None, "value: is absent"),
        (b"P-1", b"x" * 2_097_153, "value: has 2097153 bytes"),
        (None, b"{}", "key: is absent"),
        (b"", b"{}", "entity_id: is empty"),
        (b"\xff", b"{}", "key: is not UTF-8"),
        (b" P-1", b"{}", "entity_id: begins or ends with white space"),
        (b"P-1\n", b"{}", "entity_id: begins or ends with white space"),
        (b"P\x00-1", b"{}", "entity_id: holds a control character"),
        (b"P" * 101, b"{}", "entity_id: has 101 characters"),
    ],
)
def test_a_key_or_value_that_no_row_can_have_is_refused(key: Any, value: Any, named: str) -> None:
    """By the part's name."""
    with pytest.raises(EventError, match=named):
        decode(key, value, HEADERS)
