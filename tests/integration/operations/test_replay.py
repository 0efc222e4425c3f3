"""Replays on a real broker and real databases: the plan says what the apply then does, and changes nothing itself."""

from __future__ import annotations

import signal
import time

from connectors.outbox import Operation
from operations.bootstrap import wired_replay
from operations.config import OperationsSettings
from operations.kafka_times import TopicTimes
from operations.record_source import TopicSource
from operations.recovery_ledger import RecoveryLedger
from operations.replay import Pace, Replay
from operations.replay_plan import read_plan
from operations.status import read_status
from tests import clinic as made
from tests.clinic import FAMILY_NAME
from tests.integration.consumer.openemr.sites import medication
from tests.integration.operations.letters import LIMIT_S
from tests.integration.operations.replay_world import ReplayWorld


def test_what_was_applied_is_planned_and_replayed_without_a_write(world: ReplayWorld) -> None:
    """All kinds of entities, an update and a delete: duplicates, and OpenEMR's rows keep even their times."""
    patient = made.patient()
    visit = made.encounter(patient["patient_id"])
    order, drug = made.order(patient["patient_id"]), medication(patient["patient_id"])
    world.happened(patient, visit, order, drug)
    world.happened({**patient, "given_name": "Grace"}, operation=Operation.UPDATE)
    world.happened(order, operation=Operation.DELETE)
    before = world.openemr()

    planned = world.json("replay", "plan", "--output", "plan.json")
    applied = world.json("replay", "apply", "plan.json", "--why", "a drill")

    assert (6, {"duplicate": 6}, [], []) == tuple(planned[name] for name in ("events", "counts", "failures", "sample"))
    assert ("finished", 6, {"duplicate": 6}) == tuple(applied[name] for name in ("state", "done", "counts"))
    assert before == world.openemr()


def test_a_plan_foretells_each_fate_and_changes_nothing_and_the_apply_keeps_to_it(world: ReplayWorld) -> None:
    """Names of columns, never values; after the apply the rows are there and the outbox rows say so."""
    known, twice = made.patient(), made.patient()
    world.happened(known)
    old, _ = world.missed(twice), world.happened({**twice, "given_name": "Grace"}, operation=Operation.UPDATE)
    [update] = world.missed({**known, "given_name": "Grace", "email": "g@clinic.example"}, operation=Operation.UPDATE)
    new = made.patient()
    [created, visit, orphan, bad] = world.missed(
        new, made.encounter(new["patient_id"]), made.encounter("P-nobody"), made.patient(marital_status="unheard-of")
    )
    before = world.openemr()

    said = world.run("replay", "plan", "--output", "plan.json")

    assert (1, before) == (said.code, world.openemr())
    plan = read_plan(world.folder / "plan.json")
    fates = {"duplicate": 2, "stale": 1, "write": 3, "wait": 1, "fail": 1}
    assert fates == {name: count for name, count in plan.forecast.counts.items() if count}
    changed = {one.entity_id: (one.is_new, one.columns) for one in plan.forecast.sample}
    assert (False, ("patient_data.email", "patient_data.fname")) == changed[known["patient_id"]]
    assert (True, ()) == changed[new["patient_id"]]
    [(error_class, message)] = plan.forecast.failures
    assert ("unknown_option", True) == (error_class, message.startswith("marital_status: is no option"))
    text = (world.folder / "plan.json").read_text() + said.out
    assert not [word for word in (FAMILY_NAME, "Grace", "g@clinic.example", "unheard-of") if word in text]

    applied = world.json("replay", "apply", "plan.json", "--why", "missed in the outage", "--canary")

    assert {"duplicate": 2, "stale": 1, "applied": 3, "waiting": 1, "failed": 1} == applied["counts"]
    assert "Grace" == world.site.of(known)["fname"]
    done = {one.outbox_id: world.status(one) for one in (*old, update, created, visit)}
    assert {"done"} == set(done.values())
    assert ("processing", "failed") == (world.status(orphan), world.status(bad))


