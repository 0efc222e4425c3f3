"""Replays on a real broker and real databases: the plan says what the apply then does, and changes nothing itself."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence

import confluent_kafka
import pytest
import sqlalchemy as sa

from connectors.events import Event
from connectors.outbox import Operation
from consumer.bootstrap import StopSignal
from consumer.openemr.rehearsal import RehearsalTarget
from operations import replay
from operations.bootstrap import wired_replay
from operations.config import OperationsSettings
from operations.kafka_times import TopicTimes
from operations.record_source import TopicSource
from operations.recovery_ledger import RecoveryLedger, Run
from operations.replay import Replay
from operations.replay_file import read_plan
from operations.replay_forecast import REHEARSED, Repairs, differing
from operations.replay_pace import Pace
from operations.replay_plan import SAMPLE_MAX
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


def test_what_the_check_has_found_settled_is_not_read_again(
    world: ReplayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays settled: such an apply costs what its check costs, and tells the same as one that looks twice."""
    world.happened(made.patient())
    world.happened(made.patient())
    world.json("replay", "plan", "--output", "plan.json")
    monkeypatch.setattr(Replay, "_settle", lambda *_: pytest.fail("it was settled already"))

    applied = world.json("replay", "apply", "plan.json", "--why", "to be sure")

    assert ("finished", 2, {"duplicate": 2}) == tuple(applied[name] for name in ("state", "done", "counts"))
    run = RecoveryLedger(OperationsSettings.read()).run(read_plan(world.folder / "plan.json").plan_id)
    assert run is not None
    assert sum(run.positions.values()) == 2


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
    changed = plan.forecast.changes
    assert ("patient_data.email", "patient_data.fname") == changed["patient", known["patient_id"]]
    assert changed["patient", new["patient_id"]] is None
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
        assert world.json("replay", "show", "plan.json")["under_way"]
        applying.send_signal(signal.SIGKILL)
        applying.wait(LIMIT_S)
    _wait_for(lambda: not world.json("replay", "show", "plan.json")["under_way"])  # the server sees it a moment later

    shown = world.run("replay", "show", "plan.json").out
    assert "killed, or cut off from the ledger: " in shown
    assert "goes on where it ended" in shown
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
    ledger = RecoveryLedger(settings)
    with wired_replay() as replaying, ledger.alone(plan.plan_id) as hold:
        stopping = Replay(settings, replaying, source, plan, ledger=ledger, hold=hold)
        stopping.check(lambda: False, lambda _count: None)
        world.site.change("DELETE FROM list_options WHERE list_id = 'marital' AND option_id = 'new'")
        replaying.target._tables = replaying.target._read_tables()
        ended = stopping.apply(Pace(canary=True), lambda: False, lambda _count: None)

    assert ("stopped", 1, {"failed": 1}) == (ended.state, ended.done, {k: v for k, v in ended.counts.items() if v})
    assert "unknown_option: marital_status" in str(ended.reason)
    assert ["failed", "pending", "pending", "pending", "pending"] == [world.status(one) for one in events]


def test_ctrl_c_is_heard_while_the_rate_makes_it_wait(world: ReplayWorld) -> None:
    """Within moments, and nothing more is applied."""
    world.missed(*(made.patient() for _ in range(20)))
    world.json("replay", "plan", "--output", "plan.json")
    slow = ("replay", "apply", "plan.json", "--why", "with care", "--canary", "--rate", "0.2")
    with world.process(*slow) as applying:
        _wait(world, "plan.json", at_least=0)
        applying.send_signal(signal.SIGINT)
        sent_s = time.monotonic()
        out, _ = applying.communicate(timeout=LIMIT_S)

    assert time.monotonic() - sent_s < 4.0
    assert (1, True) == (applying.returncode, "1 of 20 events done" in out)


