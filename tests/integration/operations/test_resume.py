"""Restore drills: OpenEMR's server comes back from a dump, or is a new one, and ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa

import operations.resume
import operations.resume_outbox
from connectors.events import Event
from connectors.outbox import Operation, sync_outbox
from consumer.ports import TransientError
from consumer.settle import settle_events
from operations.config import OperationsSettings
from operations.kafka_group import GroupAdmin
from operations.recovery_ledger import RecoveryLedger
from tests import clinic as made
from tests.backups import dump, restore
from tests.e2e.members import Member, wait_for
from tests.integration.consumer.openemr.sites import Site, installed_site, medication
from tests.integration.operations.letters import LIMIT_S
from tests.integration.operations.replay_world import ReplayWorld

PATIENTS: Final = int(os.environ.get("RESTORE_PATIENTS", "15"))
"""Of a day; RESTORE_PATIENTS=1665 makes it one of 5,001 events."""


ADD_OPTION: Final = "INSERT INTO list_options (list_id, option_id, title, activity) VALUES ('marital', 'later', 'l', 1)"
"""What a clerk adds so that a patient can be applied."""


@pytest.fixture
def site(openemr_admin_url: str) -> Iterator[Site]:
    """Give each test a site of its own, since it is thrown away."""
    with installed_site(openemr_admin_url, "8.2.0-dev") as one:
        yield one


def day(world: ReplayWorld) -> list[Event]:
    """Let a day's events arrive: all kinds, updates, a delete, and children before their parents."""
    patients = [made.patient() for _ in range(PATIENTS)]
    events = world.missed(*patients)
    visits = [made.encounter(one["patient_id"]) for one in patients]
    events += world.missed(*visits, *(made.order(one["patient_id"]) for one in patients[::2]))
    events += world.missed(*(medication(one["patient_id"]) for one in patients[1::2]))
    events += world.missed(*({**one, "given_name": "Grace"} for one in patients[:5]), operation=Operation.UPDATE)
    world.drain()
    events += world.missed(visits[0], operation=Operation.DELETE)
    world.drain()
    return events


def test_a_restored_openemr_catches_up_to_what_it_would_have_been(
    world: ReplayWorld, site: Site, openemr_admin_url: str
) -> None:
    """With a day of events, a failed row that was retried since, and a child whose parent came since."""
    [bad] = world.missed(made.patient(marital_status="later"))
    late = made.patient()
    [orphan] = world.missed(made.encounter(late["patient_id"]))
    day(world)
    dump(openemr_admin_url, [site.database, site.ledger], world.folder / "backup.sql")
    site.change(ADD_OPTION)
    assert 0 == world.run("retry", "one", str(bad.outbox_id), "--yes").code
    world.missed(late)
    since = 2 + len(day(world)) - 1
    assert ("done", "done") == (world.status(bad), world.status(orphan))
    as_it_was, ledger = world.chart(), applied(world)
    restore(openemr_admin_url, world.folder / "backup.sql")
    site.change(ADD_OPTION)
    assert as_it_was != world.chart()

    looked = world.run("resume", "--from-ledger", "--dry-run")
    rewound = world.json("resume", "--from-ledger", "--yes", "--why", "the disk broke")
    world.drain()

    assert looked.code == 1
    assert f"{since:,} records that the consumers have settled since are missing" in looked.out
    assert "the topics still hold all of them" in looked.out
    assert "1 more are applied from the outbox itself: patient 1" in looked.out
    assert {"applied": 1} == rewound["applied_directly"]
    assert (as_it_was, ledger) == (world.chart(), applied(world))
    assert "nothing is missing" in world.run("resume", "--from-ledger", "--dry-run").out


def test_a_new_openemr_is_filled_from_zero_and_what_the_topics_dropped_comes_from_the_archive_or_the_outbox(
    world: ReplayWorld, site: Site, openemr_admin_url: str
) -> None:
    """The backup is one of an empty OpenEMR; the first records of each partition are gone from the topic."""
    dump(openemr_admin_url, [site.database, site.ledger], world.folder / "empty.sql")
    events = day(world)
    as_it_was, ledger = world.chart(), applied(world)
    world.json("archive", "run", "kept")
    gone = world.delete_records(events)
    restore(openemr_admin_url, world.folder / "empty.sql")

    by_archive = world.json("resume", "--from-ledger", "--archive", "kept", "--dry-run")
    by_outbox = world.json("resume", "--from-ledger", "--yes", "--why", "a new server")
    world.drain()

    assert (gone, {}, 0) == tuple(by_archive[name] for name in ("from_archive", "from_outbox", "lost"))
    assert (0, {"patient": gone}, 0) == tuple(by_outbox[name] for name in ("from_archive", "from_outbox", "lost"))
    assert (as_it_was, ledger) == (world.chart(), applied(world))

    restore(openemr_admin_url, world.folder / "empty.sql")
    with world.admin.begin() as connection:
        connection.execute(sa.delete(sync_outbox))
    assert gone == world.json("resume", "--from-ledger", "--dry-run")["lost"]
    world.json("resume", "--from-ledger", "--archive", "kept", "--yes", "--why", "and another")
    world.drain()
    assert as_it_was == world.chart()


