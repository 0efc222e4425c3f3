"""An upgrade of OpenEMR under running consumers: they stop, say why, and go on; nothing is lost or failed by it."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import structlog
from typer.testing import CliRunner

from connectors.events import Event
from consumer.loop import ConsumerLoop
from consumer.openemr import target as target_module
from consumer.openemr.target import OpenEmrTarget
from consumer.outcome import Applied, ErrorClass, Failed, Waiting
from consumer.ports import OutdatedError, PausedError
from consumer.retry_failed import RetryLimits
from consumer.retry_role import RetryRole
from operations import cli
from operations.config import OperationsSettings
from operations.openemr_site import read_report
from tests import clinic
from tests.fakes import FakeEventStream, FakeFailedRows, FakeMarker, InlineExecutor
from tests.integration.consumer.openemr.sites import Fields, Site, event, installed_site, key_of, open_target
from tests.pipeline import Pipeline

Emrsync = Callable[..., tuple[int, str]]

UPGRADE = (
    "ALTER TABLE patient_data ADD nickname VARCHAR(50) NULL, MODIFY fname VARCHAR(100) NOT NULL DEFAULT ''",
    "UPDATE version SET v_patch = 4",
)
MANY = 200


def now() -> dt.datetime:
    """Give the time."""
    return dt.datetime.now(dt.UTC)


class Clinic(Pipeline):
    """A pipeline whose OpenEMR is real, on the real clock; use it in a with block.

    Its stream is its own, and so is its group: the ledger would take two streams of one group for one.
    """

    def __init__(self, site: Site, group_id: str = "rules") -> None:
        super().__init__()
        self._site = site
        self._group_id = group_id
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Clinic:
        """Give itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Give the connections back."""
        self._held.close()

    def member(self) -> ConsumerLoop:
        """Start a member."""
        target = self._opened()
        stream = FakeEventStream(self.broker, self.faults)
        return ConsumerLoop(
            stream, target, FakeMarker(self.source, self.faults), InlineExecutor(), limits=self.limits, clock=now
        )

    def retrier(self) -> RetryRole:
        """Start a retrier."""
        return RetryRole(
            FakeFailedRows(self.source, self.faults),
            self._opened,
            FakeMarker(self.source, self.faults),
            limits=RetryLimits(),
            interval_s=0.05,
        )

    def _opened(self) -> OpenEmrTarget:
        target = open_target(self._site.writer_url, self._site.ledger, group_id=self._group_id)
        self._held.callback(target.close)
        return target

    def turn(self, loop: ConsumerLoop, seconds: float) -> None:
        """Let a member work for a while."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            loop.run_once()
            time.sleep(0.01)

    def turn_until_done(self, loop: ConsumerLoop, *events: Event) -> None:
        """Let a member work until these are done."""
        until = time.monotonic() + 20
        while {status for status, _ in self.state(*events)} != {"done"}:
            assert time.monotonic() < until, self.state(*events)
            loop.run_once()
            time.sleep(0.01)


@pytest.fixture
def site(openemr_admin_url: str) -> Iterator[Site]:
    """Give a site before its upgrade."""
    with installed_site(openemr_admin_url, "7.0.3") as one:
        yield one


