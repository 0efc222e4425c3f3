"""A resync of real rows by the real connector: once each, writing nothing, stopped anywhere, and told again."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from connectors.outbox import EntityType
from connectors.topics import entity_topics
from operations.config import OperationsSettings
from operations.connect import connect_client
from operations.kafka import KafkaAdmin
from producer_app import services
from producer_app.bootstrap import build
from producer_app.config import AppSettings
from tests import clinic as made
from tests.e2e.clinic_chain import Chain, Row
from tests.e2e.members import Member, wait_for

LIMIT_S = 120.0
WHY = ("--why", "a test")


@dataclasses.dataclass(frozen=True, slots=True)
class Operator:
    """Somebody who runs the command on the chain."""

    clinic: Chain

    def start(self, *words: str, command: str = "resync") -> subprocess.Popen[str]:
        """Start `emrsync resync`, or another command."""
        argv = [sys.executable, "-m", "operations", command, *words]
        environment = {**os.environ, **self.clinic.variables}
        return subprocess.Popen(argv, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, *words: str, command: str = "resync") -> tuple[int, str]:
        """Run it to its end; give exit code and what it says."""
        running = self.start(*words, command=command)
        said, errors = running.communicate(timeout=LIMIT_S)
        return running.returncode, said + errors

    def open_run(self) -> dict[str, Any]:
        """Give the ledger's row of the resync that has not ended; empty without one."""
        sql = "SELECT state, done, place FROM emr_sync.resync_run WHERE state NOT IN ('finished', 'aborted')"
        with self.clinic.openemr.connect() as connection:
            row = connection.exec_driver_sql(sql).mappings().one_or_none()
        return {} if row is None else {**row, "place": json.loads(row["place"])}

    def wait_run(self, of: str, value: object) -> None:
        """Wait until the open run says so."""
        wait_for(lambda: self.open_run().get(of) == value, LIMIT_S, self.open_run)

    def actions(self) -> list[str]:
        """Give what was done in the newest run."""
        sql = """SELECT action FROM emr_sync.recovery_action WHERE command = 'resync' AND subject =
            (SELECT run_id FROM emr_sync.resync_run ORDER BY started_at DESC LIMIT 1) ORDER BY action_id"""
        with self.clinic.openemr.connect() as connection:
            return list(connection.exec_driver_sql(sql).scalars())


@pytest.fixture
def operator(clinic: Chain) -> Iterator[Operator]:
    """Give an operator, and leave no resync open."""
    one = Operator(clinic)
    yield one
    if one.open_run():
        one.run("--abort", *WHY)


def headers(clinic: Chain) -> Iterator[Mapping[str, bytes | None]]:
    """Give the headers of all records of the entity topics; some are of other tests, and of no events."""
    admin = KafkaAdmin(clinic.variables["EMRSYNC_KAFKA_BOOTSTRAP_SERVERS"])
    for topic in entity_topics():
        for partition, (first, end) in enumerate(admin.kept(topic).offsets):
            for record in admin.records(topic, partition, first, end):
                yield dict(record.headers)


def records(clinic: Chain, outbox_ids: Sequence[uuid.UUID]) -> Counter[int]:
    """Count how often each event is in the topics: so many of them come so many times."""
    found = Counter((one.get("id") or b"").decode(errors="replace") for one in headers(clinic))
    return Counter(found[str(one)] for one in outbox_ids)


def written(clinic: Chain, entity_ids: Sequence[str]) -> int:
    """Count the writes into OpenEMR's rows of entities."""
    sql = sa.text("SELECT COUNT(*) FROM emr_sync.trail WHERE entity_id IN :ids")
    with clinic.openemr.connect() as connection:
        asked = sql.bindparams(sa.bindparam("ids", expanding=True))
        return connection.scalar(asked, {"ids": list(entity_ids)}) or 0


def settled_patients(clinic: Chain, count: int) -> tuple[list[str], list[uuid.UUID]]:
    """Write patients and wait for them; give entity ids and outbox ids."""
    patients = [made.patient() for _ in range(count)]
    outbox_ids = clinic.write(*(Row(EntityType.PATIENT, one) for one in patients))
    entity_ids = [str(one["patient_id"]) for one in patients]
    clinic.wait_settled(entity_ids)
    return entity_ids, outbox_ids


