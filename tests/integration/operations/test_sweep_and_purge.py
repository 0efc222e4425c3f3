"""Rows that got lost on the way are found and settled; rows of no more use go, and only these."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from connectors.events import Event
from connectors.outbox import Operation, sync_outbox
from operations.errors import KafkaUnreachableError
from operations.purge import OutboxPurge, Portion
from tests import clinic as made
from tests.integration.consumer.openemr.sites import Site
from tests.integration.operations.letters import make_topics, remove_topics
from tests.integration.operations.replay_world import ReplayWorld


@pytest.fixture
def world(world: ReplayWorld, urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> ReplayWorld:
    """Let the administrator of the source purge."""
    monkeypatch.setenv("EMRSYNC_SOURCE_ADMIN_URL", urls[0])
    return world


def change(world: ReplayWorld, *events: Event, **values: object) -> None:
    """Change outbox rows."""
    with world.admin.begin() as connection:
        ids = [one.outbox_id for one in events]
        connection.execute(sa.update(sync_outbox).where(sync_outbox.c.outbox_id.in_(ids)).values(**values))


def there(world: ReplayWorld) -> set[object]:
    """Give the ids of the outbox."""
    with world.admin.connect() as connection:
        return set(connection.scalars(sa.select(sync_outbox.c.outbox_id)))


def test_each_old_pending_row_is_explained_and_the_lost_ones_are_settled(world: ReplayWorld) -> None:
    """Lost, applied but unmarked, still to be read, and not sent by the connector yet; a second sweep finds none."""
    patient = made.patient()
    lost = world.write(patient, made.encounter(patient["patient_id"]))
    unmarked = world.happened(made.patient())
    world.drain()
    change(world, *unmarked, status="pending", outcome=None, processed_at=None)
    coming = world.missed(made.patient())
    [unread] = world.write(made.patient())
    change(world, *lost, *unmarked, *coming, unread, created_at=dt.datetime.now(dt.UTC) - dt.timedelta(days=1))
    [young] = world.write(made.patient())
    change(world, young, created_at=dt.datetime.now(dt.UTC))

    looked = world.run("sweep")
    assert (1, ["pending"] * 2) == (looked.code, [world.status(one) for one in lost])
    swept = world.json("sweep", "--apply", "--why", "the slot was lost")

    assert {"lost": 2, "unmarked": 1, "coming": 1, "unread": 1} == swept["counts"]
    assert {"applied": 2, "duplicate": 1} == swept["settled"]
    needing = [*((one, "lost") for one in lost), *((one, "unmarked") for one in unmarked), (unread, "unread")]
    assert [(str(one.outbox_id), one.key.entity_type.value, one.key.entity_id, cause) for one, cause in needing] == [
        (row["outbox_id"], row["entity_type"], row["entity_id"], row["cause"]) for row in swept["rows"]
    ]
    assert {"done"} == {world.status(one) for one in (*lost, *unmarked)}
    assert {"pending"} == {world.status(one) for one in (*coming, unread, young)}
    again = world.run("sweep")
    assert (1, 0, 1) == (again.code, again.out.count(": lost"), again.out.count(": unread"))
    assert {"applied": 1} == world.json("sweep", "--unread-too", "--apply", "--why", "no connector")["settled"]
    assert 0 == world.run("sweep").code
    world.send(lost)
    world.drain()
    assert {"done"} == {world.status(one) for one in (*lost, *coming, unread)}


def test_only_what_is_done_confirmed_and_held_elsewhere_leaves_the_outbox(world: ReplayWorld) -> None:
    """Young, pending, failed and waiting rows stay, and done ones that the ledger or the topics do not know."""
    gone = world.happened(made.patient(), made.patient(), made.encounter("P-nobody"))
    [*gone, waiting] = gone
    [young] = world.happened(made.patient())
    [failed] = world.happened(made.patient(marital_status="unheard-of"))
    pending = world.missed(made.patient())
    unconfirmed = world.missed(made.patient())
    unheld = world.write(made.patient())
    world.settle(unheld)
    change(world, *unconfirmed, status="done")
    old = dt.datetime.now(dt.UTC) - dt.timedelta(days=40)
    change(world, *gone, waiting, failed, *pending, *unconfirmed, *unheld, processed_at=old)
    before = there(world)

    counted = world.json("purge")
    found = {"rows": 2, "kept": 2, "ledger_rows": None, "stopped": False}
    assert ({"removed": False, **found}, before) == (counted, there(world))
    removed = world.json("purge", "--apply", "--why", "monthly")

    assert {"removed": True, **found} == removed
    stay = {one.outbox_id for one in (waiting, young, failed, *pending, *unconfirmed, *unheld)}
    assert stay == there(world)


def test_a_row_that_was_sent_several_times_is_counted_once(world: ReplayWorld) -> None:
    """As after a resync, in another chunk than at first."""
    events = world.happened(*(made.patient() for _ in range(600)))
    world.send(events)
    change(world, *events, processed_at=dt.datetime.now(dt.UTC) - dt.timedelta(days=40))

    counted = world.json("purge")
    removed = world.json("purge", "--apply", "--why", "monthly")

    assert [(600, 0), (600, 0)] == [(one["rows"], one["kept"]) for one in (counted, removed)]


def test_rows_are_lost_and_not_unread_when_their_topic_is_empty_and_the_site_is_quiet(
    world: ReplayWorld, site: Site
) -> None:
    """By a mark or the ledger of a later row; a topic that was made anew tells nothing."""
    lost = world.write(made.patient())
    [later] = world.happened(made.patient())
    change(world, *lost, created_at=dt.datetime.now(dt.UTC) - dt.timedelta(days=40))
    remove_topics(world.clinic.admin, [world.clinic.topic(later)])
    make_topics(world.clinic.servers, world.clinic.prefix)

    assert {"lost": 1} == world.json("sweep")["counts"]
    with world.admin.begin() as connection:
        connection.execute(sa.delete(sync_outbox).where(sync_outbox.c.outbox_id == later.outbox_id))
    assert {"lost": 1} == world.json("sweep")["counts"]
    site.change(f"DELETE FROM {site.ledger}.entity_map")
    assert {"unread": 1} == world.json("sweep")["counts"]
    said = world.run("sweep")
    assert (1, 1) == (said.code, said.out.count(f"{lost[0].outbox_id} patient {lost[0].key.entity_id}: unread"))
    site.change(f"DELETE FROM {site.ledger}.applied_event")  # no watermark stands for them any more


def test_a_purge_that_fails_half_way_has_noted_who_why_and_how_far(
    world: ReplayWorld, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The topic is gone after the first portion."""
    events = world.happened(*(made.patient() for _ in range(600)))
    change(world, *events, processed_at=dt.datetime.now(dt.UTC) - dt.timedelta(days=40))
    portions = OutboxPurge.portions

    def failing(purge: OutboxPurge, *, dry_run: bool) -> Iterator[Portion]:
        yield next(portions(purge, dry_run=dry_run))
        raise KafkaUnreachableError("Kafka does not answer")

    monkeypatch.setattr(OutboxPurge, "portions", failing)
    said = world.run("purge", "--apply", "--why", "monthly")

    assert (1, "error: Kafka does not answer\n") == (said.code, said.err[said.err.index("error") :])
    removed = 600 - len(there(world))
    sql = f"SELECT action, why, operator, detail FROM {site.ledger}.recovery_action ORDER BY action_id DESC LIMIT 2"
    assert [
        ("failed", "monthly", "Robin", f"{removed} rows, 0 of the ledger; Kafka does not answer"),
        ("started", "monthly", "Robin", "done for 30 days, held by the topics"),
    ] == [tuple(row.values()) for row in site.rows(sql)]
    assert removed > 0


