"""One busy scenario, crashed at every step in turn; used on the real code and on code with a planted bug."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from connectors.events import EntityKey, Event
from connectors.outbox import Operation
from tests import clinic
from tests.fakes import digest
from tests.invariants import violations_at_any_time, violations_at_rest
from tests.pipeline import Pipeline

Scenario = Callable[[Pipeline], None]


class CrashError(Exception):
    """The process dies here: nothing of ours may catch it."""


def busy_day(world: Pipeline) -> None:
    """Let happen: children before parents, updates, a delete, copies, late ones, a refused one, a bad record."""
    patient, other = clinic.patient(patient_id="P-1"), clinic.patient(patient_id="P-2")
    visit = clinic.encounter("P-1", encounter_id="E-1")
    order = clinic.order("P-1", order_id="O-1", encounter_id="E-1")
    world.happen(order)
    world.happen(visit)
    work(world)
    first = world.happen(patient)
    world.happen({**patient, "given_name": "Grace"}, Operation.UPDATE)
    world.happen(clinic.patient(patient_id="P-3", sex="f"))
    world.broker.produce("emrsync.patient", b"P-9", b"no event", ())
    world.deliver(first, times=2)
    created = world.happen(other)
    work(world)
    world.happen({**order, "instructions": "fasting"}, Operation.UPDATE)
    world.happen(other, Operation.DELETE)
    world.happen(clinic.patient(patient_id="P-4"))
    work(world)
    world.deliver(created)
    world.deliver(first)
    work(world)


EXPECTED = {
    "patient P-1": "Grace",
    "patient P-2": None,
    "patient P-4": "Ada",
    "encounter E-1": "AMB",
    "order O-1": "fasting",
}
"""What OpenEMR holds at the end, by a word of the newest payload."""


def work(world: Pipeline) -> None:
    """Let a member work; a crash ends it, and a new one carries on where the systems stand."""
    while True:
        loop = world.member()
        try:
            world.drain([loop])
        except CrashError:
            world.crash(loop)
            world.found += violations_at_any_time(world.snapshot())
            continue
        world.crash(loop)
        return


def steps_of(scenario: Scenario = busy_day) -> list[str]:
    """Give the steps that the scenario passes without a crash."""
    world = Pipeline()
    scenario(world)
    return world.faults.passed


def crash_everywhere(scenario: Scenario = busy_day) -> Iterator[str]:
    """Run the scenario without a crash, then with one at each of its steps; give what is violated."""
    calm = Pipeline()
    scenario(calm)
    yield from (f"without crash: {violation}" for violation in ending(calm))
    for count, step in enumerate(list(calm.faults.passed)):
        world = Pipeline()
        world.faults.plan_at(count, CrashError())
        scenario(world)
        found = (*world.found, *ending(world))
        yield from (f"crash at {step} (step {count}): {violation}" for violation in found)


def ending(world: Pipeline) -> list[str]:
    """Check what the systems hold when all is quiet."""
    found = violations_at_rest(world.snapshot())
    content = {f"{key.entity_type} {key.entity_id}": _word(world, key_events) for key, key_events in by_entity(world)}
    if content != EXPECTED:
        found.append(f"OpenEMR holds {content}")
    return found


def by_entity(world: Pipeline) -> list[tuple[EntityKey, list[Event]]]:
    """Group the events of the entities that the ledger knows."""
    events = [row.event for row in world.source.outbox.values()]
    return [(key, [one for one in events if one.key == key]) for key in world.openemr.mapped]


def _word(world: Pipeline, events: list[Event]) -> str | None:
    held = world.openemr.rows.get(events[0].key)
    shown = [one for one in events if digest(one.payload) == held]
    if not shown:
        return None
    text = shown[-1].payload.decode()
    return next((word for word in ("Grace", "fasting", "Ada", "AMB") if word in text), "something else")
