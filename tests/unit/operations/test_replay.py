"""The parts of a replay that need no server: stages, rate and stop, the plan's file and what has changed since."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import pytest

from connectors.outbox import Operation
from consumer.apply import RACES_MAX, apply_events
from consumer.outcome import Applied, ErrorClass, Failed
from consumer.ports import RaceError, Record, TransientError
from operations.config import OperationsSettings
from operations.errors import ArchiveError, PlanChangedError, ReplayError, StoppedError
from operations.recovery_ledger import PAUSED, RUNNING, STOPPED, Run
from operations.replay import Ended
from operations.replay_file import new_file, plan_text, read_plan
from operations.replay_forecast import rewrite_each
from operations.replay_pace import Brake, Pace, staged, until
from operations.replay_plan import (
    DUPLICATE,
    FAIL,
    REWRITE,
    STALE,
    UNCHANGED,
    WAIT,
    WRITE,
    Changes,
    Forecast,
    Plan,
    check_fates,
    check_set,
)
from operations.replay_selection import Selection
from operations.replay_sources import source_named
from operations.replay_view import ended_words, plan_lines, run_words
from tests import clinic
from tests.fakes import FakeOpenEmr, FakeTarget, Faults
from tests.made_events import NOON, event

PATH = Path("plan.json")
NOBODY: Callable[[], bool] = lambda: False  # noqa: E731 - a value like the others


def records(count: int) -> list[Record]:
    """Give records with offsets from 0."""
    return [Record("emrsync.patient", 0, number, b"P", b"{}", []) for number in range(count)]


def sizes(count: int, pace: Pace, *, idle: Collection[int] = ()) -> list[int]:
    """Give the sizes of an apply's chunks; idle: offsets of events that do nothing."""
    chunks = list(staged(records(count), pace, lambda record: record.offset not in idle))
    assert [record.offset for chunk in chunks for record in chunk] == list(range(count))
    return [len(chunk) for chunk in chunks]


class Clock:
    """Time that passes by sleeping only."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.sleeps: list[float] = []

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.sleeps.append(seconds)
        self.now_s += seconds


def test_a_canary_has_stages_of_1_10_and_100_and_then_no_larger_chunks() -> None:
    """So that a new error class is seen after 100 events at most, also in the rest."""
    assert [1, 10, 100, 100, 100, 9] == sizes(320, Pace(canary=True))
    assert [500, 500, 7] == sizes(1_007, Pace())


def test_events_that_do_nothing_fill_no_stage() -> None:
    """Any number of duplicates before the first write shows nothing; they are passed in the usual chunks."""
    assert [500, 201, 10, 89] == sizes(800, Pace(canary=True), idle=range(700))
    assert [1, 20, 29] == sizes(50, Pace(canary=True), idle=range(1, 20, 2))


def test_a_chunk_is_what_passes_within_a_second() -> None:
    """Also within a canary's stages, and at less than one a second."""
    assert [1, 10, 20, 20, 9] == sizes(60, Pace(canary=True, events_per_s=20))
    assert [1, 1, 1] == sizes(3, Pace(events_per_s=0.1))
    assert [500, 100] == sizes(600, Pace(events_per_s=50_000))


def test_the_rate_is_kept_and_what_was_slower_is_not_caught_up() -> None:
    """By the clock, not by the mean."""
    clock = Clock()
    brake = Brake(10, NOBODY, sleep=clock.sleep, clock=lambda: clock.now_s)
    began = []
    for count in (1, 10, 10, 5):
        brake.wait(count)
        began.append(round(clock.now_s, 6))
    assert [0.0, 0.1, 1.1, 2.1] == began
    clock.now_s += 60
    brake.wait(10)
    brake.wait(10)
    assert 63.1 == round(clock.now_s, 6)


def test_without_a_rate_nothing_waits() -> None:
    """At full speed."""
    clock = Clock()
    brake = Brake(None, NOBODY, sleep=clock.sleep, clock=lambda: clock.now_s)
    brake.wait(500)
    brake.wait(500)
    assert [] == clock.sleeps


