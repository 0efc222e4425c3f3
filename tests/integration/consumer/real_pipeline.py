"""The consumer on real databases and a stream in memory, whose members may crash and whose steps may fail."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from connectors.events import EntityKey, Event
from connectors.outbox import sync_outbox
from consumer import source_database
from consumer.loop import ConsumerLoop
from consumer.openemr.target import OpenEmrTarget
from consumer.openemr.transaction import OpenEmrTransaction
from consumer.outbox_marker import SqlOutboxMarker
from consumer.outcome import Applied, Failed, Stale, Waiting
from consumer.ports import Change, Settlement, StreamPosition
from consumer.retry import RetryPolicy
from tests.chaos.checker import disagreements, read_snapshot
from tests.fakes import FakeEventStream, Faults, InlineExecutor
from tests.integration.consumer.openemr.sites import Site, open_target
from tests.invariants import Snapshot
from tests.made_events import headers
from tests.pipeline import Pipeline

TABLES: Final = (
    *("patient_data", "form_encounter", "forms", "procedure_order", "procedure_order_code", "prescriptions"),
    "uuid_registry",
)
LEDGER_TABLES: Final = ("applied_event", "entity_map", "waiting_event", "stream_position")


class FaultyTransaction:
    """A transaction on OpenEMR's database that passes the steps of a fake's."""

    def __init__(self, real: OpenEmrTransaction, faults: Faults) -> None:
        self._real = real
        self._faults = faults

    def write(self, changes: Sequence[Change]) -> Mapping[EntityKey, Applied | Failed]:
        """See ports.TargetTransaction."""
        self._faults.at("target.write")
        return self._real.write(changes)

    def record(self, settled: Sequence[tuple[Event, Applied | Stale]], positions: Sequence[StreamPosition]) -> None:
        """See ports.TargetTransaction."""
        self._faults.at("target.record")
        self._real.record(settled, positions)

    def park(self, waiting: Sequence[tuple[Event, Waiting]]) -> None:
        """See ports.TargetTransaction."""
        self._faults.at("target.park")
        self._real.park(waiting)

    def commit(self) -> None:
        """See ports.TargetTransaction."""
        self._faults.at("target.commit")
        self._real.commit()
        self._faults.at("target.committed")

    def __getattr__(self, name: str) -> Any:
        """Give what needs no step: settled, lock, find."""
        return getattr(self._real, name)


class FaultyTarget:
    """OpenEMR's database behind the steps of a fake's."""

    def __init__(self, real: OpenEmrTarget, faults: Faults) -> None:
        self._real = real
        self._faults = faults

    @contextlib.contextmanager
    def transaction(self) -> Iterator[FaultyTransaction]:
        """See ports.Target."""
        self._faults.at("target.begin")
        with self._real.transaction() as transaction:
            yield FaultyTransaction(transaction, self._faults)

    def forget(self, outbox_ids: Sequence[Any]) -> None:
        """See ports.Target."""
        self._faults.at("target.forget")
        self._real.forget(outbox_ids)
        self._faults.at("target.forgotten")

    def __getattr__(self, name: str) -> Any:
        """Give what needs no step: draft, releasable, overdue, reported_overdue."""
        return getattr(self._real, name)


class FaultyMarker:
    """The source's outbox behind the steps of a fake's."""

    def __init__(self, real: SqlOutboxMarker, faults: Faults) -> None:
        self._real = real
        self._faults = faults

    def mark(self, settlements: Sequence[Settlement]) -> None:
        """See ports.OutboxMarker."""
        if settlements:
            self._faults.at("marker.mark")
            self._real.mark(settlements)
            self._faults.at("marker.marked")


@dataclasses.dataclass(frozen=True)
class Databases:
    """An OpenEMR site and a source, shared by the pipelines of a module one after the other."""

    site: Site
    source: sa.Engine
    marker_url: str

    def clear(self) -> None:
        """Leave no entity and no event."""
        for table in TABLES:
            self.site.change(f"DELETE FROM {self.site.database}.{table}")
        for table in LEDGER_TABLES:
            self.site.change(f"DELETE FROM {self.site.ledger}.{table}")
        with self.source.begin() as connection:
            connection.execute(sa.delete(sync_outbox))


class RealPipeline(Pipeline):
    """A Pipeline whose source and OpenEMR are real; use it in a with block."""

    def __init__(self, databases: Databases) -> None:
        super().__init__(partitions=2)
        databases.clear()
        self._databases = databases
        self._held: dict[int, contextlib.ExitStack] = {}

    def __enter__(self) -> RealPipeline:
        """Give itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Give the connections of all members back."""
        for held in self._held.values():
            held.close()

    def write(self, one: Event) -> Event:
        """Insert the outbox row, as the application does."""
        row = {
            "outbox_id": one.outbox_id,
            "seq": one.seq,
            "entity_type": one.key.entity_type.value,
            "entity_id": one.key.entity_id,
            "operation": one.operation.value,
            "target_system": one.target_system.value,
            "payload": one.payload.decode() if one.payload.startswith(b'{"') else "{}",
            "created_at": one.created_at,
        }
        with self._databases.source.begin() as connection:
            connection.execute(sa.insert(sync_outbox), row)
        return super().write(one)

    def member(self) -> ConsumerLoop:
        """Start a member; it joins the group."""
        held = contextlib.ExitStack()
        site = self._databases.site
        target = open_target(site.writer_url, site.ledger)
        held.callback(target.close)
        engine = source_database.create_engine(self._databases.marker_url)
        held.callback(engine.dispose)
        stream = FakeEventStream(self.broker, self.faults)
        loop = ConsumerLoop(
            stream,
            FaultyTarget(target, self.faults),
            FaultyMarker(SqlOutboxMarker(engine, RetryPolicy()), self.faults),
            InlineExecutor(),
            limits=self.limits,
            clock=self.clock,
        )
        self._streams[id(loop)] = stream
        self._held[id(loop)] = held
        return loop

    def crash(self, loop: ConsumerLoop) -> None:
        """Let a member's process die: its connections end, and what was not committed is rolled back."""
        super().crash(loop)
        self._held.pop(id(loop)).close()

    def snapshot(self) -> Snapshot:
        """Look at all systems at once."""
        events = {outbox_id: row.event for outbox_id, row in self.source.outbox.items()}
        statuses = {outbox_id: row[0] for outbox_id, row in self.outcomes().items()}
        ids = {headers(one)[0][1]: outbox_id for outbox_id, one in events.items()}
        passed = {
            ids[value]
            for place, offset in self.broker.committed.items()
            for record in self.broker.logs[place][:offset]
            if (value := dict(record.headers).get("id")) in ids
        }
        site = self._databases.site
        return read_snapshot(site.clerk, site.ledger, after=-1, events=events, statuses=statuses, passed=passed)

    def outcomes(self) -> Mapping[Any, tuple[str, str | None]]:
        """Give status and outcome of the outbox rows."""
        columns = sync_outbox.c.outbox_id, sync_outbox.c.status, sync_outbox.c.outcome
        with self._databases.source.connect() as connection:
            return {row.outbox_id: (row.status, row.outcome) for row in connection.execute(sa.select(*columns))}

    def disagreements(self) -> list[str]:
        """Find rows that say another outcome than the ledger."""
        now = self.snapshot()
        done = {
            outbox_id: (now.events[outbox_id].seq, outcome)
            for outbox_id, (status, outcome) in self.outcomes().items()
            if status == "done"
        }
        return disagreements(done, now.settled)

    def given_names(self) -> Mapping[str, str]:
        """Give the first names that OpenEMR shows, by the patient's id."""
        rows = self._databases.site.rows(f"SELECT pubpid, fname FROM {self._databases.site.database}.patient_data")
        return {row["pubpid"]: row["fname"] for row in rows}
