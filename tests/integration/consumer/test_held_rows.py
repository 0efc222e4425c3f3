"""A clerk's transaction holds one chart of many: on real databases, the others are done, and that one after it."""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from connectors.events import Event
from connectors.outbox import Operation, sync_outbox
from consumer import source_database
from consumer.failed_rows import SqlFailedRows
from consumer.loop import ConsumerLoop, LoopLimits
from consumer.outbox_marker import SqlOutboxMarker
from consumer.retry import RetryPolicy
from consumer.retry_failed import Retrier, RetryLimits, StormBreaker, retry_failed_outbox
from tests import clinic
from tests.fakes import Clock
from tests.integration.consumer.openemr.sites import installed_site, open_target
from tests.integration.consumer.real_pipeline import Databases, RealPipeline
from tests.invariants import violations_at_rest
from tests.sources import source

PATIENTS = 200
PATIENCE_S = 1
WORK_LIMIT_S = 20.0
"""Patience, three waits of a second, and 200 transactions on a machine that does other things too."""


class WallClock(Clock):
    """The time as it is: a lock wait takes what it takes."""

    def __call__(self) -> dt.datetime:
        """Give the time."""
        return dt.datetime.now(dt.UTC)


@pytest.fixture(scope="module")
def databases(openemr_admin_url: str, source_admin_url: str) -> Iterator[Databases]:
    """Give an OpenEMR site and a PostgreSQL source."""
    with (
        installed_site(openemr_admin_url, "8.2.0-dev") as site,
        source(source_admin_url) as (url, marker_url),
        contextlib.ExitStack() as held,
    ):
        engine = sa.create_engine(url)
        held.callback(engine.dispose)
        yield Databases(site, engine, marker_url)


@pytest.fixture
def world(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealPipeline]:
    """Give members with little patience on them."""
    monkeypatch.setattr("consumer.openemr.session.LOCK_WAIT_TIMEOUT_S", PATIENCE_S)
    with RealPipeline(databases) as one:
        one.clock = WallClock()
        one.limits = LoopLimits(lock_patience=dt.timedelta(seconds=PATIENCE_S))
        yield one


@contextlib.contextmanager
def held(databases: Databases, fields: dict[str, Any]) -> Iterator[None]:
    """Hold a patient's row, as a clerk's transaction does."""
    with databases.site.clerk.engine.connect() as clerk:
        pid = databases.site.of(fields)["pid"]
        clerk.exec_driver_sql(f"SELECT pid FROM {databases.site.database}.patient_data WHERE pid = {pid} FOR UPDATE")
        yield
        clerk.rollback()


def work(world: RealPipeline, loop: ConsumerLoop, events: list[Event], limit_s: float = WORK_LIMIT_S) -> float:
    """Let a member work until none of the events is pending; give how long that took."""
    began_s = time.monotonic()
    while any(world.outcomes()[one.outbox_id][0] in {"pending", "processing"} for one in events):
        assert time.monotonic() - began_s < limit_s, "events are still pending"
        loop.run_once()
    return time.monotonic() - began_s


def retry(databases: Databases) -> dict[str, int]:
    """Let a retrier look once, some seconds later: for what is due then."""
    with databases.source.begin() as connection:
        earlier = sync_outbox.c.next_attempt_at - dt.timedelta(seconds=6)
        connection.execute(sa.update(sync_outbox).values(next_attempt_at=earlier))
    engine = source_database.create_engine(databases.marker_url)
    limits = RetryLimits()
    with contextlib.closing(open_target(databases.site.writer_url, databases.site.ledger)) as target:
        marker = SqlOutboxMarker(engine, RetryPolicy())
        tally = retry_failed_outbox(
            Retrier(SqlFailedRows(engine), target, marker, StormBreaker(limits), limits, WallClock())
        )
    engine.dispose()
    return dict(tally.outcomes)


def charged(databases: Databases) -> int:
    """Count the attempts that were charged."""
    with databases.source.connect() as connection:
        return int(connection.execute(sa.select(sa.func.sum(sync_outbox.c.retry_count))).scalar_one())


def test_one_chart_of_200_that_a_clerk_holds_holds_up_no_other(databases: Databases, world: RealPipeline) -> None:
    """The others are done in the stated time, it after the release by the retrier, and nothing is charged."""
    several = [clinic.patient() for _ in range(PATIENTS)]
    loop = world.member()
    work(world, loop, [world.happen(fields) for fields in several])
    events = [world.happen({**fields, "given_name": "Grace"}, Operation.UPDATE) for fields in several]
    blocked, *others = events
    with held(databases, several[0]):
        took_s = work(world, loop, events)
        outcomes = world.outcomes()
        assert ("failed", "failed") == outcomes[blocked.outbox_id]
        assert {("done", "applied")} == {outcomes[one.outbox_id] for one in others}
        assert took_s < WORK_LIMIT_S
        assert 2 * PATIENTS == sum(world.broker.committed.values())

        # What comes meanwhile meets no wait, but for the held chart's own next change.
        more = [world.happen(clinic.patient()) for _ in range(5)]
        again = world.happen({**several[0], "given_name": "Mary"}, Operation.UPDATE)
        assert work(world, loop, [*more, again]) < WORK_LIMIT_S
        assert {"failed": 2} == retry(databases)
    assert {"applied": 2} == retry(databases)
    assert "Mary" == databases.site.of(several[0])["fname"]
    assert 0 == charged(databases)
    assert [] == violations_at_rest(world.snapshot())
    assert [] == world.disagreements()