def test_a_plan_is_refused_when_something_was_applied_in_between(world: ReplayWorld) -> None:
    """And the refusal says what, and is remembered with the name of who tried."""
    events = world.missed(made.patient(), made.patient())
    world.json("replay", "plan", "--output", "plan.json")
    world.settle(events[:1])

    said = world.run("replay", "apply", "plan.json", "--why", "too late")

    assert said.code == 1
    assert f"1 would have ended as write, now as duplicate (such as {events[0].outbox_id.hex})" in said.err
    assert "pending" == world.status(events[1])
    shown = world.json("replay", "show", "plan.json")
    assert [("refused", "Robin", "too late"), ("planned", "Robin", None)] == [
        (one["action"], one["operator"], one["why"]) for one in shown["actions"]
    ]


def test_a_plan_is_refused_when_its_records_are_gone(world: ReplayWorld) -> None:
    """As retention does it."""
    events = world.missed(*(made.patient() for _ in range(4)))
    world.json("replay", "plan", "--output", "plan.json")
    gone = world.delete_records(events)

    said = world.run("replay", "apply", "plan.json", "--why", "too late")

    assert said.code == 1
    assert f"the set has changed: {gone} events are there no more" in said.err
    limits = world.json("replay", "plan", "--output", "second.json")["limits_hit"]
    assert any("what was before is gone" in one for one in limits)
    replayable = read_status(OperationsSettings.read()).replayable
    topic = world.clinic.topic(events[0])
    assert isinstance(replayable, dict)
    assert {topic} == {name for name, since_ms in replayable.items() if since_ms is not None}
    assert abs(time.time() * 1000 - replayable[topic]) < 60_000


def test_one_entity_can_be_chosen_and_so_can_seqs_and_times(world: ReplayWorld) -> None:
    """What is not meant is not touched."""
    first, second, third = world.missed(made.patient(), made.patient(), made.patient())

    def ids(*words: str) -> list[bytes]:
        path = world.folder / f"{time.monotonic_ns()}.json"
        world.json("replay", "plan", "--output", str(path), *words)
        return sorted(read_plan(path).forecast.ids)

    assert [first.outbox_id.bytes] == ids("--entity-id", first.key.entity_id)
    assert [second.outbox_id.bytes] == ids("--from-seq", str(second.seq), "--to-seq", str(second.seq))
    assert [] == ids("--to-time", "2020-01-01T00:00:00+00:00")
    assert [] == ids("--from-time", "2999-01-01T00:00:00+00:00")
    assert [] == ids("--target", "fhir")
    assert [] == ids("--entity-type", "order")
    everything = sorted(one.outbox_id.bytes for one in (first, second, third))
    assert everything == ids("--from-time", "2020-01-01T00:00:00+00:00")


def test_a_row_that_somebody_changed_is_written_again_when_forced_and_no_other(world: ReplayWorld) -> None:
    """The newest state, although it was applied; the untouched row keeps even its time."""
    changed, untouched = made.patient(), made.patient()
    world.happened(changed, untouched)
    world.happened({**changed, "given_name": "Grace"}, operation=Operation.UPDATE)
    world.site.change("UPDATE patient_data SET fname = 'Oops' WHERE pubpid = %s", changed["patient_id"])
    world.site.change("UPDATE patient_data SET date = '2020-01-01'")
    before = world.site.of(untouched)

    plain = world.json("replay", "plan", "--output", "plain.json")
    forced = world.json("replay", "plan", "--output", "forced.json", "--force-rewrite")
    applied = world.json("replay", "apply", "forced.json", "--why", "a script went wrong")

    assert {"duplicate": 3} == plain["counts"]
    assert {"duplicate": 2, "rewrite": 1} == forced["counts"]
    assert [["patient_data.fname"]] == [one["columns"] for one in forced["sample"]]
    assert {"duplicate": 2, "rewrite": 1} == applied["counts"]
    assert "Grace" == world.site.of(changed)["fname"]
    assert before == world.site.of(untouched)


