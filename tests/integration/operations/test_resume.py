"""Restore drills: OpenEMR's server comes back from a dump, or is a new one, and ends as if nothing had happened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import pytest
import sqlalchemy as sa

from connectors.events import Event
from connectors.outbox import Operation, sync_outbox
from tests import clinic as made
from tests.backups import dump, restore
from tests.integration.consumer.openemr.sites import Site, installed_site, medication
from tests.integration.operations.replay_world import ReplayWorld

PATIENTS: Final = int(os.environ.get("RESTORE_PATIENTS", "15"))
"""Of a day; RESTORE_PATIENTS=1665 makes it one of 5,001 events."""


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
    columns = "list_id, option_id, title, activity"
    add_option = f"INSERT INTO list_options ({columns}) VALUES ('marital', 'later', 'l', 1)"
    site.change(add_option)
    assert 0 == world.run("retry", "one", str(bad.outbox_id), "--yes").code
    world.missed(late)
    since = 2 + len(day(world)) - 1
    assert ("done", "done") == (world.status(bad), world.status(orphan))
    as_it_was, ledger = world.chart(), applied(world)
    restore(openemr_admin_url, world.folder / "backup.sql")
    site.change(add_option)
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


def applied(world: ReplayWorld) -> set[str]:
    """Give what the ledger has settled."""
    return {row["id"] for row in world.site.rows(f"SELECT HEX(outbox_id) AS id FROM {world.site.ledger}.applied_event")}