def test_a_wait_of_any_length_is_over_soon_after_a_stop() -> None:
    """A canary of 100 events at one a second is no reason to be deaf for 100 s."""
    clock = Clock()
    brake = Brake(1, lambda: clock.now_s >= 3, sleep=clock.sleep, clock=lambda: clock.now_s)
    brake.wait(100)
    brake.wait(1)
    assert 3.0 <= clock.now_s <= 3.5


def test_a_stop_is_seen_while_nothing_of_interest_is_read() -> None:
    """One entity of a large topic."""
    read = []

    def endless() -> Iterable[Record]:
        for record in records(10_000):
            read.append(record.offset)
            yield record

    wanted = (record for record in until(lambda: len(read) > 7, endless()) if record.key == b"another")
    with pytest.raises(StoppedError):
        next(wanted)
    assert 8 == len(read)


def made(fates: str = "", *, changes: Changes | None = None, digest: str = "d") -> Forecast:
    """Give a forecast of events whose fates begin with these letters; the events are the same from call to call."""
    words = {"d": DUPLICATE, "s": STALE, "u": UNCHANGED, "w": WRITE, "r": REWRITE, "x": WAIT, "f": FAIL}
    ids = tuple(bytes([number]) * 16 for number in range(1, len(fates) + 1))
    named = dict(zip(ids, (words[letter] for letter in fates), strict=True))
    return Forecast(
        ids=ids,
        prints=tuple(hashlib.blake2b(one, digest_size=8).digest() for one in ids),
        digest=digest,
        counts=Counter(named.values()),
        fates={one: fate for one, fate in named.items() if fate != DUPLICATE},
        failures=Counter({("unknown_option", "sex: is no option"): fates.count("f")} if "f" in fates else {}),
        changes=changes or {},
    )


def plan(forecast: Forecast) -> Plan:
    """Give a plan with it."""
    return Plan(
        plan_id="p",
        made_at=NOON,
        made_by="Robin",
        selection=Selection(since=NOON),
        source="topics",
        spans=(),
        force_rewrite=False,
        limits_hit=("a limit",),
        estimate_s=2.5,
        forecast=forecast,
    )


def left(forecast: Forecast, done: int) -> Forecast:
    """Give the look at what is left."""
    return dataclasses.replace(forecast, ids=forecast.ids[done:], prints=forecast.prints[done:])


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    """With all that a later look is compared with."""
    changes: Changes = {("patient", "P-1"): None, ("order", "O-1"): ("prescriptions.drug", "prescriptions.note")}
    whole = plan(made("dswxf", changes=changes))
    path = tmp_path / "plan.json"
    with new_file(path) as write:
        write(plan_text(whole))
        assert not path.exists()
    assert whole == read_plan(path)
    assert [path] == list(tmp_path.iterdir())


def test_a_plan_that_is_stopped_leaves_no_file(tmp_path: Path) -> None:
    """Neither half of one, nor the one it is written into."""
    with contextlib.suppress(KeyboardInterrupt), new_file(tmp_path / "plan.json") as write:
        write("{")
        raise KeyboardInterrupt
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["there.json", "nowhere/plan.json"])
def test_a_plan_without_a_place_is_refused_before_the_look(tmp_path: Path, where: str) -> None:
    """What is there is kept."""
    (tmp_path / "there.json").write_text("kept")
    with pytest.raises(ReplayError, match=r"is there already|No such file"), new_file(tmp_path / where):
        pytest.fail("the look began")
    assert "kept" == (tmp_path / "there.json").read_text()


def test_a_file_that_came_meanwhile_is_kept(tmp_path: Path) -> None:
    """Such as another plan of the same name."""
    path = tmp_path / "plan.json"
    with pytest.raises(ReplayError, match="has come meanwhile"), new_file(path):
        path.write_text("another")
    assert "another" == path.read_text()