def chosen(entity_ids: Sequence[str]) -> list[str]:
    """Give the words that choose entities."""
    return [word for one in entity_ids for word in ("--entity-id", one)]


def test_rows_are_sent_again_once_each_and_write_nothing(clinic: Chain, consumer: Member, operator: Operator) -> None:
    """First only counted; then each row comes once more, is a duplicate, and its row says what it said."""
    entity_ids, outbox_ids = settled_patients(clinic, 30)
    before = written(clinic, entity_ids), clinic.states(entity_ids)

    code, looked = operator.run(*chosen(entity_ids), "--json")
    assert (0, 30, Counter({1: 30})) == (code, json.loads(looked)["events"], records(clinic, outbox_ids))
    code, said = operator.run(*chosen(entity_ids), "--slice", "7", "--apply", *WHY)

    assert (0, True) == (code, "30 of 30 events sent again" in said), said
    assert Counter({2: 30}) == records(clinic, outbox_ids)
    assert before == (written(clinic, entity_ids), clinic.states(entity_ids))
    assert ["started", "finished"] == operator.actions()
    with clinic.source.connect() as connection:
        assert 0 == connection.scalar(sa.text("SELECT count(*) FROM sync_signal"))


def test_a_resync_that_was_stopped_says_where_it_is_and_goes_on(
    clinic: Chain, consumer: Member, operator: Operator
) -> None:
    """Ctrl-C in the middle; no other one may begin; in the end each row has come once more."""
    entity_ids, outbox_ids = settled_patients(clinic, 30)
    running = operator.start(*chosen(entity_ids), "--slice", "5", "--rate", "5", "--apply", *WHY)
    wait_for(lambda: operator.open_run().get("done", 0) >= 10, LIMIT_S, operator.open_run)

    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=LIMIT_S)

    done = operator.open_run()["done"]
    assert (1, True) == (running.returncode, f"{done} of 30 events sent again\npaused" in said), said
    assert Counter({2: done, 1: 30 - done}) == records(clinic, outbox_ids)
    code, told = operator.run()
    assert (1, True) == (code, f"is paused: {done} of 30 events done" in told and "--resume" in told), told
    code, refused = operator.run(*chosen(entity_ids), "--apply", *WHY)
    assert (1, True) == (code, "go on with that one" in refused), refused
    assert (0, "30 of 30 events sent again") == _last_line(operator.run("--resume", *WHY))
    assert Counter({2: 30}) == records(clinic, outbox_ids)
    assert ["started", "paused", "resumed", "finished"] == operator.actions()


def test_a_resync_that_was_killed_before_its_signal_asks_when_it_goes_on(
    clinic: Chain, consumer: Member, operator: Operator
) -> None:
    """The slice was chosen, and the connector was not told."""
    entity_ids, outbox_ids = settled_patients(clinic, 10)
    with clinic.source.connect() as holder:
        holder.exec_driver_sql("LOCK TABLE sync_signal IN EXCLUSIVE MODE")
        running = operator.start(*chosen(entity_ids), "--slice", "5", "--apply", *WHY)
        wait_for(lambda: bool(operator.open_run()), LIMIT_S, operator.open_run)
        running.kill()
        running.communicate(timeout=LIMIT_S)
        _end_waiting_sessions(clinic)
        holder.rollback()

    code, told = operator.run()
    assert (1, True) == (code, "was killed: 0 of 10 events done, 5 more were under way" in told), told
    assert (0, "10 of 10 events sent again") == _last_line(operator.run("--resume", *WHY))
    assert Counter({2: 10}) == records(clinic, outbox_ids)


