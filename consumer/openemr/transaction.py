"""One transaction on OpenEMR's server: rows, ledger and trail, until the commit."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from connectors.events import EntityKey, Event
from consumer.openemr import comparison
from consumer.openemr.comparison import Columns
from consumer.openemr.drafts import RowDraft
from consumer.openemr.ledger import Ledger, Lock
from consumer.openemr.packet import Packet
from consumer.openemr.writing import Writer
from consumer.outcome import Applied, Failed, Stale, Waiting
from consumer.ports import Change, Mapped, StreamPosition


class OpenEmrTransaction:
    """The real TargetTransaction."""

    def __init__(
        self,
        connection: sa.Connection,
        ledger: Ledger,
        writer: Writer,
        packet: Packet,
        author: str,
    ) -> None:
        self._connection = connection
        self._ledger = ledger
        self._writer = writer
        self._packet = packet
        self._author = author
        self.nobody_waits = False
        """Whether the waiting room was empty just after the commit; False also if that is not known."""

    def require(self, positions: Sequence[StreamPosition]) -> None:
        """See ports.TargetTransaction; it runs before all that comes after, and costs no round trip of its own."""
        sql = self._ledger.require_sql(positions)
        if sql is not None:
            self._packet.add(sql)

    def settled(self, outbox_ids: Sequence[uuid.UUID]) -> frozenset[uuid.UUID]:
        """See ports.TargetTransaction."""
        return self._ledger.settled(self._connection, outbox_ids)

    def lock(self, keys: Sequence[EntityKey]) -> Mapping[EntityKey, Mapped]:
        """See ports.TargetTransaction."""
        return self._ledger.mapped(self._connection, keys, lock=Lock.UPDATE)

    def find(self, keys: Sequence[EntityKey]) -> Mapping[EntityKey, Mapped]:
        """See ports.TargetTransaction."""
        return self._ledger.mapped(self._connection, keys, lock=Lock.SHARE)

    def write(self, changes: Sequence[Change]) -> Mapping[EntityKey, Applied | Failed]:
        """See ports.TargetTransaction."""
        by_kind: dict[str, list[Change]] = {}
        for change in changes:
            by_kind.setdefault(_kind(change), []).append(change)
        outcomes: dict[EntityKey, Applied | Failed] = {}
        for kind in sorted(by_kind):
            outcomes |= self._writer.write(kind, by_kind[kind])
        return outcomes

    def record(self, settled: Sequence[tuple[Event, Applied | Stale]], positions: Sequence[StreamPosition]) -> None:
        """See ports.TargetTransaction."""
        self._ledger.record(self._connection, settled, positions)
        self._ledger.record_trail(self._connection, self._writer.trail, self._author)
        self._writer.trail.clear()

    def park(self, waiting: Sequence[tuple[Event, Waiting]]) -> None:
        """See ports.TargetTransaction."""
        self._ledger.park(self._connection, waiting)

    def commit(self) -> None:
        """See ports.TargetTransaction."""
        answer = self._packet.commit(self._ledger.any_waiting_sql)
        self.nobody_waits = [row[0] for row in answer] == [0]

    def send(self) -> None:
        """Run what is kept back, so that the server refuses what it would refuse, and commit nothing."""
        self._packet.send()

    def rows(self, mapped: Mapping[EntityKey, Mapped]) -> Mapping[EntityKey, Columns]:
        """Give OpenEMR's rows of entities as they are in this transaction; see comparison.rows."""
        return comparison.rows(self._connection, mapped)


def _kind(change: Change) -> str:
    if isinstance(change.draft, RowDraft):
        return change.draft.kind
    if change.mapped is not None:
        return change.mapped.kind
    # A delete of what was never here only leaves a mark in the map; an order's is kept under the commoner kind.
    return change.event.key.entity_type.value
