"""Events that the database refuses, among many good ones: each fails alone, and hardly slows the others."""

from __future__ import annotations

import datetime as dt
import random
import statistics
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Final

import pytest

from connectors.events import Event
from consumer.apply import apply_events
from consumer.outcome import Applied, ErrorClass, Failed, Outcome
from consumer.ports import Settlement
from tests import clinic
from tests.integration.consumer.openemr.sites import REFUSING, Site, installed_site
from tests.made_events import event

BATCH: Final = 500
EVENTS: Final = 10_000
POISON: Final = 1_000
RATE_SHARE_MIN: Final = 0.8

INVALID: Final = Failed(ErrorClass.INVALID_PAYLOAD, "sex: Input should be 'male', 'female', 'other' or 'unknown'")
TOO_LONG: Final = Failed(ErrorClass.TOO_LONG, "given_name: has 300 characters, OpenEMR's patient_data.fname holds 255")
REFUSED: Final = Failed(ErrorClass.REFUSED, "patient_data.lname: must not be absent (database error 1048)")


@pytest.fixture(scope="module")
def site(openemr_admin_url: str) -> Iterator[Site]:
    """Give a site whose database refuses the patients that a test names."""
    with installed_site(openemr_admin_url, "8.2.0-dev", *REFUSING) as one:
        yield one


def patients(count: int) -> list[Event]:
    """Give new patients."""
    return [event(clinic.patient()) for _ in range(count)]


def refuse(site: Site, events: Sequence[Event]) -> None:
    """Let the database refuse these."""
    for one in events:
        site.change("INSERT INTO refused_id VALUES (%s)", one.key.entity_id)


def apply_batches(site: Site, events: Sequence[Event]) -> Iterator[tuple[float, Sequence[Settlement]]]:
    """Apply batch by batch as the loop does; give the seconds each took, and what of it was not applied."""
    for start in range(0, len(events), BATCH):
        begun_s = time.perf_counter()
        settlements = apply_events(
            site.target, events[start : start + BATCH], (), clock=lambda: dt.datetime.now(dt.UTC)
        )
        took_s = time.perf_counter() - begun_s
        yield took_s, [one for one in settlements if one.outcome != Applied()]


def test_one_in_ten_thousand_fails_alone_and_the_rest_keeps_its_pace(site: Site) -> None:
    """By medians, which a hiccup of the machine does not move: of batches without one, and of three with one."""
    events = patients(EVENTS)
    batches = EVENTS // BATCH
    poison = {number: events[number * BATCH + 123] for number in (batches // 4, batches // 2, batches * 3 // 4)}
    refuse(site, list(poison.values()))
    seconds: dict[bool, list[float]] = {True: [], False: []}
    failed: list[Settlement] = []
    for number, (took_s, settlements) in enumerate(apply_batches(site, events)):
        seconds[number in poison].append(took_s)
        failed += settlements

    assert [(one, REFUSED) for one in poison.values()] == [(one.event, one.outcome) for one in failed]
    clean_s, poisoned_s = statistics.median(seconds[False]), statistics.median(seconds[True])
    share = batches * clean_s / ((batches - 1) * clean_s + poisoned_s)
    assert share >= RATE_SHARE_MIN, (clean_s, poisoned_s)


def test_a_thousand_in_ten_thousand_fail_and_all_others_are_applied(site: Site) -> None:
    """One in ten, anywhere: unreadable, too long, and what only the database refuses, in equal shares."""
    chance = random.Random(1)
    kinds = [INVALID, TOO_LONG, REFUSED] * (POISON // 3) + [REFUSED] * (POISON % 3)
    poison = [_poison(kind) for kind in kinds]
    good = patients(EVENTS - POISON)
    refuse(site, [one for one, kind in zip(poison, kinds, strict=True) if kind == REFUSED])
    events = [*good, *poison]
    chance.shuffle(events)
    failed: dict[uuid.UUID, Outcome] = {}
    for _took_s, settlements in apply_batches(site, events):
        failed |= {one.event.outbox_id: one.outcome for one in settlements}

    assert {one.outbox_id: kind for one, kind in zip(poison, kinds, strict=True)} == failed
    ids = tuple(one.key.entity_id for one in events)
    assert len(good) == site.value("SELECT COUNT(*) FROM patient_data WHERE pubpid IN %s", ids)


def _poison(kind: Failed) -> Event:
    if kind == INVALID:
        return event(clinic.patient(sex="x"))
    return event(clinic.patient(given_name="x" * 300) if kind == TOO_LONG else clinic.patient())
