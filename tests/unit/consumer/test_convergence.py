"""Whatever happens on the way, OpenEMR ends with the newest valid state of every entity, and every row is marked."""

from __future__ import annotations

from typing import Any, TypeAlias

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.events import EntityKey, Event
from connectors.outbox import EntityType, Operation
from consumer.ports import RaceError, TransientError
from tests import clinic
from tests.fakes import digest
from tests.invariants import violations_at_any_time, violations_at_rest
from tests.made_events import event, key_of
from tests.pipeline import Pipeline

Action: TypeAlias = tuple[Any, ...]

PATIENT, OTHER = ({"patient_id": name} for name in ("P-1", "P-2"))
FIELDS = (
    clinic.patient(**PATIENT),
    clinic.patient(**OTHER),
    clinic.encounter("P-1", encounter_id="E-1"),
    clinic.encounter("P-2", encounter_id="E-2"),
    clinic.order("P-1", order_id="O-1", encounter_id="E-1"),
    clinic.order("P-2", order_id="O-2"),
)
PARENTS = {
    key_of(FIELDS[2]): (0,),
    key_of(FIELDS[3]): (1,),
    key_of(FIELDS[4]): (0, 2),
    key_of(FIELDS[5]): (1,),
}

FAULTY_STEPS = (
    *("target.begin", "target.lock", "target.write", "target.record", "target.commit", "target.committed"),
    *("target.forget", "marker.mark", "marker.marked", "stream.commit", "stream.committed", "stream.poll"),
)

# An entity; how: readable, unreadable, or deleted; whether it is delivered at once.
writes = st.tuples(
    st.just("write"),
    st.integers(0, 5),
    st.sampled_from(["readable", "readable", "readable", "unreadable", "delete"]),
    st.booleans(),
)
actions = st.one_of(
    writes,
    writes,
    writes,
    st.tuples(st.just("deliver again"), st.integers(0, 100)),
    st.tuples(st.just("turn"), st.integers(0, 1)),
    st.tuples(st.just("turn"), st.integers(0, 1)),
    st.tuples(st.just("rebalance")),
    st.tuples(st.just("fault"), st.sampled_from(FAULTY_STEPS), st.booleans()),
)


class Members:
    """Two members; one that dies comes back."""

    def __init__(self, world: Pipeline) -> None:
        self._world = world
        self.loops = [world.member(), world.member()]

    def turn(self, number: int) -> None:
        """Let one member work; when it dies, another takes its place."""
        try:
            self.loops[number].run_once()
        except TransientError:
            self._world.crash(self.loops[number])
            self.loops[number] = self._world.member()


def written(world: Pipeline, number: int, how: str, version: int) -> Event:
    """Write one event; only orders are deleted, since the end would hang on the order of other entities' events."""
    fields = FIELDS[number]
    if how == "delete" and "kind" in fields:
        return world.write(event(fields, Operation.DELETE))
    if how == "unreadable":
        return world.write(event(b"{ %d" % version, key=key_of(fields)))
    return world.write(event({**fields, "newer_field": version}))


def expected_contents(events: list[Event]) -> dict[EntityKey, bytes]:
    """Tell by hand what OpenEMR must show: the newest readable event, if the parents have one too."""
    newest = {one.key: one for one in events if one.operation is Operation.DELETE or one.payload.endswith(b"}")}

    def possible(key: EntityKey) -> bool:
        return key in newest and all(possible(key_of(FIELDS[number])) for number in PARENTS.get(key, ()))

    return {
        key: digest(one.payload)
        for key, one in newest.items()
        if one.operation is not Operation.DELETE and possible(key)
    }


@settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(st.lists(actions, min_size=6, max_size=25))
def test_any_sequence_ends_in_the_newest_valid_state(steps: list[Action]) -> None:
    """Writes, copies, late and early deliveries, rebalances, and members that die at any step."""
    world = Pipeline()
    members = Members(world)
    events: list[Event] = []
    for version, step in enumerate(steps):
        match step:
            case ("write", number, how, at_once):
                events.append(written(world, number, how, version))
                if at_once:
                    world.deliver(events[-1])
            case ("deliver again", number) if events:
                world.deliver(events[number % len(events)])
            case ("turn", number):
                members.turn(number)
            case ("rebalance",):
                world.broker.rebalance()
            case ("fault", name, race):
                raced = race and name.startswith("target.")
                world.faults.plan(name, RaceError("lost") if raced else TransientError("away"))
        assert [] == violations_at_any_time(world.snapshot())

    for one in reversed(events):
        world.deliver(one)
    world.faults.clear()
    world.drain(members.loops)

    assert [] == violations_at_rest(world.snapshot())
    assert expected_contents(events) == world.openemr.rows
    waiting = {row.event.key.entity_type for row in world.source.outbox.values() if row.status == "processing"}
    assert EntityType.PATIENT not in waiting