def test_a_purge_under_live_load_removes_nothing_that_is_not_confirmed(world: ReplayWorld, site: Site) -> None:
    """Rows are written, settled and marked all the time; some are marked done by mistake, and some never arrive."""
    ended = threading.Event()
    live: list[Event] = []

    def write() -> None:
        while not ended.is_set():
            live.extend(world.happened(made.patient(), made.patient()))

    mistaken = world.missed(*(made.patient() for _ in range(20)))
    unsettled = world.missed(*(made.patient() for _ in range(20)))
    change(world, *mistaken, status="done", processed_at=dt.datetime.now(dt.UTC) - dt.timedelta(days=40))
    writer = threading.Thread(target=write)
    writer.start()
    try:
        removed = 0
        while removed < 20:
            removed += world.json("purge", "--older-than", "0", "--apply", "--why", "under load")["rows"]
    finally:
        ended.set()
        writer.join()

    gone = {one.outbox_id for one in (*live, *mistaken, *unsettled)} - there(world)
    assert removed == len(gone)
    assert gone <= {one.outbox_id for one in live}
    confirmed = {row["outbox_id"] for row in site.rows(f"SELECT outbox_id FROM {site.ledger}.applied_event")}
    assert {one.bytes for one in gone} <= confirmed
    assert {"pending"} == {world.status(one) for one in unsettled}


