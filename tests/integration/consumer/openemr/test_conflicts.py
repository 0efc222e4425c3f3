"""A chart that a clerk merged or deleted: parked, named, and settled by an operator in one of three ways."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

import connectors.migrations
from connectors.events import EntityKey, Event
from connectors.outbox import EntityType, sync_outbox
from consumer.outcome import Applied, ErrorClass, Failed, Outcome, Stale
from operations import cli
from tests import clinic
from tests.integration.consumer.openemr.sites import Fields, Site, event, key_of, medication

Emrsync = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def source(source_admin_url: str) -> Iterator[sa.Engine]:
    """Give an empty outbox."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    admin = sa.create_engine(source_admin_url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    url = sa.make_url(source_admin_url).set(database=name)
    try:
        connectors.migrations.upgrade(url.render_as_string(hide_password=False), report=lambda _line: None)
        yield sa.create_engine(url, poolclass=sa.NullPool)
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def emrsync(site: Site, source: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> Emrsync:
    """Give the command line on this site and outbox."""
    monkeypatch.setenv("EMRSYNC_OPENEMR_URL", site.writer_url)
    monkeypatch.setenv("EMRSYNC_OPERATOR", "the administrator on duty")
    monkeypatch.setenv("EMRSYNC_LEDGER_SCHEMA", site.ledger)
    monkeypatch.setenv("EMRSYNC_SOURCE_URL", source.url.render_as_string(hide_password=False))

    def run(*words: str) -> tuple[int, str]:
        ended = CliRunner().invoke(cli.build(["conflict"]), ["conflict", *words])
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            return 1, str(ended.exception)
        return ended.exit_code, ended.output

    return run


def park(source: sa.Engine, one: Event, outcome: Outcome) -> None:
    """Write the outbox row of a failed event, as the marker leaves it."""
    assert isinstance(outcome, Failed)
    with source.begin() as connection:
        connection.execute(
            sa.insert(sync_outbox).values(
                outbox_id=one.outbox_id,
                seq=one.seq,
                entity_type=one.key.entity_type.value,
                entity_id=one.key.entity_id,
                operation=one.operation.value,
                target_system=one.target_system.value,
                payload=one.payload.decode(),
                status="failed",
                outcome="failed",
                error_class=outcome.error_class.value,
                error_message=outcome.message,
            )
        )


def merge(site: Site, source_pid: int, target_pid: int) -> None:
    """Merge a chart into another, as OpenEMR does."""
    for table, column in (("form_encounter", "pid"), ("forms", "pid"), ("prescriptions", "patient_id")):
        site.change(f"UPDATE {table} SET {column} = %s WHERE {column} = %s", target_pid, source_pid)
    site.change("DELETE FROM patient_data WHERE pid = %s", source_pid)


def clerks_patient(site: Site) -> int:
    """Register a patient at the desk; OpenEMR fills in the uuid."""
    pid: int = site.value("SELECT MAX(pid) + 1 FROM patient_data")
    site.change("INSERT INTO patient_data (pid, uuid, lname) VALUES (%s, %s, 'Desk')", pid, uuid.uuid4().bytes)
    return pid


def merged_family(site: Site, source: sa.Engine) -> tuple[Fields, Fields, int, Event]:
    """Sync a patient with a visit, merge the chart away, and let an update of the patient fail."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    site.put(patient, visit)
    target = clerks_patient(site)
    merge(site, site.of(patient)["pid"], target)
    update = event("update", {**patient, "given_name": "Grace"})
    (outcome,) = site.apply(update)
    assert isinstance(outcome, Failed)
    assert outcome.error_class is ErrorClass.CONFLICT
    park(source, update, outcome)
    return patient, visit, target, update


def test_a_merged_chart_is_listed_with_the_chart_it_went_into_and_adopted(
    site: Site, source: sa.Engine, emrsync: Emrsync
) -> None:
    """The events go on in the chart that the clerk chose, whose uuid stays."""
    patient, visit, target, update = merged_family(site, source)
    theirs = site.value("SELECT uuid FROM patient_data WHERE pid = %s", target)

    code, shown = emrsync("list")
    assert code == 1
    assert f"emrsync conflict adopt --type patient {patient['patient_id']} {target} (its visits are there)" in shown

    code, said = emrsync("adopt", patient["patient_id"], str(target))
    assert (code, said) == (0, "settled; failed events that are due again: 1\n")
    drug = medication(patient["patient_id"], encounter_id=visit["encounter_id"])
    assert site.apply(update, event("update", {**visit, "reason": "x"}), event("create", drug)) == [Applied()] * 3
    row = site.row("SELECT fname, uuid FROM patient_data WHERE pid = %s", target)
    assert (row["fname"], row["uuid"]) == ("Grace", theirs)
    assert site.of(drug)["patient_id"] == target
    assert site.verified(visit["encounter_id"]).fine
    told = site.rows(f"SELECT action, author FROM {site.ledger}.trail WHERE entity_id = %s", patient["patient_id"])
    assert {"action": "adopt", "author": "the administrator on duty"} in told


def test_a_chart_that_is_gone_is_made_anew_when_the_operator_says_so(
    site: Site, source: sa.Engine, emrsync: Emrsync
) -> None:
    """Under a new number and the same uuid, so that FHIR clients find it again."""
    patient, _, _, update = merged_family(site, source)
    before = site.mapped(patient)

    assert emrsync("recreate", patient["patient_id"])[0] == 0
    assert site.apply(update) == [Applied()]
    row = site.of(patient)
    assert (row["uuid"], row["fname"]) == (before["uuid"], "Grace")
    assert row["pid"] != before["local_id"]


def test_openemrs_side_is_taken_by_drop(site: Site, source: sa.Engine, emrsync: Emrsync) -> None:
    """Failed events become stale; a later change of the application makes the patient anew."""
    patient, _, _, update = merged_family(site, source)

    assert emrsync("drop", patient["patient_id"])[0] == 0
    assert site.apply(update) == [Stale()]
    assert site.mapped(patient)["deleted_at"] is not None
    site.put({**patient, "given_name": "Jean"}, operation="update")
    assert site.of(patient)["fname"] == "Jean"


def test_a_failed_row_is_due_again_at_once(site: Site, source: sa.Engine, emrsync: Emrsync) -> None:
    """Also one that was given up."""
    patient, *_, update = merged_family(site, source)
    due = sa.select(sync_outbox.c.next_attempt_at).where(sync_outbox.c.outbox_id == update.outbox_id)
    with source.connect() as connection:
        assert connection.scalar(due) is None

    emrsync("recreate", patient["patient_id"])

    with source.connect() as connection:
        assert connection.scalar(due) is not None


@pytest.mark.parametrize("words", [("adopt", "{id}", "{chart}"), ("recreate", "{id}")], ids=["adopt", "recreate"])
def test_children_that_failed_for_want_of_the_chart_are_due_again(
    site: Site, source: sa.Engine, emrsync: Emrsync, words: tuple[str, ...]
) -> None:
    """Those of this patient, and no failure of another kind."""
    patient, _, target, update = merged_family(site, source)
    other, *_ = merged_family(site, source)
    mine, foreign = (event("create", clinic.encounter(one["patient_id"])) for one in (patient, other))
    for one, outcome in zip((mine, foreign), site.apply(mine, foreign), strict=True):
        park(source, one, outcome)
    refused = event("create", clinic.encounter(patient["patient_id"]))
    park(source, refused, Failed(ErrorClass.REFUSED, "form_encounter: is out of range"))

    code, said = emrsync(*(word.format(id=patient["patient_id"], chart=target) for word in words))

    assert (code, said) == (0, "settled; failed events that are due again: 2\n")
    row = sync_outbox.c
    parked = [one.outbox_id for one in (update, mine, foreign, refused)]
    query = sa.select(row.outbox_id).where(row.next_attempt_at.is_not(None), row.outbox_id.in_(parked))
    with source.connect() as connection:
        assert set(connection.scalars(query)) == {update.outbox_id, mine.outbox_id}
    assert site.apply(update, mine) == [Applied()] * 2


@pytest.mark.parametrize("words", [("adopt", "{id}", "1"), ("recreate", "{id}"), ("drop", "{id}")])
def test_a_record_without_a_conflict_is_left_alone(site: Site, emrsync: Emrsync, words: tuple[str, ...]) -> None:
    """A slip of the hand must not cut a live chart off."""
    patient = clinic.patient()
    site.put(patient)
    before = site.mapped(patient)

    code, said = emrsync(*(word.format(id=patient["patient_id"]) for word in words))

    assert (code, said) == (1, f"patient {patient['patient_id']} has its row in OpenEMR: there is no conflict")
    assert site.mapped(patient) == before


def test_a_row_that_is_anothers_is_not_adopted(site: Site, source: sa.Engine, emrsync: Emrsync) -> None:
    """Two patients of the application in one chart would overwrite each other; and a visit stays with its patient."""
    patient, visit, target, _ = merged_family(site, source)
    other = clinic.patient()
    site.put(other)
    code, said = emrsync("adopt", patient["patient_id"], str(site.of(other)["pid"]))
    assert (code, said) == (1, f"patient {site.of(other)['pid']} is {other['patient_id']} already")
    code, said = emrsync("adopt", patient["patient_id"], "2000000000")
    assert (code, said) == (1, "OpenEMR has not one patient 2000000000 with a uuid")

    site.change("DELETE FROM form_encounter WHERE pid = %s", target)
    foreign = clinic.encounter(other["patient_id"])
    site.put(foreign)
    number = site.of(foreign)["encounter"]
    site.change(f"DELETE FROM {site.ledger}.entity_map WHERE entity_id = %s", foreign["encounter_id"])
    code, said = emrsync("adopt", visit["encounter_id"], str(number), "--type", "encounter")
    assert (code, said) == (1, f"encounter {number} is of another patient than {patient['patient_id']}")


def test_the_list_is_json_for_programs(site: Site, source: sa.Engine, emrsync: Emrsync) -> None:
    """With what the outbox says and what OpenEMR has."""
    patient, _, target, _ = merged_family(site, source)

    _, shown = emrsync("list", "--json")

    mine = next(one for one in json.loads(shown) if one["entity_id"] == patient["patient_id"])
    assert (mine["events"], mine["conflict"]["candidates"]) == (1, [target])
    assert key_of(patient) == EntityKey(EntityType.PATIENT, mine["entity_id"])


def forget(site: Site, *several: Fields) -> None:
    """Take entities out of the ledger's map, as when an older one was restored, or a new one made."""
    ids = tuple(key_of(one).entity_id for one in several)
    site.change(f"DELETE FROM {site.ledger}.entity_map WHERE entity_id IN %s", ids)


def conflicting(site: Site, source: sa.Engine, fields: Fields) -> Event:
    """Let an event fail as a conflict."""
    one = event("create", fields)
    (outcome,) = site.apply(one)
    assert isinstance(outcome, Failed)
    assert outcome.error_class is ErrorClass.CONFLICT
    park(source, one, outcome)
    return one


def test_rows_of_a_lost_ledger_are_adopted_by_their_uuids(site: Site, source: sa.Engine, emrsync: Emrsync) -> None:
    """Each entity's uuid is made from its name, so that the row in OpenEMR tells whose it is."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    named = {"encounter_id": visit["encounter_id"]}
    several = [
        patient,
        visit,
        clinic.order(patient["patient_id"], **named),
        medication(patient["patient_id"], **named),
    ]
    site.put(*several)
    before = [site.mapped(one) for one in several]
    forget(site, *several)

    for one, was in zip(several, before, strict=True):
        failed = conflicting(site, source, one)
        key, number = key_of(one), was["local_id"]
        _, shown = emrsync("list")
        words = f"--type {key.entity_type} {key.entity_id}"
        assert f"emrsync conflict adopt {words} {number} (it bears the record's uuid)" in shown
        code, said = emrsync("adopt", key.entity_id, str(number + 1), "--type", key.entity_type)
        assert (code, said) == (
            1,
            f"{key.entity_type} {key.entity_id} can be {was['kind']} {number} only, by its uuid",
        )
        code, said = emrsync("recreate", key.entity_id, "--type", key.entity_type)
        assert (code, said) == (1, f"{was['kind']} {number} bears the uuid: emrsync conflict adopt takes it")
        assert emrsync("adopt", key.entity_id, str(number), "--type", key.entity_type)[0] == 0
        assert site.apply(failed) == [Applied()]

    after = [site.mapped(one) for one in several]
    for name in ("kind", "local_id", "row_id", "uuid", "parent_id", "content_hash"):
        assert [one[name] for one in after] == [one[name] for one in before]
    assert site.verified(*(key_of(one).entity_id for one in several)).fine


def test_a_row_whose_patient_the_ledger_does_not_know_is_adopted_after_him(
    site: Site, source: sa.Engine, emrsync: Emrsync
) -> None:
    """Its patient in the map is what later moves are compared with."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    site.put(patient, visit)
    number, pid = site.of(visit)["encounter"], site.of(patient)["pid"]
    forget(site, patient, visit)

    code, said = emrsync("adopt", visit["encounter_id"], str(number), "--type", "encounter")

    assert (code, said) == (1, f"encounter {number} is of pid {pid}, who is no patient in the map: adopt him first")


def test_a_uuid_that_only_the_registry_has_left_gets_a_row_again(
    site: Site, source: sa.Engine, emrsync: Emrsync
) -> None:
    """OpenEMR keeps the registry row of an encounter that was removed, and a lost ledger knows of neither."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    site.put(patient, visit)
    uuid_before = site.of(visit)["uuid"]
    site.delete(visit)
    forget(site, visit)
    failed = conflicting(site, source, visit)

    _, shown = emrsync("list")
    assert f"emrsync conflict recreate --type encounter {visit['encounter_id']}" in shown
    code, _ = emrsync("recreate", visit["encounter_id"], "--type", "encounter")

    assert code == 0
    assert site.apply(failed) == [Applied()]
    assert site.of(visit)["uuid"] == uuid_before
    assert site.verified(visit["encounter_id"]).fine


def test_openemrs_side_of_a_row_that_the_ledger_has_lost_is_taken_by_drop(
    site: Site, source: sa.Engine, emrsync: Emrsync
) -> None:
    """The row is left as it is; without a failed event there is nothing to drop."""
    patient = clinic.patient()
    site.put(patient)
    row = site.of(patient)
    forget(site, patient)
    assert emrsync("drop", patient["patient_id"]) == (
        1,
        f"patient {patient['patient_id']} has no failed event: there is no conflict",
    )
    failed = conflicting(site, source, {**patient, "given_name": "Grace"})

    assert emrsync("drop", patient["patient_id"])[0] == 0

    assert site.apply(failed) == [Stale()]
    assert site.row("SELECT * FROM patient_data WHERE pid = %s", row["pid"]) == row


@pytest.mark.parametrize("change", ["patient_id", "kind"])
def test_the_id_of_a_deleted_order_is_no_other_orders(
    site: Site, source: sa.Engine, emrsync: Emrsync, change: str
) -> None:
    """Its row stays, with the uuid that the id makes: the message says so, and drop ends the failure."""
    patient, other = clinic.patient(), clinic.patient()
    order = clinic.order(patient["patient_id"])
    site.put(patient, other, order)
    site.delete(order)
    before, row = site.mapped(order), site.of(order)
    reused = {**order, "patient_id": other["patient_id"]}
    if change == "kind":
        reused = medication(patient["patient_id"], order_id=order["order_id"])
    failed = conflicting(site, source, reused)

    _, shown = emrsync("list")
    said = "its row stays in OpenEMR under this id: give the other record an id of its own, and settle this by"
    assert said in shown
    assert f"emrsync conflict drop --type order {order['order_id']}" in shown
    kept = f"order {order['order_id']} was deleted, and OpenEMR keeps its row: drop settles it"
    for words in (("adopt", order["order_id"], "1"), ("recreate", order["order_id"])):
        assert emrsync(*words, "--type", "order") == (1, kept)
    assert emrsync("drop", order["order_id"], "--type", "order")[0] == 0

    assert site.apply(failed) == [Stale()]
    assert {**site.mapped(order), "last_seq": 0, "updated_at": 0} == {**before, "last_seq": 0, "updated_at": 0}
    assert site.of(order) == row
    site.put(order)
    assert site.mapped(order)["local_id"] == before["local_id"]