@pytest.mark.parametrize(
    ("number", "word"),
    [(signal.SIGKILL, "not under way any more: it was cut off, or was killed"), (signal.SIGINT, "paused")],
    ids=["killed", "stopped"],
)
def test_a_resync_that_ended_after_its_signal_waits_for_it_when_it_goes_on(
    clinic: Chain, consumer: Member, operator: Operator, number: signal.Signals, word: str
) -> None:
    """The connector is away, and does what it was told when it comes back: it is not told again."""
    entity_ids, outbox_ids = settled_patients(clinic, 10)
    settings = OperationsSettings.of(clinic.variables)
    with clinic.source.connect() as holder, connect_client(settings, retry_limit_s=10) as connect:
        holder.exec_driver_sql("LOCK TABLE sync_signal IN EXCLUSIVE MODE")
        running = operator.start(*chosen(entity_ids), "--slice", "5", "--apply", *WHY)
        wait_for(lambda: bool(operator.open_run()), LIMIT_S, operator.open_run)
        connect.stop(settings.connector_name)
        holder.rollback()
        wait_for(lambda: _signals(clinic) == 1, LIMIT_S, lambda: _signals(clinic))
        running.send_signal(number)
        running.communicate(timeout=LIMIT_S)
        code, told = operator.run()
        assert (1, True) == (code, f"is {word}: 0 of 10 events done, 5 more were under way" in told), told
        connect.resume(settings.connector_name)
        wait_for(lambda: connect.status(settings.connector_name).running, LIMIT_S, lambda: None)

    assert (0, "10 of 10 events sent again") == _last_line(operator.run("--resume", *WHY))
    assert Counter({2: 10}) == records(clinic, outbox_ids)