@pytest.mark.parametrize("words", [("plan", "--output", "plan.json"), ("apply", "first.json", "--why", "a drill")])
def test_a_signal_during_a_look_ends_it_in_words(
    world: ReplayWorld, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Nothing is changed, and no half of a plan is left."""
    [one] = world.missed(made.patient())
    world.json("replay", "plan", "--output", "first.json")
    monkeypatch.setattr(StopSignal, "is_set", lambda _signal: True)

    said = world.run("replay", *words)

    assert (1, "", True) == (said.code, said.out, said.err.splitlines()[-1].startswith("error: stopped"))
    assert ("pending", ["first.json"]) == (world.status(one), [path.name for path in world.folder.iterdir()])


def test_maintenance_pauses_an_apply_and_the_end_says_how_to_go_on(world: ReplayWorld) -> None:
    """As any system that is away; it is noted, and nothing is lost."""
    world.missed(*(made.patient() for _ in range(60)))
    world.json("replay", "plan", "--output", "plan.json")
    with world.process("replay", "apply", "plan.json", "--why", "an outage", "--rate", "20") as applying:
        _wait(world, "plan.json", at_least=10)
        assert world.run("maintenance", "on").code == 0
        out, _ = applying.communicate(timeout=LIMIT_S)
    shown = world.json("replay", "show", "plan.json")
    world.run("maintenance", "off")

    assert applying.returncode == 1
    assert "! paused: " in out
    assert "`emrsync replay apply plan.json --why ...` goes on here" in out
    assert ("paused", "paused") == (shown["run"]["state"], shown["actions"][0]["action"])
    assert "maintenance" in shown["actions"][0]["detail"]
    applied = world.json("replay", "apply", "plan.json", "--why", "the rest")
    assert ("finished", 60) == (applied["state"], applied["done"])


def test_a_lost_hold_on_a_plan_is_noticed_and_hides_nothing(world: ReplayWorld) -> None:
    """As an idle time-out or a restart of the server takes it: another apply could begin."""
    world.missed(*(made.patient() for _ in range(60)))
    plan_id = world.json("replay", "plan", "--output", "plan.json")["plan_id"]
    with world.process("replay", "apply", "plan.json", "--why", "an outage", "--rate", "20") as applying:
        _wait(world, "plan.json", at_least=10)
        _break_hold(world, plan_id)
        out, err = applying.communicate(timeout=LIMIT_S)

    assert (1, True) == (applying.returncode, "kept others from this plan was lost" in out), err
    assert "killed, or cut off from the ledger: " in world.run("replay", "show", "plan.json").out
    assert "finished" == world.json("replay", "apply", "plan.json", "--why", "the rest")["state"]
    ledger = RecoveryLedger(OperationsSettings.read())
    with ledger.alone("a drill"):
        _break_hold(world, "a drill")
    with ledger.alone("a drill") as hold:
        assert hold.is_held()


def test_an_apply_that_loses_the_server_ends_in_words(world: ReplayWorld) -> None:
    """All of its connections at once, as in a restart; what is in hand then comes again."""
    events = world.missed(*(made.patient() for _ in range(60)))
    world.json("replay", "plan", "--output", "plan.json")
    writer = sa.make_url(world.site.writer_url).username
    sessions = "SELECT id FROM information_schema.processlist WHERE user = %s"
    before = world.site.rows(sessions, writer)
    with world.process("replay", "apply", "plan.json", "--why", "an outage", "--rate", "20") as applying:
        _wait(world, "plan.json", at_least=10)
        for row in [one for one in world.site.rows(sessions, writer) if one not in before]:
            with contextlib.suppress(sa.exc.DBAPIError):  # it has ended by itself
                world.site.change(f"KILL {row['id']}")
        out, err = applying.communicate(timeout=LIMIT_S)

    assert (1, True, False) == (applying.returncode, "! paused: " in out, "Traceback" in err), out + err
    assert "goes on here" in out
    applied = world.json("replay", "apply", "plan.json", "--why", "the rest")
    assert ("finished", 60) == (applied["state"], applied["done"])
    assert {"done"} == {world.status(one) for one in events}


def test_a_paused_apply_goes_on_although_retention_dropped_what_was_done(world: ReplayWorld) -> None:
    """Only what is left is compared; what is left and gone is named."""
    events = world.missed(*(made.patient() for _ in range(12)))
    world.json("replay", "plan", "--output", "plan.json")
    run = _applied_in_part(world, 8)
    topic = world.clinic.topic(events[0])
    gone = [confluent_kafka.TopicPartition(topic, number, at) for (name, number), at in run.positions.items()
            if name == topic]  # fmt: skip
    for answer in world.clinic.admin.delete_records(gone).values():
        answer.result(LIMIT_S)

    applied = world.json("replay", "apply", "plan.json", "--why", "the rest")

    assert ("finished", 12) == (applied["state"], applied["done"])
    assert {"done"} == {world.status(one) for one in events}


def test_a_change_in_the_pause_is_found_before_the_rest(world: ReplayWorld) -> None:
    """An event that failed meanwhile is another fate than the plan's."""
    option = "INSERT INTO list_options (list_id, option_id, title, activity) VALUES ('marital', 'odd', 'o', 1)"
    world.site.change(option)
    world.missed(*(made.patient(marital_status="odd") for _ in range(4)))
    world.json("replay", "plan", "--output", "plan.json")
    _applied_in_part(world, 2)
    world.site.change("DELETE FROM list_options WHERE list_id = 'marital' AND option_id = 'odd'")

    said = world.run("replay", "apply", "plan.json", "--why", "the rest")

    assert said.code == 1
    assert "2 would have ended as write, now as fail" in said.err


def test_a_row_that_changed_since_the_plan_is_named_whichever_it_is(world: ReplayWorld) -> None:
    """By entity and column, without the values."""
    patients = [made.patient() for _ in range(SAMPLE_MAX + 3)]
    world.happened(*patients)
    world.missed(*({**one, "given_name": "Grace"} for one in patients), operation=Operation.UPDATE)
    world.json("replay", "plan", "--output", "plan.json")
    forecast = read_plan(world.folder / "plan.json").forecast
    _, last = [name for name in forecast.changes if name not in forecast.sample][-1]
    world.site.change("UPDATE patient_data SET email = 'a@clinic.example' WHERE pubpid = %s", last)

    said = world.run("replay", "apply", "plan.json", "--why", "too late")

    assert said.code == 1
    assert f"1 entities would be written otherwise (patient {last}: also patient_data.email)" in said.err
    assert "a@clinic.example" not in said.err


def test_a_repair_holds_few_rows_at_once(world: ReplayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The consumers wait for its locks, as for those of a plan's look."""
    world.happened(*(made.patient() for _ in range(REHEARSED + 5)))
    world.site.change("UPDATE patient_data SET city = 'Elsewhere'")
    world.json("replay", "plan", "--output", "plan.json", "--force-rewrite")
    sizes: list[int] = []

    def noted(rehearsal: RehearsalTarget, events: Sequence[Event]) -> Repairs:
        sizes.append(len(events))
        return differing(rehearsal, events)

    monkeypatch.setattr(replay, "differing", noted)
    world.json("replay", "apply", "plan.json", "--why", "a repair")

    assert [REHEARSED, 5] == sizes


def _applied_in_part(world: ReplayWorld, count: int) -> Run:
    """Apply the plan until so many events are done."""
    plan, settings = read_plan(world.folder / "plan.json"), OperationsSettings.read()
    source, ledger = TopicSource(TopicTimes(world.clinic.servers), world.clinic.prefix), RecoveryLedger(settings)
    done = Counter[str]()
    with wired_replay() as replaying, ledger.alone(plan.plan_id) as hold:
        one = Replay(settings, replaying, source, plan, ledger=ledger, hold=hold)
        one.check(lambda: False, lambda _count: None)
        # Chunks of one event.
        ended = one.apply(Pace(events_per_s=1.9), lambda: done["done"] >= count, lambda n: done.update(done=n))
    assert ("paused", count) == (ended.state, ended.done)
    run = ledger.run(plan.plan_id)
    assert run is not None
    return run


def _break_hold(world: ReplayWorld, subject: str) -> None:
    name = f"{world.site.ledger}:{subject}"[-64:]
    world.site.change(f"KILL {world.site.value('SELECT IS_USED_LOCK(%s)', name)}")


def _wait(world: ReplayWorld, plan: str, at_least: int) -> None:
    def is_there() -> bool:
        run = world.json("replay", "show", plan)["run"]
        return run is not None and run["done"] >= at_least

    _wait_for(is_there)


def _wait_for(done: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not done():
        assert time.monotonic() < deadline_s, "the apply does not get there"
        time.sleep(0.1)