def test_a_group_that_runs_is_not_rewound(world: ReplayWorld, site: Site, openemr_admin_url: str) -> None:
    """Its members would go on committing where they are."""
    dump(openemr_admin_url, [site.database, site.ledger], world.folder / "empty.sql")
    world.missed(made.patient())
    world.drain()
    restore(openemr_admin_url, world.folder / "empty.sql")
    stream = world.clinic.stream()
    while not stream._owned:
        stream.poll(records_max=1, timeout_s=0.1)

    said = world.run("resume", "--from-ledger", "--yes", "--why", "too soon")

    assert said.code == 1
    assert "1 consumers of group" in said.err
    stream.close()


def retried_since_the_backup(world: ReplayWorld, site: Site, backup: Path, admin_url: str) -> list[Event]:
    """Let rows fail, back OpenEMR up, and let them be applied by a retry after the correction."""
    bad = world.missed(*(made.patient(marital_status="later") for _ in range(5)), made.patient())
    world.drain()
    dump(admin_url, [site.database, site.ledger], backup)
    site.change(ADD_OPTION)
    assert 0 == world.run("retry", "select", "--error-class", "unknown_option", "--yes").code
    return bad


def stopped(_events: object) -> None:
    """Get a signal."""
    os.kill(os.getpid(), signal.SIGTERM)


def failed(_events: object) -> None:
    """Lose a system."""
    raise TransientError("the source is away")


@pytest.mark.parametrize(("end", "says"), [(stopped, "the same command goes on"), (failed, "the source is away")])
def test_an_end_half_way_leaves_a_state_in_which_the_same_command_goes_on(
    world: ReplayWorld, site: Site, openemr_admin_url: str, end: Callable[[object], None], says: str
) -> None:
    """What is applied already does not hide the rest, and who did what is remembered."""
    world.monkeypatch.setattr(operations.resume, "CLOCKS_DIFFER", dt.timedelta())
    world.monkeypatch.setattr(operations.resume_outbox, "ROWS_READ", 2)
    retried_since_the_backup(world, site, world.folder / "backup.sql", openemr_admin_url)
    as_it_was, ledger = world.chart(), applied(world)
    restore(openemr_admin_url, world.folder / "backup.sql")
    site.change(ADD_OPTION)
    calls: list[int] = []

    def settle(*parts: Any, **options: Any) -> Any:
        calls.append(len(parts[2]))
        if len(calls) == 2 and end is failed:
            end(parts)
        settled = settle_events(*parts, **options)
        if len(calls) == 1 and end is stopped:
            end(parts)
        return settled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operations.resume, "settle_events", settle)
        half = world.run("resume", "--from-ledger", "--yes", "--why", "the disk broke")
    assert (1, 1) == (half.code, half.err.count("error: "))
    assert says in half.err
    assert applied(world) < ledger
    assert 0 == world.run("resume", "--from-ledger", "--yes", "--why", "the disk broke").code

    assert (as_it_was, ledger) == (world.chart(), applied(world))
    actions = RecoveryLedger(OperationsSettings.read()).actions("resume", None, 10)
    assert ["started", end.__name__, "started", "rewound"] == [one.action for one in reversed(actions)]
    assert {("Robin", "the disk broke")} == {(one.operator, one.why) for one in actions}


def test_a_look_can_be_stopped(world: ReplayWorld) -> None:
    """Nothing was changed by then, and nothing is remembered."""
    world.happened(made.patient())
    right = GroupAdmin.lag

    def lag(*parts: Any) -> Any:
        stopped(parts)
        return right(*parts)

    world.monkeypatch.setattr(GroupAdmin, "lag", lag)
    said = world.run("resume", "--from-ledger", "--yes", "--why", "the disk broke")

    assert (1, "error: stopped while looking; nothing was changed") == (said.code, said.err.splitlines()[-1])
    assert () == tuple(RecoveryLedger(OperationsSettings.read()).actions("resume", None, 10))