def test_the_set_is_compared_from_where_the_apply_is() -> None:
    """What was done may have been dropped by its topic; what is left must be there as it was."""
    before = made("www")
    check_set(plan(before), before, done=0)
    check_set(plan(before), left(before, 2), done=2)
    with pytest.raises(PlanChangedError, match=f"1 events are there no more \\({before.ids[2].hex()}\\)"):
        check_set(plan(before), made(""), done=2)
    with pytest.raises(PlanChangedError, match=f"1 events were not there \\({before.ids[2].hex()}\\)"):
        check_set(plan(made("ww")), before, done=0)
    other = dataclasses.replace(before, prints=(*before.prints[:2], b"another."))
    with pytest.raises(PlanChangedError, match=f"1 events are at other places .* \\({before.ids[2].hex()}\\)"):
        check_set(plan(before), other, done=0)


def test_what_would_be_written_otherwise_is_named_by_entity_and_column() -> None:
    """Of all entities, not only of those that are shown; names and never values."""
    many: dict[tuple[str, str], tuple[str, ...] | None] = {("patient", f"P-{n}"): None for n in range(30)}
    before: Changes = {**many, ("order", "O-1"): ("prescriptions.drug",), ("order", "O-2"): ("prescriptions.drug",)}
    changed: Changes = {**before, ("order", "O-1"): ("prescriptions.note",)}
    check_fates(plan(made("w", changes=before)), made("w", changes=dict(before)), done=0, begun=False)
    with pytest.raises(PlanChangedError) as told:
        check_fates(plan(made("w", changes=before)), made("w", changes=changed), done=0, begun=False)
    assert (
        "1 entities would be written otherwise"
        " (order O-1: also prescriptions.note and no longer prescriptions.drug)" in str(told.value)
    )
    gone = {name: columns for name, columns in before.items() if name != ("order", "O-2")}
    with pytest.raises(PlanChangedError, match=r"order O-2: no longer prescriptions.drug"):
        check_fates(plan(made("w", changes=before)), made("w", changes=gone), done=0, begun=False)
    with pytest.raises(PlanChangedError, match="patient P-29: no longer new"):
        check_fates(
            plan(made("w", changes=before)),
            made("w", changes={**before, ("patient", "P-29"): ("patient_data.fname",)}),
            done=0,
            begun=False,
        )


@pytest.mark.parametrize(("before", "after"), [("ww", "wd"), ("ws", "ww"), ("wd", "wr"), ("xw", "ww"), ("uw", "ww")])
def test_before_the_first_apply_every_fate_must_be_as_planned(before: str, after: str) -> None:
    """Whatever it has become."""
    with pytest.raises(PlanChangedError, match="1 would have ended as"):
        check_fates(plan(made(before)), made(after), done=0, begun=False)


@pytest.mark.parametrize(("before", "after"), [("wwww", "wdsu"), ("xfuw", "wwww"), ("rrrr", "drdd")])
def test_an_apply_that_goes_on_takes_what_its_first_part_explains(before: str, after: str) -> None:
    """Events that it settled just before it was killed, and parents that it brought."""
    changes: Changes = {("patient", "P-1"): None, ("patient", "P-2"): ("patient_data.fname", "patient_data.lname")}
    now: Changes = {("patient", "P-1"): ("patient_data.fname",), ("patient", "P-2"): ("patient_data.lname",)}
    check_fates(plan(made(before, changes=changes)), left(made(after, changes=now), 0), done=0, begun=True)
    check_fates(plan(made(f"f{before}")), left(made(f"d{after}"), 1), done=1, begun=True)


@pytest.mark.parametrize(("before", "after"), [("w", "f"), ("w", "x"), ("d", "w"), ("s", "w"), ("d", "r")])
def test_an_apply_that_goes_on_is_refused_what_it_does_not_explain(before: str, after: str) -> None:
    """Such as an option that was removed in the pause, or an OpenEMR that was restored."""
    with pytest.raises(PlanChangedError, match="1 would have ended as"):
        check_fates(plan(made(f"w{before}")), left(made(f"d{after}"), 1), done=1, begun=True)
    columns: Changes = {("patient", "P-1"): ("patient_data.fname",)}
    with pytest.raises(PlanChangedError, match=r"patient P-1: also patient_data.fname"):
        check_fates(plan(made("ww")), left(made("dw", changes=columns), 1), done=1, begun=True)