def test_what_an_archive_holds_may_go_and_the_ledgers_rows_after_it_without_a_second_application(
    world: ReplayWorld, monkeypatch: pytest.MonkeyPatch, openemr_admin_url: str, site: Site
) -> None:
    """The watermark stays: an event delivered again is stale and writes nothing."""
    patient = made.patient()
    first = world.happened(patient)
    newer = world.happened({**patient, "given_name": "Grace"}, operation=Operation.UPDATE)
    change(world, *first, *newer, processed_at=dt.datetime.now(dt.UTC) - dt.timedelta(days=40))
    [unmapped] = world.happened(made.patient())
    site.change(f"DELETE FROM {site.ledger}.entity_map WHERE entity_id = %s", unmapped.key.entity_id)
    world.json("archive", "run", "kept")
    monkeypatch.setenv("EMRSYNC_OPENEMR_ADMIN_URL", openemr_admin_url)
    site.change(f"UPDATE {site.ledger}.applied_event SET applied_at = '2020-01-01'")
    rows = world.openemr()

    words = ("--archive", "kept", "--ledger-older-than", "60", "--apply", "--why", "monthly")
    removed = world.json("purge", *words)
    assert (2, 0) == (removed["rows"], removed["kept"])
    assert removed["ledger_rows"] >= 2
    kept = site.rows(f"SELECT entity_id FROM {site.ledger}.applied_event")
    assert [unmapped.key.entity_id] == [row["entity_id"] for row in kept], "no watermark stands for it"

    chosen = ("--archive", "kept", "--output", "plan.json", "--entity-id", patient["patient_id"])
    planned = world.json("replay", "plan", *chosen)
    world.json("replay", "apply", "plan.json", "--why", "a drill")
    assert {"stale": 2} == planned["counts"]
    assert rows == world.openemr()
    [second] = world.happened({**patient, "given_name": "Rosalind"}, operation=Operation.UPDATE)
    assert "done" == world.status(second)


def test_a_purge_needs_a_reason_and_keeps_the_ledger_longer_than_the_outbox(world: ReplayWorld) -> None:
    """Each is refused in words."""
    assert "--why" in world.run("purge", "--apply").err
    assert "at least as long" in world.run("purge", "--older-than", "30", "--ledger-older-than", "7").err
    assert "--why" in world.run("sweep", "--apply").err


def test_words_that_would_be_ignored_are_refused(world: ReplayWorld) -> None:
    """The topics are no archive, and a way of applying is nothing without it."""
    assert "--archive: takes a place" in world.run("purge", "--archive", "topics", "--apply", "--why", "monthly").err
    assert "holds no archive" in world.run("purge", "--archive", "mistyped").err
    assert "--through-connector: goes with --apply" in world.run("sweep", "--through-connector").err