def test_an_apply_that_is_killed_goes_on_where_it_was_and_ends_the_same(world: ReplayWorld) -> None:
    """Killed with -9 half-way; the next command says so and finishes."""
    events = world.missed(*(made.patient() for _ in range(120)))
    world.json("replay", "plan", "--output", "plan.json")
    with world.process("replay", "apply", "plan.json", "--why", "an outage", "--rate", "40") as applying:
        _wait(world, "plan.json", at_least=30)
        applying.send_signal(signal.SIGKILL)
        applying.wait(LIMIT_S)

    shown = world.run("replay", "show", "plan.json").out
    assert "running: " in shown
    assert "goes on where it ended, whether it was paused or killed" in shown
    applied = world.json("replay", "apply", "plan.json", "--why", "the rest")

    assert ("finished", 120) == (applied["state"], applied["done"])
    assert {"done"} == {world.status(one) for one in events}
    assert 120 == world.site.value(f"SELECT COUNT(*) FROM {world.site.ledger}.applied_event "
                                   "WHERE seq BETWEEN %s AND %s", events[0].seq, events[-1].seq)  # fmt: skip
    assert 1 == world.run("replay", "apply", "plan.json", "--why", "again").code


def test_ctrl_c_pauses_and_what_is_given_up_is_applied_no_more(world: ReplayWorld) -> None:
    """The end says how to go on; an abort keeps what was done."""
    world.missed(*(made.patient() for _ in range(60)))
    world.json("replay", "plan", "--output", "plan.json")
    with world.process("replay", "apply", "plan.json", "--why", "an outage", "--rate", "20") as applying:
        _wait(world, "plan.json", at_least=10)
        applying.send_signal(signal.SIGINT)
        out, _ = applying.communicate(timeout=LIMIT_S)

    assert applying.returncode == 1
    assert "paused; `emrsync replay apply plan.json --why ...` goes on here" in out
    assert world.run("replay", "abort", "plan.json", "--why", "not worth it").code == 0
    said = world.run("replay", "apply", "plan.json", "--why", "or is it")
    assert said.code == 1
    assert "error: this plan is aborted; plan again" in said.err
    shown = world.json("replay", "show", "plan.json")
    assert ["aborted", "paused", "started", "planned"] == [one["action"] for one in shown["actions"]]


def test_an_error_that_the_plan_does_not_foresee_stops_the_canary(world: ReplayWorld) -> None:
    """OpenEMR changes after the check: one event fails, and the others are not tried."""
    world.site.change(
        "INSERT INTO list_options (list_id, option_id, title, activity) VALUES ('marital', 'new', 'n', 1)"
    )
    events = world.missed(*(made.patient(marital_status="new") for _ in range(5)))
    world.json("replay", "plan", "--output", "plan.json")
    plan, settings = read_plan(world.folder / "plan.json"), OperationsSettings.read()
    source = TopicSource(TopicTimes(world.clinic.servers), world.clinic.prefix)
    with wired_replay() as replaying:
        replay = Replay(settings, replaying, source, plan, RecoveryLedger(settings))
        replay.check(lambda _count: None)
        world.site.change("DELETE FROM list_options WHERE list_id = 'marital' AND option_id = 'new'")
        replaying.target._tables = replaying.target._read_tables()
        ended = replay.apply(Pace(canary=True), lambda: False, lambda _count: None)

    assert ("stopped", 1, {"failed": 1}) == (ended.state, ended.done, {k: v for k, v in ended.counts.items() if v})
    assert "unknown_option: marital_status" in str(ended.reason)
    assert ["failed", "pending", "pending", "pending", "pending"] == [world.status(one) for one in events]


def _wait(world: ReplayWorld, plan: str, at_least: int) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while True:
        run = world.json("replay", "show", plan)["run"]
        if run is not None and run["done"] >= at_least:
            return
        assert time.monotonic() < deadline_s, "the apply does not get there"
        time.sleep(0.1)
