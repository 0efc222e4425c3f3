"""Failed rows are tried again on real databases: by the role's processes, and by a person's commands."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from connectors.events import Event
from connectors.outbox import Operation
from consumer.failed_rows import SqlFailedRows
from consumer.openemr import target
from consumer.outbox_marker import SqlOutboxMarker
from consumer.retry import RetryPolicy
from consumer.retry_failed import RetryLimits
from consumer.retry_role import RetryRole
from operations import cli, retry_command
from tests import clinic
from tests.clinic import FAMILY_NAME
from tests.e2e.members import wait_for
from tests.integration.consumer.openemr.sites import installed_site
from tests.integration.consumer.retry_world import LIMIT_S, RetryWorld, retry_world
from tests.scratch import connected
from tests.sources import source


@pytest.fixture(scope="module")
def parts(openemr_admin_url: str, source_admin_url: str) -> Iterator[RetryWorld]:
    """Give a site and a clinic's database that the tests share."""
    with (
        installed_site(openemr_admin_url, "8.2.0-dev") as site,
        source(source_admin_url) as urls,
        retry_world(site, urls) as world,
    ):
        yield world


@pytest.fixture
def world(parts: RetryWorld) -> RetryWorld:
    """Give them with an empty outbox."""
    parts.clear()
    return parts


