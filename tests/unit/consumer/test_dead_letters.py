"""The share of bad records, the reading of any bytes at all, and what a dead letter tells of its origin."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.events import HEADERS, Event, EventError, decode_record
from consumer.dead_letters import (
    DeadLetterLimits,
    DeadLetterWindow,
    NoDeadLetterError,
    added_headers,
    failed_row,
    original,
)
from consumer.outcome import ErrorClass, Failed
from consumer.ports import Record
from tests import clinic
from tests.clinic import FAMILY_NAME
from tests.made_events import NOON, event, headers

LIMITS = DeadLetterLimits(window_records=10, share_max=0.3)


@given(
    st.lists(st.booleans(), max_size=60),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.99, 1.0]),
)
def test_a_bad_record_is_too_many_exactly_when_the_window_holds_more_than_its_share(
    goods: list[bool], size: int, share: float
) -> None:
    """Counted anew from the whole history, which the window does not keep."""
    window = DeadLetterWindow(DeadLetterLimits(window_records=size, share_max=share))
    for end, good in enumerate(goods, 1):
        bad = goods[max(0, end - size) : end].count(False)
        assert window.count(good=good) == (good or bad <= int(share * size))
        assert bad == window.bad


@given(st.lists(st.booleans(), max_size=30))
def test_a_filled_window_refuses_the_next_bad_record_until_good_ones_made_room(goods: list[bool]) -> None:
    """What a member does where another one gave up."""
    window = DeadLetterWindow(LIMITS)
    for good in goods:
        window.count(good=good)
    window.fill()
    copy = window.copy()

    assert not copy.count(good=False)
    assert all(window.count(good=True) for _ in range(10))
    assert window.count(good=False)


@pytest.mark.parametrize(
    ("name", "value"), [("value_bytes_max", 0), ("window_records", 0), ("share_max", -0.1), ("share_max", 1.1)]
)
def test_limits_that_make_no_sense_are_refused(name: str, value: float) -> None:
    """By name."""
    senseless: dict[str, Any] = {name: value}

    with pytest.raises(ValueError, match=name):
        DeadLetterLimits(**senseless)


_GOOD = dict(headers(event(clinic.patient(patient_id="P-1"))))
_BYTES = st.one_of(st.none(), st.binary(max_size=40), st.text("0123456789-:TZ+.W", max_size=30).map(str.encode))
_HEADERS = st.fixed_dictionaries({name: st.one_of(st.just(raw), st.just(raw), _BYTES) for name, raw in _GOOD.items()})


@given(st.one_of(st.just(b"P-1"), _BYTES), st.one_of(st.just(b"{}"), _BYTES), _HEADERS)
def test_any_record_is_an_event_or_says_in_an_event_error_why_not(
    key: bytes | None, value: bytes | None, added: dict[str, bytes | None]
) -> None:
    """Any other error would stop the group at this record for ever."""
    with contextlib.suppress(EventError):
        assert isinstance(decode_record("emrsync.patient", key, value, list(added.items())), Event)


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_comes_twice_is_refused(name: str) -> None:
    """Which of the two is meant?"""
    one = event(clinic.patient())
    twice = [*headers(one), (name, dict(headers(one))[name])]

    with pytest.raises(EventError, match=f"header {name}: comes more than once"):
        decode_record("emrsync.patient", b"P-1", b"{}", twice)


def test_other_headers_may_come_twice() -> None:
    """Tracing does that."""
    one = event(clinic.patient())
    added = [*headers(one), ("baggage", b"1"), ("baggage", b"2")]

    assert one == decode_record("emrsync.patient", one.key.entity_id.encode(), one.payload, added)


def test_the_limit_of_a_value_is_the_callers() -> None:
    """At the limit it is an event, one byte above it is none."""
    one = event(clinic.patient())
    size = len(one.payload)

    decode_record("a.patient", b"P-1", one.payload, headers(one), value_bytes_max=size)
    with pytest.raises(EventError, match=f"value: has {size} bytes, at most {size - 1} are allowed"):
        decode_record("a.patient", b"P-1", one.payload, headers(one), value_bytes_max=size - 1)


@given(
    st.lists(st.tuples(st.text(max_size=20), st.one_of(st.none(), st.binary(max_size=9))), max_size=5),
    st.one_of(st.none(), st.integers(0, 2**40)),
)
def test_a_dead_letter_gives_its_record_back(added: list[tuple[str, bytes | None]], instant_ms: int | None) -> None:
    """Whatever headers it had, ours among them: one that was replayed and parked again."""
    record = Record("emrsync.order", 3, 17, b"\xff", None, [*added, ("emrsync.reason", b"old")], instant_ms)
    letter = Record(
        "emrsync.dead-letter", 0, 5, record.key, record.value, [*record.headers, *added_headers(record, "new")], 1
    )

    assert (record, "new") == original(letter)


@pytest.mark.parametrize("added", [[], [("emrsync.reason", b"x")], [("a", b"b")] * 9])
def test_a_record_without_our_headers_is_no_dead_letter(added: list[tuple[str, bytes | None]]) -> None:
    """Somebody else wrote it."""
    with pytest.raises(NoDeadLetterError, match="was not put there by a consumer"):
        original(Record("emrsync.dead-letter", 0, 5, b"k", b"v", added))


def test_a_source_position_that_is_no_number_is_told() -> None:
    """Somebody imitated our headers."""
    record = Record("emrsync.order", 3, 17, b"k", b"v", ())
    wrong = [(name, b"x" if name == "emrsync.offset" else raw) for name, raw in added_headers(record, "y")]

    with pytest.raises(NoDeadLetterError, match="is no number"):
        original(Record("emrsync.dead-letter", 0, 5, b"k", b"v", wrong))


def test_the_row_of_a_dead_letter_is_known_by_its_id_alone() -> None:
    """The message has the reason and no value."""
    one = event(clinic.patient())
    record = Record("emrsync.patient", 0, 1, None, FAMILY_NAME.encode(), headers(one))
    found = failed_row(record, "key: is absent", NOON)

    assert found is not None
    assert one.outbox_id == found.event.outbox_id
    message = "its record in Kafka was no event (key: is absent); `emrsync dead-letter list` has it"
    assert Failed(ErrorClass.INVALID_PAYLOAD, message) == found.outcome


@pytest.mark.parametrize("ids", [[], [b"x"], [None], [b"\xff"], [b"0" * 32, b"1" * 32]])
def test_a_dead_letter_without_a_readable_id_has_no_row(ids: list[bytes | None]) -> None:
    """Nothing is marked."""
    assert failed_row(Record("emrsync.patient", 0, 1, None, None, [("id", one) for one in ids]), "x", NOON) is None