@pytest.fixture
def emrsync(site: Site, monkeypatch: pytest.MonkeyPatch) -> Emrsync:
    """Give the command line on this site."""
    monkeypatch.setenv("EMRSYNC_OPENEMR_URL", site.writer_url)
    monkeypatch.setenv("EMRSYNC_LEDGER_SCHEMA", site.ledger)
    monkeypatch.setenv("EMRSYNC_OPERATOR", "the administrator")

    def run(*words: str) -> tuple[int, str]:
        ended = CliRunner().invoke(cli.build([words[0]]), words)
        assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
        return ended.exit_code, ended.output

    return run


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let five minutes pass between two batches."""
    monkeypatch.setattr(target_module, "SITE_MAX_AGE_S", 0.0)


@pytest.mark.usefixtures("often")
def test_an_upgrade_pauses_is_explained_and_accepted(site: Site, emrsync: Emrsync) -> None:
    """Nothing is charged meanwhile; what the upgrade made shorter is known afterwards."""
    with Clinic(site) as world, structlog.testing.capture_logs() as logs:
        loop, before = world.member(), world.happen(clinic.patient())
        world.turn_until_done(loop, before)
        for statement in UPGRADE:
            site.change(statement)
        patient = clinic.patient()
        during = [world.happen(one) for one in (patient, clinic.encounter(patient["patient_id"]))]
        world.turn(loop, 1.0)

        assert [("pending", None)] * 2 == world.state(*during)
        assert [] == site.rows("SELECT 1 FROM patient_data WHERE pubpid = %s", patient["patient_id"])
        [reason] = [one["reason"] for one in logs if one["action"] == "paused"]
        assert "(patient_data.fname and 2 more)" in reason
        assert "emrsync openemr check" in reason
        with pytest.raises(PausedError, match="emrsync openemr check"):
            open_target(site.writer_url, site.ledger)
        [finding] = read_report(OperationsSettings.read()).findings
        assert finding.startswith("its tables have changed (differences: 3)")

        code, said = emrsync("openemr", "check")
        assert code == 1
        assert "patient_data.nickname: new, varchar(50) null" in said
        assert "patient_data.fname: varchar(255) not null" in said
        assert "version.v_patch: 3 -> 4" in said

        code, said = emrsync("openemr", "accept")
        assert (code, said.splitlines()[-1]) == (0, "accepted (differences: 3)")
        world.turn_until_done(loop, *during)
        long = world.happen(clinic.patient(given_name="x" * 101))
        world.turn(loop, 0.3)
        assert ("failed", "too_long") == (world.row(long).status, world.row(long).error_class)
        code, said = emrsync("openemr", "check")
        assert code == 0
        assert "accepted by the administrator at" in said


def test_a_row_that_the_upgraded_table_refuses_is_no_failure(site: Site, emrsync: Emrsync) -> None:
    """A column without a default makes every insert fail; that is seen before an event is charged with it."""
    patient = clinic.patient()
    site.put(patient)
    site.change("ALTER TABLE form_encounter ADD tenant INT NOT NULL")
    visit = clinic.encounter(patient["patient_id"])
    time.sleep(target_module.REFUSED_MIN_AGE_S)
    with pytest.raises(PausedError, match=r"changed \(form_encounter\.tenant\)"):
        site.put(visit)

    emrsync("openemr", "accept")

    assert site.refusal(visit) == (
        "refused",
        "form_encounter.tenant: has no default and no value (database error 1364)",
    )


def test_a_member_that_has_not_looked_since_is_stopped_when_another_table_is_accepted(
    site: Site, emrsync: Emrsync
) -> None:
    """Its drafts are made for columns of before."""
    site.change(*UPGRADE[:1])
    emrsync("openemr", "accept")

    assert site.refusal(clinic.patient(given_name="x" * 101))[0] == "too_long"
    site.change("ALTER TABLE patient_data ADD second VARCHAR(50) NULL")
    emrsync("openemr", "accept")
    with pytest.raises(OutdatedError):
        hold(site, clinic.patient())


def test_the_first_start_accepts_what_it_finds(site: Site, emrsync: Emrsync) -> None:
    """As when emrsync was upgraded to this version."""
    site.change(f"UPDATE {site.ledger}.site_state SET fingerprint = NULL, shape = NULL, accepted_at = NULL")
    assert emrsync("openemr", "check")[1].startswith("no tables were accepted yet")

    with site.reopened():
        assert "accepted by first start at" in emrsync("openemr", "check")[1]


def test_maintenance_under_load_loses_and_fails_nothing(site: Site, emrsync: Emrsync) -> None:
    """Nothing is written between the return of `on` and the call of `off`; then everything is."""
    stop = threading.Event()

    def work(world: Clinic, loop: ConsumerLoop) -> None:
        while not stop.is_set():
            world.turn(loop, 0.05)

    with Clinic(site, "one") as one, Clinic(site, "other") as other:
        worlds = [(world, world.member()) for world in (one, other)]
        events: list[tuple[Clinic, Event]] = []
        threads = [threading.Thread(target=work, args=pair) for pair in worlds]
        for thread in threads:
            thread.start()
        try:
            for number in range(MANY):
                for world, _ in worlds:
                    patient = clinic.patient()
                    events.append((world, world.happen(patient)))
                    events.append((world, world.happen(clinic.encounter(patient["patient_id"]))))
                if number == MANY // 4:
                    code, said = emrsync("maintenance", "on")
                    assert (code, "maintenance by the administrator since" in said) == (0, True)
                    at_rest = applied(site)
                time.sleep(0.005)
            assert applied(site) == at_rest
            assert 0 < at_rest < len(events)
            assert "failed" not in {world.row(event_).status for world, event_ in events}
            assert emrsync("maintenance", "on")[0] == 0  # whoever is second changes nothing
            assert read_report(OperationsSettings.read()).maintenance is not None
            assert emrsync("maintenance", "off")[0] == 0
            until = time.monotonic() + 30
            while any(world.row(event_).status != "done" for world, event_ in events) and time.monotonic() < until:
                time.sleep(0.05)
        finally:
            stop.set()
            for thread in threads:
                thread.join()

        assert {(world.row(event_).status, world.row(event_).retry_count) for world, event_ in events} == {("done", 0)}
    assert applied(site) == len(events)
    assert emrsync("maintenance", "off") == (0, "there was no maintenance\n")


def hold(site: Site, fields: Fields) -> None:
    """Open a transaction with the first statement of every batch."""
    with site.target.transaction() as transaction:
        transaction.lock([key_of(fields)])


def applied(site: Site) -> int:
    """Count what the ledger has settled."""
    return int(site.value(f"SELECT COUNT(*) FROM {site.ledger}.applied_event"))


def test_on_waits_for_the_open_batch(site: Site, emrsync: Emrsync) -> None:
    """And none can begin behind it."""
    emrsync("maintenance", "off")  # what is imported once is not waited for below
    paused = threading.Thread(target=emrsync, args=("maintenance", "on"))
    with site.target.transaction() as transaction:
        transaction.lock([key_of(clinic.patient())])
        paused.start()
        paused.join(1)
        assert paused.is_alive()
        transaction.commit()
    paused.join(10)

    assert not paused.is_alive()
    with pytest.raises(PausedError, match="emrsync maintenance off"):
        site.put(clinic.patient())


def test_a_retrier_and_a_member_that_starts_obey_too(site: Site, emrsync: Emrsync) -> None:
    """A failed row is neither tried nor charged."""
    with Clinic(site) as world:
        loop, failed = world.member(), world.happen(clinic.patient(sex="x"))
        world.turn(loop, 0.3)
        retrier = world.retrier()
        retrier.run_once()
        world.row(failed).next_attempt_at = now()
        emrsync("maintenance", "on")
        retrier.run_once()

        assert ("failed", 1) == (world.row(failed).status, world.row(failed).retry_count)
        with pytest.raises(PausedError, match="emrsync maintenance off"):
            open_target(site.writer_url, site.ledger)
        emrsync("maintenance", "off")
        world.row(failed).next_attempt_at = now()
        time.sleep(0.2)
        retrier.run_once()
        assert ("failed", 2) == (world.row(failed).status, world.row(failed).retry_count)


def test_the_pause_does_not_count_as_waiting_for_a_parent(site: Site, emrsync: Emrsync) -> None:
    """Nothing could come in the meantime."""
    patient = clinic.patient()
    child = event("create", clinic.encounter(patient["patient_id"]))
    (outcome,) = site.apply(child)
    assert isinstance(outcome, Waiting)
    since = f"SELECT since FROM {site.ledger}.waiting_event"
    before = site.value(since)

    emrsync("maintenance", "on")
    with pytest.raises(PausedError):
        site.target.overdue(now() + dt.timedelta(days=2), 10)
    time.sleep(1)
    emrsync("maintenance", "off")

    assert site.value(since) - before >= dt.timedelta(seconds=1)
    assert [one.outbox_id for one, _ in site.target.overdue(now() + dt.timedelta(days=2), 10)] == [child.outbox_id]
    assert site.apply(event("create", patient)) == [Applied()]


def test_refusals_are_not_taken_for_an_upgrade(site: Site) -> None:
    """A row that the database refuses still fails when the tables are as they were."""
    site.change("CREATE TRIGGER no_one BEFORE INSERT ON patient_data FOR EACH ROW SET NEW.lname = NULL")
    time.sleep(target_module.REFUSED_MIN_AGE_S)

    (outcome,) = site.apply(event("create", clinic.patient()))
    assert isinstance(outcome, Failed)
    assert outcome.error_class is ErrorClass.REFUSED