@pytest.fixture
def fresh_site(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an unknown option be looked up at once, however young the knowledge of the site is."""
    monkeypatch.setattr(target, "SITE_MIN_AGE_S", 0.0)


def single() -> tuple[dict[str, Any], str]:
    """Give a patient with a marital status that the site does not know, and that status."""
    option_id = f"o{uuid.uuid4().hex[:8]}"
    return clinic.patient(marital_status=option_id), option_id


def retry(world: RetryWorld, *arguments: str, answer: str | None = None) -> Result:
    """Call `emrsync retry …`."""
    return CliRunner().invoke(cli.build(["retry"]), ["retry", *arguments], env=dict(world.settings), input=answer)


def unknown(world: RetryWorld, count: int) -> tuple[list[Event], str]:
    """Let patients fail for one unknown option."""
    option_id = f"o{uuid.uuid4().hex[:8]}"
    return [world.failed(clinic.patient(marital_status=option_id)) for _ in range(count)], option_id


def test_a_row_succeeds_by_itself_after_its_option_was_added_in_openemr(world: RetryWorld, tmp_path: Path) -> None:
    """The role tries it, in vain at first; it says no value, and ends when told to."""
    fields, option_id = single()
    one = world.failed(fields)
    quick = {"EMRSYNC_RETRY_DELAY_FIRST_SECONDS": "0.5", "EMRSYNC_RETRY_DELAY_GROWTH": "1"}

    with world.process(tmp_path / "log", **quick, EMRSYNC_RETRY_ATTEMPTS_REJECTED="100") as retrier:
        world.be_due(one)
        wait_for(lambda: world.state(one)[2] > 1, LIMIT_S, lambda: retrier.log)
        assert "unknown_option" == world.row(one).error_class
        world.add_option(option_id)
        wait_for(lambda: world.state(one)[0] == "done", LIMIT_S, lambda: (world.state(one), retrier.log))

        assert "applied" == world.state(one)[1]
        assert option_id == world.site.of(fields)["status"]
        assert world.row(one).error_message is None
        assert 0 == retrier.terminate()
        assert FAMILY_NAME not in retrier.log
        assert '"action": "retry_stopped"' in retrier.log


def test_a_killed_retriers_row_is_taken_up_again(world: RetryWorld, tmp_path: Path, openemr_admin_url: str) -> None:
    """It was killed while OpenEMR's row was locked; another one settles it, once."""
    fields, option_id = single()
    created = world.settled({**fields, "marital_status": None})
    one = world.failed(fields, Operation.UPDATE)
    world.add_option(option_id)
    hold = {"EMRSYNC_RETRY_HOLD_SECONDS": "2"}

    with connected(openemr_admin_url, world.site.database) as clerk:
        where = "WHERE pid = (SELECT local_id FROM {}.entity_map WHERE entity_id = %s) FOR UPDATE"
        lock = f"SELECT pid FROM patient_data {where.format(world.site.ledger)}"
        assert clerk.exec_driver_sql(lock, (one.key.entity_id,)).one()
        with world.process(tmp_path / "killed", **hold) as killed:
            world.be_due(one)
            wait_for(lambda: world.state(one)[1] == "retrying", LIMIT_S, lambda: killed.log)
            killed.kill()
        clerk.rollback()
    assert ("processing", "retrying", 1) == world.state(one)

    with world.process(tmp_path / "next", **hold) as following:
        wait_for(lambda: world.state(one)[0] == "done", LIMIT_S, lambda: (world.state(one), following.log))
    assert ("done", "applied", 1) == world.state(one)
    assert ("done", "applied", 0) == world.state(created)
    assert option_id == world.site.of(fields)["status"]


def test_two_retriers_share_the_work_and_take_no_row_twice(world: RetryWorld, tmp_path: Path) -> None:
    """What both say they applied adds up, and nothing was a duplicate."""
    events, option_id = unknown(world, 60)
    world.add_option(option_id)
    with contextlib.ExitStack() as held:
        retriers = [
            held.enter_context(world.process(tmp_path / name, EMRSYNC_RETRY_ROWS_MAX="5")) for name in ("one", "other")
        ]
        world.be_due(*events)

        def logs() -> list[str]:
            return [retrier.log for retrier in retriers]

        wait_for(lambda: {world.state(one)[0] for one in events} == {"done"}, LIMIT_S, logs, interval_s=0.5)
        assert [0, 0] == [retrier.terminate() for retrier in retriers]

        applied = [sum(int(rows) for rows in re.findall(r'"applied": (\d+)', log)) for log in logs()]
    assert len(events) == sum(applied)
    assert all(applied)
    assert {("done", "applied", 1)} == {world.state(one) for one in events}


def test_a_consumer_and_a_retrier_at_the_same_entities_end_in_the_newest_state(
    world: RetryWorld, tmp_path: Path
) -> None:
    """The ledger's locks decide, row by row; nothing is lost and nothing older wins."""
    option_id = f"o{uuid.uuid4().hex[:8]}"
    fields = [clinic.patient(marital_status=option_id) for _ in range(30)]
    old = [world.failed(one) for one in fields]
    world.add_option(option_id)

    with world.process(tmp_path / "log", EMRSYNC_RETRY_ROWS_MAX="3") as retrier:
        world.be_due(*old)
        newer = [
            world.settled({**one, "marital_status": None, "given_name": "Grace"}, Operation.UPDATE)
            for one in reversed(fields)
        ]
        wait_for(lambda: {world.state(one)[0] for one in old} == {"done"}, LIMIT_S, lambda: retrier.log)
        assert 0 == retrier.terminate()

    assert {"Grace"} == {world.site.of(one)["fname"] for one in fields}
    assert {("done", "applied", 0)} == {world.state(one) for one in newer}
    assert {world.state(one)[1] for one in old} <= {"applied", "stale"}
    assert [one.seq for one in newer] == [world.site.mapped(one)["last_seq"] for one in reversed(fields)]


@pytest.mark.usefixtures("fresh_site")
def test_an_old_event_of_an_entity_that_has_moved_on_is_stale(world: RetryWorld) -> None:
    """And overwrites nothing, though OpenEMR would take it now."""
    fields, option_id = single()
    old = world.failed(fields)
    newer = world.settled({**fields, "marital_status": None, "given_name": "Grace"}, Operation.UPDATE)
    world.add_option(option_id)

    done = retry(world, "one", str(old.outbox_id), "--yes")

    assert 0 == done.exit_code, done.output
    assert "retried 1 row: stale 1" in done.output
    assert [("done", "stale", 1), ("done", "applied", 0)] == [world.state(one) for one in (old, newer)]
    assert "Grace" == world.site.of(fields)["fname"]


@pytest.mark.usefixtures("fresh_site")
def test_one_row_is_retried_and_tells_what_became_of_it(world: RetryWorld) -> None:
    """Failed again, then applied, then there is nothing more to retry."""
    fields, option_id = single()
    one = world.failed(fields)

    again = retry(world, "one", str(one.outbox_id), "--yes")
    assert 1 == again.exit_code
    assert "failed again: unknown_option: marital_status: " in again.output
    assert ("failed", "failed", 2) == world.state(one)

    world.add_option(option_id)
    assert 0 == retry(world, "one", str(one.outbox_id), "--yes").exit_code
    assert ("done", "applied", 2) == world.state(one)

    more = retry(world, "one", str(one.outbox_id), "--yes")
    assert (1, f"error: outbox row {one.outbox_id} is done (applied)") == (more.exit_code, more.output.strip())
    missing = retry(world, "one", str(uuid.uuid4()), "--yes")
    assert (1, True) == (missing.exit_code, "there is no outbox row" in missing.output)
    assert 2 == retry(world, "one", "P-1").exit_code
    assert FAMILY_NAME not in again.output


@pytest.mark.usefixtures("fresh_site")
def test_a_group_is_shown_before_anything_is_done(world: RetryWorld) -> None:
    """How many and which; then as many as were asked for, the oldest first."""
    events, option_id = unknown(world, 4)
    other = world.failed(clinic.patient(given_name="x" * 300))
    world.add_option(option_id)
    chosen = ("select", "--error-class", "unknown_option", "--entity-type", "patient")

    shown = retry(world, *chosen, "--dry-run")
    assert 0 == shown.exit_code
    assert re.search(r"patient +unknown_option +4", shown.output)
    assert all(str(one.outbox_id) in shown.output for one in events)
    assert str(other.outbox_id) not in shown.output
    assert {("failed", "failed", 1)} == {world.state(one) for one in events}

    unasked = retry(world, *chosen)
    assert (2, True) == (unasked.exit_code, "give --yes" in unasked.output)
    assert {"failed"} == {world.state(one)[0] for one in events}

    some = retry(world, *chosen, "--limit", "2", "--yes")
    assert (0, True) == (some.exit_code, "2 of 4 that match" in some.output)
    assert ["done", "done", "failed", "failed", "failed"] == [world.state(one)[0] for one in (*events, other)]

    told = retry(world, "select", "--yes", "--json")
    report = json.loads(told.stdout)
    assert 1 == told.exit_code
    assert ({"applied": 2, "failed": 1}, 3, 0, False) == tuple(
        report[name] for name in ("outcomes", "matching", "left", "dry_run")
    )
    assert ["too_long"] == [one["error_class"] for one in report["failed_again"]]
    assert FAMILY_NAME not in told.output + some.output + shown.output


def test_a_person_is_asked_and_may_say_no(world: RetryWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is done."""
    [one], _ = unknown(world, 1)
    monkeypatch.setattr(retry_command, "_somebody_is_there", lambda: True)

    refused = retry(world, "select", answer="n\n")
    assert (0, True) == (refused.exit_code, "Retry 1 row?" in refused.output)
    assert ("failed", "failed", 1) == world.state(one)

    assert 1 == retry(world, "select", answer="y\n").exit_code
    assert ("failed", "failed", 2) == world.state(one)


@pytest.mark.usefixtures("fresh_site")
def test_what_is_due_is_retried_once(world: RetryWorld) -> None:
    """And only that."""
    [one, later], option_id = unknown(world, 2)
    world.add_option(option_id)
    world.be_due(one)
    assert 0 == retry(world, "due", "--dry-run").exit_code
    assert "failed" == world.state(one)[0]

    done = retry(world, "due")

    assert (0, True) == (done.exit_code, "retried 1 row: applied 1" in done.output), done.output
    assert ["done", "failed"] == [world.state(row)[0] for row in (one, later)]
    assert "nothing to retry" in retry(world, "due").output


def test_a_storm_stops_a_group_and_spares_the_rest(world: RetryWorld) -> None:
    """It says so, and what was not tried keeps its attempts."""
    events, _ = unknown(world, 25)

    stopped = retry(world, "select", "--error-class", "unknown_option", "--yes")

    assert 1 == stopped.exit_code
    assert "stopped: 20 rows in a row failed with unknown_option" in stopped.output.replace("\n", " ")
    assert "5 rows not tried" in stopped.output
    assert [1] * 5 + [2] * 20 == sorted(world.state(one)[2] for one in events)


@pytest.mark.usefixtures("fresh_site")
def test_lost_connections_of_both_databases_are_an_outage_and_no_end(world: RetryWorld) -> None:
    """The next looks open new ones, and nothing is charged."""
    [one], option_id = unknown(world, 1)
    world.add_option(option_id)
    engine = world.marker_engine
    with world.site.reopened() as site:
        role = RetryRole(
            SqlFailedRows(engine),
            lambda: site.target,
            SqlOutboxMarker(engine, RetryPolicy()),
            limits=RetryLimits(uncharged_delay=dt.timedelta(milliseconds=1)),
            interval_s=60,
        )
        assert 60 == role.run_once()
        with world.admin.connect() as admin:
            ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = :user"
            admin.execute(sa.text(ended), {"user": engine.url.username})
        assert 60 > role.run_once()
        assert 60 == role.run_once()

        world.be_due(one)
        with site.target._connection.begin():
            number = site.target._connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one()
        site.change(f"KILL {number}")
        assert 60 > role.run_once()
        assert ("failed", "failed", 1) == world.state(one)
        assert 60 == role.run_once()
    assert ("done", "applied", 1) == world.state(one)
