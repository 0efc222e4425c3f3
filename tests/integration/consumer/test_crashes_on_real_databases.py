"""Crashes, faults, copies and late deliveries on real databases; bugs planted in the real code are found there too."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.events import EntityKey, Event
from connectors.outbox import Operation
from consumer.openemr.ledger import Ledger
from consumer.outcome import Applied, Stale
from consumer.ports import Mapped, StreamPosition, TransientError
from tests import clinic
from tests.integration.consumer.openemr.sites import installed_site
from tests.integration.consumer.real_pipeline import Databases, RealPipeline
from tests.invariants import violations_at_any_time, violations_at_rest
from tests.made_events import event
from tests.sources import source
from tests.unit.consumer.crashes import CrashError, busy_day
from tests.unit.consumer.test_crash_matrix import mark_before_commit, offset_before_mark

STEPS: Final = (
    *("target.begin", "target.write", "target.record", "target.park", "target.commit", "target.committed"),
    *("target.forget", "target.forgotten", "marker.mark", "marker.marked", "stream.commit", "stream.committed"),
)
"""Where a process may die between two things that some system remembers."""

NAMES: Final = {"P-1": "Grace", "P-4": "Ada"}
"""Whom busy_day leaves in OpenEMR; a deleted patient's chart stays."""

DELETED: Final = "deleted:P-2"


@pytest.fixture(scope="module")
def databases(openemr_admin_url: str, source_admin_url: str) -> Iterator[Databases]:
    """Give an OpenEMR site and a PostgreSQL source."""
    with (
        installed_site(openemr_admin_url, "8.2.0-dev") as site,
        source(source_admin_url) as (url, marker_url),
        contextlib.closing(_Engine(url)) as engine,
    ):
        yield Databases(site, engine.engine, marker_url)


class _Engine:
    def __init__(self, url: str) -> None:
        self.engine = sa.create_engine(url)

    def close(self) -> None:
        self.engine.dispose()


def crash_at(databases: Databases, step: str, passed: int = 0) -> list[str]:
    """Let the process die at a step that it has passed so often, go on with new ones; give what is violated."""
    with RealPipeline(databases) as world:
        world.faults.plan(step, *[None] * passed, CrashError())
        busy_day(world)
        found = [*world.found, *violations_at_rest(world.snapshot()), *world.disagreements()]
        names = {key: name for key, name in world.given_names().items() if key != DELETED}
        return found if names == NAMES else [*found, f"OpenEMR shows {names}"]


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_changes_nothing_in_the_end(databases: Databases, step: str) -> None:
    """Children before parents, updates, a delete, copies, late ones, an invalid one, a bad record."""
    assert [] == crash_at(databases, step)


def no_ledger_check(patch: pytest.MonkeyPatch) -> None:
    """Take every delivery for the first one, and write over what was settled."""
    right = Ledger.record

    def record(
        self: Ledger,
        connection: sa.Connection,
        settled: Sequence[tuple[Event, Applied | Stale]],
        positions: Sequence[StreamPosition],
    ) -> None:
        for one, _ in settled:
            connection.exec_driver_sql(
                f"DELETE FROM {self._schema}.applied_event WHERE outbox_id = %s", (one.outbox_id.bytes,)
            )
        right(self, connection, settled, positions)

    def settled(_self: Ledger, _connection: sa.Connection, _ids: Sequence[uuid.UUID]) -> frozenset[uuid.UUID]:
        return frozenset()

    patch.setattr(Ledger, "settled", settled)
    patch.setattr(Ledger, "record", record)


def no_stale_check(patch: pytest.MonkeyPatch) -> None:
    """Let whatever comes last win, though it is older."""
    right = Ledger.mapped

    def mapped(
        self: Ledger, connection: sa.Connection, keys: Sequence[EntityKey], **options: Any
    ) -> Mapping[EntityKey, Mapped]:
        found = right(self, connection, keys, **options)
        return {key: dataclasses.replace(one, last_seq=-1) for key, one in found.items()}

    no_ledger_check(patch)
    patch.setattr(Ledger, "mapped", mapped)


@pytest.mark.parametrize(
    ("bug", "seen"),
    [
        (offset_before_mark, "I3: the offset has passed"),
        (mark_before_commit, "I2: seq"),
        (no_ledger_check, "I1: "),
        (no_stale_check, "I1: "),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_planted_bug_is_seen(
    databases: Databases,
    openemr_admin_url: str,
    bug: Callable[[pytest.MonkeyPatch], None],
    seen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the invariant that it breaks, at some step; the writer's account itself could not settle twice."""
    bug(monkeypatch)
    site = databases.site
    url = sa.make_url(openemr_admin_url).set(database=site.database).render_as_string(hide_password=False)
    databases = dataclasses.replace(databases, site=dataclasses.replace(site, writer_url=url))

    crashes = itertools.product(range(4), ("marker.mark", "target.committed", "target.commit"))
    found = (violation for passed, step in crashes for violation in crash_at(databases, step, passed))
    assert any(seen in violation for violation in found)


PATIENT: Final = clinic.patient(patient_id="P-1")
VISIT: Final = clinic.encounter("P-1", encounter_id="E-1")
ORDER: Final = clinic.order("P-1", order_id="O-1", encounter_id="E-1")

actions = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 2), st.booleans()),
    st.tuples(st.just("write"), st.integers(0, 2), st.booleans()),
    st.tuples(st.just("again"), st.integers(0, 20), st.just(True)),
    st.tuples(st.just("turn"), st.integers(0, 1), st.just(True)),
    st.tuples(st.just("fault"), st.sampled_from(STEPS), st.booleans()),
)


@settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(steps=st.lists(actions, min_size=5, max_size=14))
def test_any_sequence_ends_in_the_newest_state(databases: Databases, steps: list[tuple[str, Any, bool]]) -> None:
    """Writes, copies, late deliveries, lost connections and crashes, with two members."""
    with RealPipeline(databases) as world:
        members = [world.member(), world.member()]
        events: list[Event] = []
        for version, (what, which, flag) in enumerate(steps):
            if what == "write":
                fields = (PATIENT, VISIT, ORDER)[which]
                events.append(world.write(event({**fields, "newer_field": version})))
                if flag:
                    world.deliver(events[-1])
            elif what == "again" and events:
                world.deliver(events[which % len(events)])
            elif what == "fault":
                world.faults.plan(which, CrashError() if flag else TransientError("away"))
            elif what == "turn":
                members[which] = turned(world, members[which])
            assert [] == violations_at_any_time(world.snapshot())

        for one in reversed(events):
            world.deliver(one)
        world.faults.clear()
        world.drain(members)

        now = world.snapshot()
        assert [] == violations_at_rest(now)
        assert [] == world.disagreements()
        assert {newest.seq for newest in newest_possible(events)} == set(now.last_seqs.values())


def turned(world: RealPipeline, loop: Any) -> Any:
    """Let a member take one turn; when it dies, another takes its place."""
    # So that what waits for its next try is due.
    world.clock.now += dt.timedelta(seconds=5)
    try:
        loop.run_once()
    except CrashError:
        world.crash(loop)
        return world.member()
    return loop


def newest_possible(events: Sequence[Event]) -> list[Event]:
    """Tell by hand what must be in OpenEMR: the newest of each entity whose parents were written at all."""
    newest = {one.key.entity_id: one for one in events if one.operation is not Operation.DELETE}
    needs = {"P-1": ("P-1",), "E-1": ("P-1", "E-1"), "O-1": ("P-1", "E-1", "O-1")}
    return [one for key, one in newest.items() if all(parent in newest for parent in needs[key])]
