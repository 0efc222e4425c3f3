"""Four clerks in OpenEMR and two consumers at once: nobody loses a number, a row or much time to the other."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
import sqlalchemy as sa

from connectors.events import Event
from consumer.apply import apply_events
from consumer.openemr.target import OpenEmrTarget
from consumer.outcome import Applied, ErrorClass, Failed, Outcome, Waiting
from consumer.ports import TargetTransaction, TransientError
from tests import clinic
from tests.integration.consumer.openemr.clerks import Clerk, Diary
from tests.integration.consumer.openemr.sites import Fields, Site, event, installed_site, medication, open_target
from tests.scratch import connected

WORK_S: Final = float(os.environ.get("CLERKS_SECONDS", "15"))
"""CLERKS_SECONDS=120 for the long run."""

CLERKS: Final = 4
CONSUMERS: Final = 2
LOCK_HOLD_P99_S: Final = 0.1
STATEMENTS: Final = 25
"""Of one consumer's transaction here, about."""

PACES: Final = 10
"""On a quiet machine the statements alone take a tenth of the limit at most; on a busy one it grows in proportion."""


class TimedTarget:
    """A consumer's target that notes how long each of its transactions was open, and so its locks were held."""

    def __init__(self, target: OpenEmrTarget) -> None:
        self.target = target
        self.held_s: list[float] = []

    def __getattr__(self, name: str) -> Any:
        """Be the target otherwise."""
        return getattr(self.target, name)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[TargetTransaction]:
        """See ports.Target."""
        with self.target.transaction() as transaction:
            started = time.perf_counter()
            yield transaction
            self.held_s.append(time.perf_counter() - started)


class Pace:
    """How fast this machine is meanwhile: as many statements as a consumer's transaction has, which lock nothing."""

    def __init__(self, admin_url: str) -> None:
        self._admin_url = admin_url
        self.rounds_s: list[float] = []

    def work(self, until: threading.Event) -> None:
        """Go round after round."""
        with connected(self._admin_url) as connection:
            while not until.is_set():
                started = time.perf_counter()
                for _ in range(STATEMENTS):
                    connection.exec_driver_sql("SELECT 1")
                self.rounds_s.append(time.perf_counter() - started)
                time.sleep(0.01)


class Consumer:
    """One member: applies families of records of its own, and changes them again."""

    def __init__(self, site: Site) -> None:
        self.target = TimedTarget(open_target(site.writer_url, site.ledger))
        self.outcomes: list[tuple[Event, Outcome]] = []
        self.families: list[list[Fields]] = []
        self.victims: list[Fields] = []

    def work(self, until: threading.Event) -> None:
        """Create, and then change what was created some time ago."""
        while not until.is_set():
            patient = clinic.patient()
            visit = clinic.encounter(patient["patient_id"])
            named = {"encounter_id": visit["encounter_id"]}
            order = clinic.order(patient["patient_id"], **named)
            family: list[Fields] = [patient, visit, order, medication(patient["patient_id"], **named)]
            victim = clinic.patient(family_name="Victim")
            self.families.append([*family])
            self.victims.append(victim)
            older = self.families[len(self.families) // 2]
            changed = [{**one, "title": "Dr.", "reason": "x", "instructions": "y"} for one in older]
            lost = {**self.victims[len(self.victims) // 2], "phone_home": "555"}
            self.settle([*(event("create", one) for one in (*family, victim))])
            self.settle([*(event("update", one) for one in (*changed, lost))])

    def settle(self, events: list[Event]) -> None:
        """Apply as the loop does: again after a transient error."""
        while True:
            try:
                settlements = apply_events(self.target, events, (), clock=lambda: dt.datetime.now(dt.UTC))
            except TransientError:
                continue
            self.outcomes += [(one.event, one.outcome) for one in settlements]
            return


@pytest.fixture(scope="module", params=["7.0.3", "8.2.0-dev"])
def site(request: pytest.FixtureRequest, openemr_admin_url: str) -> Iterator[Site]:
    """Give a site of its own: REPLACE before 7.0.4, upserts since."""
    with installed_site(openemr_admin_url, request.param) as one:
        one.put(clinic.patient())  # the block is reserved
        yield one


def test_clerks_and_consumers_do_not_harm_each_other(site: Site, openemr_admin_url: str) -> None:
    """Each clerk's insert succeeds, each of our rows stays ours, no number is given twice, locks are short."""
    diary, until = Diary(), threading.Event()
    url = sa.make_url(openemr_admin_url)
    clerks = [
        Clerk(url, site.database, site.ledger, diary, upserts=not site.old, seed=number) for number in range(CLERKS)
    ]
    consumers = [Consumer(site) for _ in range(CONSUMERS)]
    pace = Pace(openemr_admin_url)
    # Members are processes of their own; here they must not wait for each other's turn at the interpreter.
    switched_s = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    try:
        with ThreadPoolExecutor(1 + CLERKS + CONSUMERS) as threads:
            work = [pace.work, *(one.work for one in clerks)] + [one.work for one in consumers]
            futures = [threads.submit(one, until) for one in work]
            time.sleep(WORK_S / 2)  # for each of the two versions
            until.set()
            for future in futures:
                future.result(60)
    finally:
        sys.setswitchinterval(switched_s)
        for one in consumers:
            one.target.target.close()

    assert diary.failed == []
    assert diary.done > 20
    assert_numbers_are_unique(site)
    assert_outcomes(site, consumers)
    held = [held for one in consumers for held in one.target.held_s]
    held_p99_s, pace_p99_s = percentile_99(held), percentile_99(pace.rounds_s)
    sys.stdout.write(
        f"{site.version}: {diary.done} clerks' and {len(held)} of our transactions, ours open for "
        f"{held_p99_s * 1_000:.0f} ms at p99, {STATEMENTS} empty statements {pace_p99_s * 1_000:.0f} ms\n"
    )
    assert held_p99_s <= max(LOCK_HOLD_P99_S, PACES * pace_p99_s)


def percentile_99(values: Sequence[float]) -> float:
    """Give the value that one in a hundred exceeds."""
    return sorted(values)[int(len(values) * 0.99)]


def assert_numbers_are_unique(site: Site) -> None:
    """The database guards pid and prescriptions.id itself; an encounter's number has no key."""
    twice = site.rows("SELECT encounter FROM form_encounter GROUP BY encounter HAVING COUNT(*) > 1")
    assert twice == []
    top = max(
        site.value("SELECT MAX(encounter) FROM form_encounter"),
        site.value("SELECT COALESCE(MAX(id), 0) FROM prescriptions"),
    )
    assert top <= site.value("SELECT id FROM sequences")


def assert_outcomes(site: Site, consumers: list[Consumer]) -> None:
    """All families are applied and shown; only patients whom a clerk merged or removed are conflicts."""
    victims = {one["patient_id"] for consumer in consumers for one in consumer.victims}
    applied = 0
    for consumer in consumers:
        for one, outcome in consumer.outcomes:
            if isinstance(outcome, Failed):
                assert (outcome.error_class, one.key.entity_id in victims) == (ErrorClass.CONFLICT, True), outcome
            assert not isinstance(outcome, Waiting)
            applied += isinstance(outcome, Applied)
    assert applied > 20
    ids = [
        next(one[name] for name in ("order_id", "encounter_id", "patient_id") if name in one)
        for consumer in consumers
        for family in consumer.families
        for one in family
    ]
    found = site.verified(*ids)
    assert found.findings == ()
    assert found.live == len(ids)