def test_what_is_lost_is_not_hidden_by_rows_that_were_retried(
    world: ReplayWorld, site: Site, openemr_admin_url: str
) -> None:
    """Those stand for records from before the backup; and what is applied already, or failed, is not lost."""
    retried_since_the_backup(world, site, world.folder / "backup.sql", openemr_admin_url)
    events = world.missed(*(made.patient() for _ in range(8)), made.patient(marital_status="never"))
    with world.admin.begin() as connection:
        of_now = sync_outbox.c.outbox_id.in_([one.outbox_id for one in events])
        connection.execute(sa.update(sync_outbox).where(of_now).values(created_at=dt.datetime.now(dt.UTC)))
    world.drain()
    while world.delete_records(events):
        pass
    restore(openemr_admin_url, world.folder / "backup.sql")
    site.change(ADD_OPTION)

    whole = world.json("resume", "--from-ledger", "--dry-run")
    with world.admin.begin() as connection:
        purged = sync_outbox.c.outbox_id.in_([one.outbox_id for one in events[:3]])
        connection.execute(sa.delete(sync_outbox).where(purged))
    part = world.json("resume", "--from-ledger", "--dry-run")
    said = world.run("resume", "--from-ledger", "--yes", "--why", "the disk broke")

    assert ({"patient": 13}, 0) == (whole["from_outbox"], whole["lost"])
    assert ({"patient": 10}, 3) == (part["from_outbox"], part["lost"])
    assert said.code == 1
    assert "! 3 are neither in the topics, nor in the outbox" in said.out
    assert "nothing is missing" in world.run("resume", "--from-ledger", "--dry-run").out
    [later] = world.missed(made.patient())
    world.drain()
    assert world.status(later) == "done"


@pytest.mark.parametrize("lives_on", [True, False], ids=["the member lives on", "it is started anew"])
def test_members_pass_nothing_over_and_go_on_by_themselves_after_resume(
    world: ReplayWorld, site: Site, openemr_admin_url: str, tmp_path: Path, *, lives_on: bool
) -> None:
    """They write nothing into a ledger that was restored, wait outside the group, and say what to do."""
    backup = tmp_path / "backup.sql"
    with contextlib.ExitStack() as held:
        member = started(world, held)
        world.missed(*(made.patient() for _ in range(5)))
        wait_for(lambda: world.clinic.lag() == 0, LIMIT_S, lambda: member.log)
        dump(openemr_admin_url, [site.database, site.ledger], backup)
        events = day(world)
        as_it_was, ledger = world.chart(), applied(world)
        if lives_on:
            os.kill(member.pid, signal.SIGSTOP)
        else:
            member.close()
        restore(openemr_admin_url, backup)
        if lives_on:
            os.kill(member.pid, signal.SIGCONT)
        else:
            member = started(world, held)
        of_the_backup = applied(world), positions(world)
        world.send(events[-1:])

        wait_for(lambda: "emrsync resume --from-ledger" in member.log, LIMIT_S, lambda: member.log)
        wait_for(lambda: not GroupAdmin(world.clinic.servers).members(world.clinic.prefix), LIMIT_S, lambda: member.log)
        assert of_the_backup == (applied(world), positions(world))
        assert "wait for `emrsync resume --from-ledger`" in world.run("status").out

        assert 0 == world.run("resume", "--from-ledger", "--yes", "--why", "the disk broke").code
        wait_for(lambda: world.clinic.lag() == 0, LIMIT_S, lambda: member.log)
        assert (as_it_was, ledger) == (world.chart(), applied(world))
        assert not member.has_ended()


def test_the_drills_see_whose_a_record_is_and_when_it_was(world: ReplayWorld, site: Site) -> None:
    """What they compare is no less than what a clinician reads."""
    ada, grace = made.patient(), made.patient()
    visits = [made.encounter(one["patient_id"]) for one in (ada, grace)]
    world.happened(ada, grace)
    world.happened(*visits)
    world.happened(made.order(ada["patient_id"]), medication(ada["patient_id"]))
    before = world.chart()
    pids = [row["pid"] for row in site.rows("SELECT pid FROM patient_data ORDER BY pid")]
    to_the_other = [
        ("procedure_order", "patient_id", pids),
        ("prescriptions", "patient_id", pids),
        ("form_encounter", "pid", pids),
    ]
    changes = [
        (f"UPDATE {table} SET {column} = {there[0]} + {there[1]} - {column}",) * 2
        for table, column, there in to_the_other
    ]
    for table, column in (("form_encounter", "date"), ("forms", "date"), ("procedure_order", "date_ordered")):
        changes.append(
            tuple(f"UPDATE {table} SET {column} = {column} {sign} INTERVAL 1 DAY" for sign in "+-")  # type: ignore[arg-type]
        )
    for there, back in changes:
        site.change(there)
        assert before != world.chart(), there
        site.change(back)
        assert before == world.chart(), back


def started(world: ReplayWorld, held: contextlib.ExitStack) -> Member:
    """Start `emrsync consumer run` as a process, which ends with the test."""
    member = Member(world.settings, world.folder / f"{uuid.uuid4()}.log")
    held.callback(member.close)
    return member


def positions(world: ReplayWorld) -> list[Mapping[str, Any]]:
    """Give how far the ledger says that each partition is."""
    return world.site.rows(
        f"SELECT topic, partition_no, next_offset FROM {world.site.ledger}.stream_position ORDER BY 1, 2"
    )


def applied(world: ReplayWorld) -> set[str]:
    """Give what the ledger has settled."""
    return {row["id"] for row in world.site.rows(f"SELECT HEX(outbox_id) AS id FROM {world.site.ledger}.applied_event")}
