"""The checker of the chaos tests finds what is wrong in each of the systems: its silence means something."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import pytest
import sqlalchemy as sa

from benchmarks.workload import Row, encounter, order, patient
from connectors.outbox import EntityType, Operation
from tests.chaos import effects
from tests.chaos.checker import Checker
from tests.chaos.load import write
from tests.chaos.outage import FIRST_NUMBER
from tests.e2e.clinic_chain import Chain
from tests.e2e.members import Member, member


@pytest.fixture(scope="module")
def lasting_consumer(clinic: Chain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    """Give a member that all tests here share."""
    with member(clinic.variables, tmp_path_factory.mktemp("member") / "consumer.log") as running:
        yield running


@pytest.fixture
def checker(clinic: Chain, lasting_consumer: Member) -> Iterator[Checker]:
    """Give a checker of a patient with an encounter and two orders, all done."""
    with contextlib.closing(Checker(clinic.variables)) as made:
        number = FIRST_NUMBER + made.after
        rows = [
            Row(EntityType.PATIENT, Operation.CREATE, patient(number)),
            Row(EntityType.ENCOUNTER, Operation.CREATE, encounter(number, number)),
            Row(EntityType.ORDER, Operation.CREATE, order(number, number, number)),
            Row(EntityType.ORDER, Operation.CREATE, order(number + 1, number, number)),
            Row(EntityType.PATIENT, Operation.UPDATE, patient(number, 1)),
        ]
        with effects.diary(made.openemr, str(made.openemr.url.database)):
            write(clinic.variables["EMRSYNC_APP_URL"], rows)
            made.wait_at_rest(60)
            assert [] == made.violations(at_rest=True, with_diary=True)
            yield made


SOURCE: Final = {
    "UPDATE sync_outbox SET status = 'pending' WHERE seq = {last}": "is pending",
    "UPDATE sync_outbox SET status = 'processing' WHERE seq = {last}": "nobody holds it",
    "UPDATE sync_outbox SET outcome = 'stale' WHERE seq = {last}": "in the outbox and applied in the ledger",
}
OPENEMR: Final = {
    "UPDATE patient_data SET mname = 'M0' WHERE pubpid = '{patient}'": "OpenEMR has (1, 'M0', 1)",
    "DELETE FROM patient_data WHERE pubpid = '{patient}'": "OpenEMR has None",
    "DELETE r FROM uuid_registry r JOIN patient_data p USING (uuid) WHERE p.pubpid = '{patient}'": "'M1', 0)",
    "INSERT INTO patient_data (pid, pubpid) SELECT MAX(pid) + 1, '{patient}' FROM patient_data": "has 2 rows in",
    "DELETE FROM emr_sync.applied_event WHERE seq = {last}": "marked done and was not settled",
    "UPDATE emr_sync.entity_map SET last_seq = last_seq - 1 WHERE entity_id = '{patient}'": "I1: ",
    "UPDATE emr_sync.entity_map SET content_hash = NULL WHERE entity_id = '{patient}'": "is not what seq",
    "UPDATE patient_data SET city = 'Elsewhere' WHERE pubpid = '{patient}'": "I4: ",
}


@pytest.mark.parametrize(("sql", "said"), [*SOURCE.items(), *OPENEMR.items()], ids=lambda one: one[:40])
def test_what_is_changed_behind_its_back_is_found(checker: Checker, sql: str, said: str) -> None:
    """In the source, in OpenEMR's rows, in the registry, in the ledger, and in the diary."""
    last = checker.rows()[-1]
    statement = sql.format(last=last["seq"], patient=last["entity_id"])
    with (checker.source if sql in SOURCE else checker.openemr).connect() as connection:
        connection.execute(sa.text(statement))
        connection.commit()

    found = checker.violations(at_rest=True, with_diary=True)
    repair(checker, last)
    assert any(said in one for one in found), found


def repair(checker: Checker, last: sa.RowMapping) -> None:
    """Leave nothing wrong for the tests that come after."""
    with checker.source.begin() as connection:
        done = "UPDATE sync_outbox SET status = 'done', outcome = 'applied' WHERE seq = :seq"
        connection.execute(sa.text(done), {"seq": last["seq"]})
    with checker.openemr.begin() as connection:
        connection.exec_driver_sql("DELETE FROM patient_data WHERE pubpid = %s AND uuid IS NULL", (last["entity_id"],))