def test_a_rewrite_repeats_a_race_that_it_lost() -> None:
    """A consumer at the same entity is no reason to end an apply; only one that always wins is."""
    database, faults = FakeOpenEmr(clock=lambda: NOON), Faults()
    target = FakeTarget(database, faults)
    one = event(clinic.patient())
    apply_events(target, [one], (), clock=lambda: NOON)
    database.rows.clear()

    faults.plan("target.lock", *[RaceError("deadlock") for _ in range(RACES_MAX - 1)])
    assert {one.key: Applied()} == rewrite_each(target, [one])
    assert one.key in database.rows

    faults.plan("target.lock", *[RaceError("deadlock") for _ in range(RACES_MAX)])
    with pytest.raises(TransientError, match="won 5 races"):
        rewrite_each(target, [one])


def test_a_race_that_is_none_fails_its_entity() -> None:
    """The same refusal twice is an answer."""
    database, faults = FakeOpenEmr(clock=lambda: NOON), Faults()
    target, failure = FakeTarget(database, faults), Failed(ErrorClass.REFUSED, "pubpid: is taken")
    one = event(clinic.patient(), Operation.CREATE)
    apply_events(target, [one], (), clock=lambda: NOON)

    faults.plan("target.write", RaceError("taken", failure), RaceError("taken", failure))
    assert {one.key: failure} == rewrite_each(target, [one])


@pytest.mark.usefixtures("bare")
def test_a_place_without_an_archive_is_not_an_empty_one(tmp_path: Path) -> None:
    """A mistyped name must not end in a plan of no events."""
    with pytest.raises(ArchiveError, match="nowhere: holds no archive; name the PLACE"):
        source_named(OperationsSettings.read(), str(tmp_path / "nowhere"))


def test_words_say_where_a_replay_is_and_what_comes_next() -> None:
    """After a kill, a pause, an outage, a stop, and while it is under way."""
    run = Run("p", "d", RUNNING, 10, 4, {}, Counter(), NOON, NOON + dt.timedelta(minutes=1))
    assert "under way: 4 of 10 events done" in run_words(run, PATH, under_way=True)
    killed = run_words(run, PATH, under_way=False)
    assert killed.startswith("killed, or cut off from the ledger: 4 of 10 events done, last at 2025-03-01 12:01:00 UTC")
    assert "`emrsync replay apply plan.json --why ...` goes on where it ended" in killed
    paused = dataclasses.replace(run, state=PAUSED)
    assert "paused: 4 of 10" in run_words(paused, PATH, under_way=False)
    assert "checking right now" in run_words(None, PATH, under_way=True)
    assert "not applied yet; " in run_words(None, PATH, under_way=False)

    outage = ended_words(Ended(PAUSED, 4, Counter(applied=4), "OpenEMR's database is away"), 10, PATH)
    assert "4 of 10 events done: applied 4\n! paused: OpenEMR's database is away\n`emrsync replay apply" in outage
    assert "\npaused; `emrsync" in ended_words(Ended(PAUSED, 4, Counter(), None), 10, PATH)
    stopped = ended_words(Ended(STOPPED, 4, Counter(), "refused: x"), 10, PATH)
    assert "! stopped at an error that the plan does not foresee: refused: x" in stopped


def test_a_plan_shows_the_first_of_what_it_would_write() -> None:
    """Twenty entities, by the names of their columns."""
    changes: Changes = {("order", "O-1"): ("prescriptions.drug",)} | {("patient", f"P-{n}"): None for n in range(30)}
    shown = [line for line in plan_lines(plan(made("wwdd", changes=changes))) if line.startswith("  ")]
    assert "  order O-1: prescriptions.drug" in shown
    assert 20 == sum(line.startswith(("  order", "  patient")) for line in shown)
