"""While a batch is on its way into OpenEMR the next one is fetched, decoded and drafted, and nothing else changes."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest

from connectors.events import Event
from connectors.payloads import AnyPayload
from consumer.drafting import Draft, Drafting
from consumer.loop import LoopLimits
from consumer.outcome import ErrorClass, Failed
from consumer.ports import TransientError
from consumer.prepare import Drafted, Prepared, prepare_all
from tests import clinic
from tests.fakes import FakeOpenEmr, FakeTarget
from tests.invariants import violations_at_rest
from tests.made_events import event
from tests.pipeline import Pipeline

BATCH = 2


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """Give empty systems whose members take two records at a time; every draft is written down as a step."""
    made = Pipeline(partitions=1, limits=LoopLimits(records_max=BATCH))
    plain = FakeTarget.draft

    def draft(self: FakeTarget, one: Event, payload: AnyPayload) -> Draft | Failed:
        made.faults.passed.append("draft")
        return plain(self, one, payload)

    monkeypatch.setattr(FakeTarget, "draft", draft)
    return made


def steps(world: Pipeline) -> list[str]:
    """Give the steps that were passed, of those that matter here, and forget them."""
    found = [step for step in world.faults.passed if step in {"stream.poll", "draft", "target.committed"}]
    world.faults.passed.clear()
    return found


def test_the_next_batch_is_drafted_before_the_first_is_committed(world: Pipeline) -> None:
    """And not drafted again at its turn; each batch is a transaction of its own."""
    happened = [world.happen(clinic.patient()) for _ in range(3 * BATCH)]
    loop = world.member()
    loop.run_once()
    first = steps(world)
    loop.run_once()
    second = steps(world)
    loop.run_once()
    third = steps(world)

    # The second one's drafts come first: the first one is drafted at its turn, which begins when it is alone.
    assert ["stream.poll", "stream.poll", *["draft"] * 4, "target.committed"] == first
    assert ["stream.poll", *["draft"] * 2, "target.committed"] == second
    assert ["stream.poll", "target.committed"] == third
    assert [("done", "applied")] * 6 == world.state(*happened)
    assert [] == violations_at_rest(world.snapshot())


def test_nothing_is_fetched_ahead_where_less_came_than_was_asked_for(world: Pipeline) -> None:
    """A lone event goes straight through."""
    world.happen(clinic.patient())
    world.member().run_once()

    assert ["stream.poll", "draft", "target.committed"] == steps(world)


def test_nothing_is_fetched_ahead_while_openemr_is_away(world: Pipeline) -> None:
    """What is in hand is all that is in hand."""
    for _ in range(3 * BATCH):
        world.happen(clinic.patient())
    loop = world.member()
    world.faults.plan("target.begin", *[TransientError("away")] * 3)
    for _ in range(3):
        loop.run_once()
        world.clock.now += dt.timedelta(seconds=5)
    passed = steps(world)

    # The first turn looks ahead before it knows; the others poll to stay in the group, and try the first batch again.
    assert 2 + 1 + 1 == passed.count("stream.poll")
    assert BATCH + 3 * BATCH == passed.count("draft")


def test_what_was_fetched_ahead_goes_to_the_next_owner_of_its_partition(world: Pipeline) -> None:
    """It was drafted and nothing more: the next owner applies it, once."""
    happened = [world.happen(clinic.patient()) for _ in range(3 * BATCH)]
    first = world.member()
    first.run_once()
    second = world.member()
    world.drain([first, second])

    assert [("done", "applied")] * 6 == world.state(*happened)
    assert [] == violations_at_rest(world.snapshot())
    assert all(len(seqs) == 1 for seqs in world.openemr.effects.values())


def test_a_dead_letter_that_was_fetched_ahead_is_parked_at_its_turn(world: Pipeline) -> None:
    """Before it, the batch in front could still fail, and it would be parked twice."""
    for _ in range(BATCH):
        world.happen(clinic.patient())
    world.broker.produce("emrsync.patient", b"P-1", b"{}", ())
    loop = world.member()
    loop.run_once()
    before = len(world.broker.dead_letters)
    loop.run_once()

    assert (0, 1) == (before, len(world.broker.dead_letters))


@dataclasses.dataclass
class Changing(FakeTarget):
    """A target whose site becomes another one when a test says so."""

    site: FakeTarget
    drafts: int = 0

    def drafting(self) -> Drafting:
        """Give the present site."""
        return self.site

    def draft(self, one: Event, payload: AnyPayload) -> Draft | Failed:
        """Count."""
        self.drafts += 1
        return self.site.draft(one, payload)


def changing() -> Changing:
    """Give one with a fake site."""
    return Changing(FakeTarget(FakeOpenEmr(clock=lambda: pytest.fail("no time is asked for"))))


def drafted_by(site: FakeTarget, *events: Event) -> Drafted:
    """Draft events as another thread does."""
    return Drafted(site, prepare_all(site, events))


def test_what_was_drafted_by_a_site_that_has_changed_is_drafted_anew() -> None:
    """Columns and option ids may be others now."""
    target, one = changing(), event(clinic.patient())
    drafted = drafted_by(target.site, one)
    kept = prepare_all(target, [one], drafted)
    drafts_before = target.drafts
    target.site = FakeTarget(FakeOpenEmr(clock=lambda: pytest.fail("no time is asked for")))
    anew = prepare_all(target, [one], drafted)

    assert (0, 1) == (drafts_before, target.drafts)
    assert kept[0] is drafted.prepared[0]
    assert anew[0] is not drafted.prepared[0]


def test_what_was_refused_ahead_is_asked_of_the_target_itself() -> None:
    """Only that looks whether somebody has added the option meanwhile."""
    target, one = changing(), event(clinic.patient())
    refused = Drafted(target.site, [Prepared(one, Failed(ErrorClass.UNKNOWN_OPTION, "sex: is no option"))])

    [prepared] = prepare_all(target, [one], refused)

    assert 1 == target.drafts
    assert not isinstance(prepared.draft, Failed)