def test_a_resync_that_is_given_up_leaves_no_signal_behind(clinic: Chain, consumer: Member, operator: Operator) -> None:
    """It was killed after its signal; what the connector has read of it already does no harm."""
    entity_ids, _ = settled_patients(clinic, 10)
    settings = OperationsSettings.of(clinic.variables)
    with clinic.source.connect() as holder, connect_client(settings, retry_limit_s=10) as connect:
        holder.exec_driver_sql("LOCK TABLE sync_signal IN EXCLUSIVE MODE")
        running = operator.start(*chosen(entity_ids), "--slice", "5", "--apply", *WHY)
        wait_for(lambda: bool(operator.open_run()), LIMIT_S, operator.open_run)
        connect.stop(settings.connector_name)
        holder.rollback()
        wait_for(lambda: _signals(clinic) == 1, LIMIT_S, lambda: _signals(clinic))
        running.kill()
        running.communicate(timeout=LIMIT_S)

        code, told = operator.run("--abort", *WHY)

        assert (0, 0) == (code, _signals(clinic)), told
        connect.resume(settings.connector_name)
        wait_for(lambda: connect.status(settings.connector_name).running, LIMIT_S, lambda: None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
def test_a_resync_from_the_tables_that_is_stopped_says_where_it_is_and_goes_on(
    clinic: Chain, consumer: Member, operator: Operator, number: signal.Signals
) -> None:
    """At five a second thirty take six seconds: the signal comes in the middle."""
    application = build(AppSettings.read(app_url=clinic.variables["EMRSYNC_APP_URL"]))
    patients = [made.patient() for _ in range(30)]
    for one in patients:
        services.create(application.unit_of_work(), EntityType.PATIENT, one)
    application.close()
    ids = [str(one["patient_id"]) for one in patients]
    clinic.wait_settled(ids)

    paced = ("--from-tables", "--every", *chosen(ids), "--slice", "5", "--rate", "5")
    running = operator.start(*paced, "--apply", *WHY)
    wait_for(lambda: operator.open_run().get("done", 0) >= 5, LIMIT_S, operator.open_run)
    running.send_signal(number)
    said, _ = running.communicate(timeout=LIMIT_S)

    done = operator.open_run()["done"]
    assert (1, True) == (running.returncode, f"{done} of 30 events sent again\npaused" in said), said
    assert 5 <= done < 30
    code, told = operator.run()
    assert (1, True) == (code, f"a resync from the tables is paused: {done} of 30" in told), told
    assert (0, "30 of 30 events sent again") == _last_line(operator.run("--resume", *WHY))
    assert Counter({"resync": 30}) == Counter(row["cause"] for row in clinic.wait_settled(ids) if row["cause"])
    assert ["started", "paused", "resumed", "finished"] == operator.actions()


def test_what_was_purged_is_told_again_from_the_tables(clinic: Chain, consumer: Member, operator: Operator) -> None:
    """Full states as updates, a deleted entity as a delete, once each; OpenEMR has them already and changes nothing."""
    application = build(AppSettings.read(app_url=clinic.variables["EMRSYNC_APP_URL"]))
    uow = application.unit_of_work()
    patient, gone = made.patient(), made.patient()
    encounter = made.encounter(patient["patient_id"])
    order = made.order(patient["patient_id"], encounter_id=encounter["encounter_id"])
    for kind, payload in (("patient", patient), ("patient", gone), ("encounter", encounter), ("order", order)):
        services.create(uow, EntityType(kind), payload)
    services.delete_patient(uow, gone["patient_id"])
    application.close()
    ids = [patient["patient_id"], gone["patient_id"], encounter["encounter_id"], order["order_id"]]
    clinic.wait_settled(ids)
    before = written(clinic, ids)
    with clinic.source.begin() as connection:
        purge = sa.text("DELETE FROM sync_outbox WHERE entity_id IN :ids").bindparams(
            sa.bindparam("ids", expanding=True)
        )
        connection.execute(purge, {"ids": ids})

    assert (0, "4 of 4 events sent again") == _last_line(operator.run("--from-tables", *chosen(ids), "--apply", *WHY))

    rows = clinic.wait_settled(ids)
    assert Counter({("update", "resync", "done"): 3, ("delete", "resync", "done"): 1}) == Counter(
        (row["operation"], row["cause"], row["status"]) for row in rows
    )
    assert before == written(clinic, ids)
    assert {b"resync"} == {_header(clinic, row["outbox_id"], "cause") for row in rows}
    code, said = operator.run("--from-tables", *chosen(ids), "--apply", *WHY)
    assert (0, True) == (code, "no entity is meant" in said), said
    code, said = operator.run("--from-tables", "--every", *chosen(ids))
    assert (0, True) == (code, "4 entities get a new event" in said), said


def test_a_lost_row_is_sent_again_by_the_connector_when_a_sweep_asks_for_it(
    clinic: Chain, consumer: Member, operator: Operator
) -> None:
    """A row that was written while the publication did not hold the table has no record, and later rows have."""
    patient = made.patient()
    with clinic.source.begin() as connection:
        connection.exec_driver_sql("ALTER PUBLICATION emrsync SET TABLE sync_signal")
    [lost] = clinic.write(Row(EntityType.PATIENT, patient))
    with clinic.source.begin() as connection:
        connection.exec_driver_sql("ALTER PUBLICATION emrsync SET TABLE sync_outbox, sync_signal")
        old = sa.text("UPDATE sync_outbox SET created_at = now() - interval '2 hours' WHERE outbox_id = :id")
        connection.execute(old, {"id": lost})
    # No later row has come: only the connector's own position tells that it is past this one.
    code, said = operator.run("--json", command="sweep")
    assert (1, ["lost"]) == (code, [row["cause"] for row in json.loads(said)["rows"] if row["outbox_id"] == str(lost)])
    settled_patients(clinic, 1)
    assert Counter({0: 1}) == records(clinic, [lost])

    code, said = operator.run("--apply", "--through-connector", "--json", *WHY, command="sweep")

    assert (0, 1) == (code, json.loads(said)["sent_again"]), said
    assert ["done"] == [row["status"] for row in clinic.wait_settled([patient["patient_id"]])]
    assert Counter({1: 1}) == records(clinic, [lost])


def _last_line(ran: tuple[int, str]) -> tuple[int, str]:
    code, said = ran
    return code, next((line for line in said.splitlines() if "sent again" in line and "of" in line), said)


def _signals(clinic: Chain) -> int:
    with clinic.source.connect() as connection:
        return connection.scalar(sa.text("SELECT count(*) FROM sync_signal")) or 0


def _end_waiting_sessions(clinic: Chain) -> None:
    """A killed client's statement that waits for a lock would be carried out after all."""
    sql = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND query LIKE '%sync_signal%' AND pid <> pg_backend_pid()"""
    with clinic.source.begin() as connection:
        connection.execute(sa.text(sql)).all()


def _header(clinic: Chain, outbox_id: uuid.UUID, name: str) -> bytes | None:
    for found in headers(clinic):
        if found.get("id") == str(outbox_id).encode():
            return found[name]
    raise AssertionError(f"no record of {outbox_id}")
