"""The consumer on fakes: a clinic's outbox, a broker, OpenEMR, and members that may crash and come back."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

from connectors.events import Event
from connectors.outbox import Operation
from connectors.topics import entity_topic
from consumer.loop import ConsumerLoop, LoopLimits
from consumer.outcome import Applied
from tests.fakes import (
    Clock,
    FakeBroker,
    FakeEventStream,
    FakeMarker,
    FakeOpenEmr,
    FakeRow,
    FakeSource,
    FakeTarget,
    Faults,
    InlineExecutor,
)
from tests.invariants import Snapshot
from tests.made_events import event, headers


class Pipeline:
    """All systems of one test; members share everything but their own process."""

    def __init__(self, partitions: int = 2, limits: LoopLimits | None = None) -> None:
        self.clock = Clock()
        self.faults = Faults()
        self.broker = FakeBroker(partitions)
        self.openemr = FakeOpenEmr(self.clock)
        self.source = FakeSource()
        self.target = FakeTarget(self.openemr, self.faults)
        self.marker = FakeMarker(self.source, self.faults)
        self.limits = limits or LoopLimits(parent_wait=dt.timedelta(days=1))
        self.found: list[str] = []
        """Violations that were seen on the way."""
        self._streams: dict[int, FakeEventStream] = {}

    def write(self, one: Event) -> Event:
        """Insert the outbox row, as the application does."""
        self.source.outbox[one.outbox_id] = FakeRow(one)
        return one

    def deliver(self, one: Event, times: int = 1) -> Event:
        """Bring the event into its topic, as the connector does: at least once."""
        for _ in range(times):
            self.broker.produce(
                entity_topic(one.key.entity_type), one.key.entity_id.encode(), one.payload, headers(one)
            )
        return one

    def happen(self, fields: Mapping[str, Any], operation: Operation = Operation.CREATE, **more: Any) -> Event:
        """Write an event and deliver it."""
        return self.deliver(self.write(event(fields, operation, **more)))

    def member(self) -> ConsumerLoop:
        """Start a member; it joins the group."""
        stream = FakeEventStream(self.broker, self.faults)
        loop = ConsumerLoop(
            stream,
            FakeTarget(self.openemr, self.faults),
            FakeMarker(self.source, self.faults),
            InlineExecutor(),
            limits=self.limits,
            clock=self.clock,
        )
        self._streams[id(loop)] = stream
        return loop

    def crash(self, loop: ConsumerLoop) -> None:
        """Let a member's process die; the group throws it out."""
        self._streams.pop(id(loop)).die()

    def drain(self, loops: Iterable[ConsumerLoop]) -> None:
        """Let members work, chores and all, until there is nothing more to do."""
        members = list(loops)
        for _ in range(200):
            self.clock.now += dt.timedelta(seconds=self.limits.chores_interval_s)
            if sum(loop.run_once() for loop in members) == 0:
                return
        raise AssertionError("the members find ever more to do")

    def row(self, one: Event) -> FakeRow:
        """Give the outbox row of an event."""
        return self.source.outbox[one.outbox_id]

    def state(self, *events: Event) -> list[tuple[str, str | None]]:
        """Give status and outcome of the events' rows."""
        return [(self.row(one).status, self.row(one).outcome) for one in events]

    def snapshot(self) -> Snapshot:
        """Look at all systems at once."""
        events = {outbox_id: row.event for outbox_id, row in self.source.outbox.items()}
        ids = {headers(one)[0][1]: outbox_id for outbox_id, one in events.items()}
        below = {
            ids[value]
            for place, offset in self.broker.committed.items()
            for record in self.broker.logs[place][:offset]
            if (value := dict(record.headers).get("id")) in ids
        }
        return Snapshot(
            events=events,
            statuses={outbox_id: row.status for outbox_id, row in self.source.outbox.items()},
            settled={
                outbox_id: "applied" if isinstance(outcome, Applied) else "stale"
                for outbox_id, outcome in self.openemr.applied.items()
            },
            waiting=frozenset(self.openemr.waiting),
            last_seqs={key: mapped.last_seq for key, mapped in self.openemr.mapped.items()},
            contents={key: self.openemr.rows.get(key) for key in self.openemr.mapped},
            delivered=frozenset(below),
            retrying=frozenset(one for one, row in self.source.outbox.items() if row.outcome == "retrying"),
        )
