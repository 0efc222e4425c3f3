"""Archives of real topics: whole, found out when a byte differs, and enough to rebuild an OpenEMR from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import pytest

from connectors.outbox import Operation
from operations.archive_store import ArchiveStore
from tests import clinic as made
from tests.integration.consumer.openemr.sites import Site, installed_site, medication
from tests.integration.operations.letters import Clinic, make_topics, remove_topics
from tests.integration.operations.replay_world import ReplayWorld

PATIENTS: Final = int(os.environ.get("ARCHIVE_PATIENTS", "20"))
"""ARCHIVE_PATIENTS=16665 makes an archive of 100,010 events."""

RECORDS: Final = 3 * PATIENTS + 10
"""Of one history."""


@pytest.fixture(scope="module")
def sites(openemr_admin_url: str) -> Iterator[tuple[Site, Site]]:
    """Give a site with a history, and one that is as new."""
    with installed_site(openemr_admin_url, "8.2.0-dev") as one, installed_site(openemr_admin_url, "8.2.0-dev") as other:
        yield one, other


@pytest.fixture(scope="module")
def site(sites: tuple[Site, Site]) -> Site:
    """Give the one with a history."""
    return sites[0]


def history(world: ReplayWorld) -> None:
    """Let all kinds of things happen."""
    patients = [made.patient() for _ in range(PATIENTS)]
    world.happened(*patients)
    visits = [made.encounter(one["patient_id"]) for one in patients]
    world.happened(*visits)
    orders = [made.order(one["patient_id"]) for one in patients[::2]]
    drugs = [medication(one["patient_id"]) for one in patients[1::2]]
    world.happened(*orders, *drugs)
    world.happened(*({**one, "given_name": "Grace"} for one in patients[:7]), operation=Operation.UPDATE)
    # An order that comes and goes within one batch leaves no row, where otherwise a hidden one stays.
    world.happened(*visits[:3], operation=Operation.DELETE)


def test_an_empty_openemr_is_rebuilt_from_the_archive_alone(
    world: ReplayWorld, sites: tuple[Site, Site], clinic: Clinic
) -> None:
    """In two runs, with the topics gone after them; column by column as the original."""
    history(world)
    first = world.json("archive", "run", "kept")
    history(world)
    second = world.json("archive", "run", "kept")
    assert (RECORDS, RECORDS) == (first["records"], second["records"])
    assert {"records": 2 * RECORDS, "faults": [], "stopped": False} == world.json("archive", "verify", "kept")
    noted = f"SELECT subject, action, detail FROM {sites[0].ledger}.recovery_action WHERE command = 'archive'"
    assert [("kept", "started", None), ("kept", "archived", RECORDS)] * 2 == [
        (row["subject"], row["action"], row["detail"] and int(row["detail"].split()[0])) for row in sites[0].rows(noted)
    ]
    before = world.chart()
    names = [clinic.topic(one) for one in world.write(made.patient(), made.encounter("P"), made.order("P"))]
    remove_topics(clinic.admin, names)
    clinic.site = sites[1]

    planned = world.json("replay", "plan", "--archive", "kept", "--output", "plan.json")
    applied = world.json("replay", "apply", "plan.json", "--why", "a new server", "--canary")

    assert {"write": 2 * RECORDS} == planned["counts"]
    assert {"applied": 2 * RECORDS} == {word: count for word, count in applied["counts"].items() if count}
    assert before == world.chart()
    make_topics(clinic.servers, clinic.prefix)


def test_a_flipped_byte_is_found_wherever_it_is(world: ReplayWorld) -> None:
    """In a file of records and in a manifest; a replay does not read what is damaged either."""
    world.happened(made.patient())
    world.json("archive", "run", "kept")
    for path in [one for one in sorted((world.folder / "kept").rglob("*")) if one.is_file()]:
        whole = path.read_bytes()
        path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        said = world.run("archive", "verify", "kept")
        assert said.code == 1, path
        assert "not those that were written" in said.out or "any more" in said.out, path
        if path.suffix == ".avro":
            assert "not those that were written" in world.run("replay", "plan", "--archive", "kept").err
        path.write_bytes(whole)
    assert 0 == world.run("archive", "verify", "kept").code


def test_what_the_topic_dropped_before_it_was_archived_is_told(world: ReplayWorld) -> None:
    """By the run that comes too late, and by every check after it."""
    events = world.happened(*(made.patient() for _ in range(24)))
    gone = world.delete_records(events)

    run = world.run("archive", "run", "kept")
    checked = world.run("archive", "verify", "kept")

    assert (1, gone) == (run.code, run.out.count("were gone before they were archived"))
    assert (1, gone) == (checked.code, checked.out.count("are in no file"))


def test_a_killed_run_leaves_nothing_that_counts(world: ReplayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends between a file and its manifest; the next run makes the file anew, without gap or overlap."""
    world.happened(*(made.patient() for _ in range(4)))
    with monkeypatch.context() as patch:
        patch.setattr(ArchiveStore, "_write_manifest", _killed)
        with pytest.raises(Killed):
            world.run("archive", "run", "kept")
    world.happened(*(made.patient() for _ in range(4)))

    assert 8 == world.json("archive", "run", "kept")["records"]
    assert {"records": 8, "faults": [], "stopped": False} == world.json("archive", "verify", "kept")


def test_a_topic_that_was_made_anew_is_not_mixed_with_the_old_one(world: ReplayWorld, clinic: Clinic) -> None:
    """Its offsets begin again."""
    [one] = world.happened(made.patient())
    world.json("archive", "run", "kept")
    remove_topics(clinic.admin, [clinic.topic(one)])
    make_topics(clinic.servers, clinic.prefix)

    said = world.run("archive", "run", "kept")

    assert said.code == 1
    assert "was made anew" in said.err


def test_an_archive_of_an_object_store_is_read_and_written_alike(world: ReplayWorld) -> None:
    """A store in memory of fsspec's own stands for those that need an extra package."""
    world.happened(made.patient(), made.patient())

    assert 2 == world.json("archive", "run", "memory://emrsync/kept")["records"]
    assert {"records": 2, "faults": [], "stopped": False} == world.json("archive", "verify", "memory://emrsync/kept")
    assert 2 == world.json("replay", "plan", "--archive", "memory://emrsync/kept")["counts"]["duplicate"]


class Killed(BaseException):
    """Ends a command where no handler of errors holds it up."""


def _killed(*_arguments: object) -> None:
    raise Killed
