"""Whether events flow from the source into Kafka: heartbeats, and rows that have no record."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final

import sqlalchemy as sa

from connectors.connect_progress import Progress
from connectors.outbox import CurrentInstant, EntityType, Status, sync_outbox
from connectors.topics import entity_topic, heartbeat_topic
from operations.config import OperationsSettings
from operations.engines import source
from operations.errors import KafkaRefusedError
from operations.kafka import KafkaAdmin, KeptRecords

CHECK_AFTER_S: Final = 10.0
"""A row this old that seems to have no record is worth a look at more than the newest records."""

CHECK_RECORDS_MAX: Final = 100_000
"""Of one partition: some seconds of reading, once in the life of a watch."""


@dataclasses.dataclass(frozen=True, slots=True)
class Flow:
    """One look at the way from the outbox into Kafka.

    Attributes:
        progress: marks to compare with those of another look.
        heartbeat_age_s: since the connector's newest heartbeat; None when there is none.
        unsent_rows: pending rows above every record of their topic.
        unsent_age_s: how long the oldest of them has been there; None when there is none.
    """

    progress: Progress
    heartbeat_age_s: float | None
    unsent_rows: int
    unsent_age_s: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class _Unsent:
    entity_type: str
    seq: int
    rows: int
    age_s: float


class FlowReader:
    """Looks at the flow again and again; remembers the highest seq, which a resync of older rows does not lower."""

    def __init__(self, settings: OperationsSettings, admin: KafkaAdmin) -> None:
        self._settings = settings
        self._admin = admin
        self._sent: dict[EntityType, int] = {}
        self._checked: dict[tuple[str, int], int] = {}

    def ask_with(self, admin: KafkaAdmin) -> None:
        """Go on with another client: one that was told of no brokers at all asks none any more."""
        self._admin = admin

    def read(self) -> Flow:
        """Ask the source database and the brokers; any database or Kafka error is the caller's."""
        prefix = self._settings.topic_prefix
        kept = {one: self._admin.kept(entity_topic(one, prefix)) for one in EntityType}
        heartbeats = self._heartbeats(heartbeat_topic(prefix))
        unsent = self._unsent(kept)
        oldest = max(unsent, key=lambda one: one.age_s, default=None)
        progress = Progress(
            heartbeats=None if heartbeats is None else sum(end for _, end in heartbeats.offsets),
            records=sum(end for one in kept.values() for _, end in one.offsets),
            unsent=None if oldest is None else (oldest.entity_type, oldest.seq),
        )
        return Flow(
            progress=progress,
            heartbeat_age_s=None if heartbeats is None else self._age_s(heartbeat_topic(prefix), heartbeats),
            unsent_rows=sum(one.rows for one in unsent),
            unsent_age_s=None if oldest is None else oldest.age_s,
        )

    def _heartbeats(self, topic: str) -> KeptRecords | None:
        try:
            return self._admin.kept(topic)
        except KafkaRefusedError:
            return None

    def _age_s(self, topic: str, kept: KeptRecords) -> float | None:
        first, end = kept.offsets[0]
        newest = next(self._admin.records(topic, 0, end - 1, end), None) if end > first else None
        if newest is None or newest.timestamp_ms is None:
            return None
        return max(0.0, dt.datetime.now(dt.UTC).timestamp() - newest.timestamp_ms / 1000)

    def _unsent(self, kept: Mapping[EntityType, KeptRecords]) -> list[_Unsent]:
        row = sync_outbox.c
        pending = sa.select(row.entity_type, sa.func.max(row.seq)).where(row.status == Status.PENDING.value)
        found = []
        with source(self._settings).connect() as connection:
            newest = {str(one): int(seq) for one, seq in connection.execute(pending.group_by(row.entity_type))}
            for entity_type in EntityType:
                if newest.get(entity_type.value, 0) <= self._sent.get(entity_type, 0):
                    continue
                self._note(entity_type, self._newest_seq(entity_type, kept[entity_type]))
                unsent = self._above(connection, entity_type)
                if unsent is not None and unsent.age_s >= CHECK_AFTER_S:
                    self._note(entity_type, self._unsettled_seq(entity_type, kept[entity_type]))
                    unsent = self._above(connection, entity_type)
                if unsent is not None:
                    found.append(unsent)
        return found

    def _note(self, entity_type: EntityType, seq: int) -> None:
        self._sent[entity_type] = max(seq, self._sent.get(entity_type, 0))

    def _above(self, connection: sa.Connection, entity_type: EntityType) -> _Unsent | None:
        """Return the pending rows above the highest seq that is known to be sent; None when there are none."""
        row = sync_outbox.c
        counting = sa.select(sa.func.min(row.seq), sa.func.count(), CurrentInstant(), sa.func.min(row.created_at))
        where = (
            row.status == Status.PENDING.value,
            row.entity_type == entity_type.value,
            row.seq > self._sent[entity_type],
        )
        oldest, rows, now, since = connection.execute(counting.where(*where)).one()
        return _Unsent(entity_type.value, oldest, rows, max(0.0, (now - since).total_seconds())) if rows else None

    def _newest_seq(self, entity_type: EntityType, kept: KeptRecords) -> int:
        starts = [max(first, end - 1) for first, end in kept.offsets]
        return self._highest_seq(entity_type, kept, starts)

    def _unsettled_seq(self, entity_type: EntityType, kept: KeptRecords) -> int:
        """Return the highest seq of what the group has not settled, and was not looked at before.

        The newest records may be of old rows that were sent again. A row that was sent and is still pending is among
        those that the group has still to settle, since an offset moves only after the mark.
        """
        topic = entity_topic(entity_type, self._settings.topic_prefix)
        starts = [max(first, end - CHECK_RECORDS_MAX) for first, end in kept.offsets]
        # A partition that has been added this moment is looked at the next time.
        for place in self._admin.lag(self._settings.consumer_group, [topic])[: len(starts)]:
            settled = place.end - place.lag
            checked = self._checked.get((topic, place.partition), 0)
            starts[place.partition] = max(starts[place.partition], settled, checked)
        highest = self._highest_seq(entity_type, kept, starts)
        self._checked |= {(topic, number): end for number, (_, end) in enumerate(kept.offsets)}
        return highest

    def _highest_seq(self, entity_type: EntityType, kept: KeptRecords, starts: Sequence[int]) -> int:
        topic = entity_topic(entity_type, self._settings.topic_prefix)
        highest = 0
        for partition, (start, (_, end)) in enumerate(zip(starts, kept.offsets, strict=True)):
            if start >= end:
                continue
            for record in self._admin.records(topic, partition, start, end):
                text = dict(record.headers).get("seq")
                if isinstance(text, bytes) and text.isdigit():
                    highest = max(highest, int(text))
        return highest
