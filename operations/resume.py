"""Finds what a restored, or new, OpenEMR lacks, by its ledger, and lets the consumers bring it again."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import sqlalchemy as sa

from connectors.events import Event, EventError
from connectors.outbox import Status, sync_outbox
from connectors.topics import entity_topics
from consumer.openemr.ledger_schema import checked_schema
from consumer.ports import Place
from consumer.settle import settle_events
from operations.archive import ArchiveSource
from operations.bootstrap import Replaying
from operations.config import OperationsSettings
from operations.engines import LONG_STATEMENT_LIMIT_S, reading_engine, source
from operations.errors import ResumeError
from operations.kafka_group import GroupAdmin
from operations.outbox_rows import unknown_events
from operations.record_source import Span, merged
from operations.replay_forecast import LOOKED_UP, chunks, decoded, look_up, raw_id

CLOCKS_DIFFER: Final = dt.timedelta(minutes=10)
"""Outbox rows are looked at from so long before the ledger's end on, as three clocks are compared."""

Told = Callable[[int], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Behind:
    """One partition whose ledger position is before the group's offset; the topic keeps records from first on."""

    topic: str
    partition: int
    position: int
    committed: int
    first: int

    @property
    def missing(self) -> int:
        """How many records the group has passed and OpenEMR lacks."""
        return self.committed - self.position

    @property
    def gone(self) -> int:
        """How many of them the topic keeps no more."""
        return max(0, min(self.first, self.committed) - self.position)


@dataclasses.dataclass(frozen=True, slots=True)
class Missing:
    """What OpenEMR lacks.

    until: when the ledger was last written, UTC; None if it never was.
    beside: outbox rows that say they were applied, or wait, that the ledger does not know and no rewind brings: they
        were retried or replayed after the backup, or the topics keep them no more.
    archived: of the records that the topics keep no more, those that the archive given holds.
    """

    until: dt.datetime | None
    behind: tuple[Behind, ...]
    beside: Counter[str]
    archived: int

    @property
    def is_nothing(self) -> bool:
        """Tell whether OpenEMR is as the group's offsets say."""
        return not self.behind and not self.beside

    @property
    def lost(self) -> int:
        """At least so many records are neither in the topics, nor in the archive, nor in the outbox."""
        gone = sum(one.gone for one in self.behind)
        return max(0, gone - self.archived - sum(self.beside.values()))


class Resume:
    """One resume, from looking to rewinding."""

    def __init__(self, settings: OperationsSettings, replaying: Replaying, archive: ArchiveSource | None) -> None:
        self._settings = settings
        self._replaying = replaying
        self._archive = archive
        self._kafka = GroupAdmin(settings.text("kafka_bootstrap_servers"))
        self._coming: set[bytes] = set()

    def look(self) -> Missing:
        """Find out what is missing; nothing is changed.

        Raises:
            ResumeError: the ledger belongs to other topics.
        """
        positions, until = self._ledger()
        topics = entity_topics(self._settings.topic_prefix)
        firsts: dict[Place, int] = {}
        for topic in topics:
            for partition, (first, _) in enumerate(self._kafka.kept(topic).offsets):
                firsts[topic, partition] = first
        behind = []
        for one in self._kafka.lag(self._settings.consumer_group, topics):
            place = one.topic, one.partition
            position = positions.get(place, 0)
            if position > one.end:
                raise ResumeError(
                    f"{one.topic} partition {one.partition} ends at {one.end}, and the ledger is at {position}: the "
                    "topic was made anew; use `emrsync replay` instead"
                )
            if one.committed is not None and position < one.committed:
                behind.append(Behind(one.topic, one.partition, position, one.committed, firsts[place]))
        self._coming = {
            raw_id(record)
            for one in behind
            for record in self._kafka.records(one.topic, one.partition, max(one.position, one.first), one.committed)
        }
        archived = 0
        for span in self._archived_spans(behind):
            for record in self._archive.records(span) if self._archive is not None else ():
                self._coming.add(raw_id(record))
                archived += 1
        beside: Counter[str] = Counter()
        for events in self._beside(until):
            beside.update(event.key.entity_type.value for event in events)
        return Missing(until, tuple(behind), beside, archived)

    def check_stopped(self) -> None:
        """Raise ResumeError while the group has members."""
        members = len(self._kafka.members(self._settings.consumer_group))
        if members:
            raise ResumeError(f"{members} consumers of group {self._settings.consumer_group} run: stop them first")

    def carry_out(self, missing: Missing, told: Told) -> Counter[str]:
        """Apply what the topics do not bring, then rewind the group; may be repeated after a kill at any point."""
        counts: Counter[str] = Counter()
        spans = self._archived_spans(missing.behind)
        if self._archive is not None and spans:
            for chunk in chunks(merged(self._archive.records, spans), LOOKED_UP):
                events = []
                for one in look_up(self._replaying.target.known, chunk):
                    try:
                        if not one.is_known:
                            events.append(decoded(one.record, self._settings.record_bytes_max))
                    except EventError:
                        counts["unreadable"] += 1
                counts.update(self._settle(events))
                told(len(chunk))
        for events_beside in self._beside(missing.until):
            counts.update(self._settle(events_beside))
            told(len(events_beside))
        if missing.behind:
            self._kafka.move(
                self._settings.consumer_group,
                {
                    (one.topic, one.partition): max(one.position, min(one.first, one.committed))
                    for one in missing.behind
                },
            )
        return counts

    def _settle(self, events: Sequence[Event]) -> Sequence[str]:
        if not events:
            return ()
        clock = lambda: dt.datetime.now(dt.UTC)  # noqa: E731 - a value like the others
        settled = settle_events(self._replaying.target, self._replaying.marker, events, (), clock=clock)
        return [type(one.outcome).__name__.lower() for one in settled]

    def _archived_spans(self, behind: Sequence[Behind]) -> list[Span]:
        """Return what is to be taken from the archive: what the topics keep no more."""
        if self._archive is None:
            return []
        held = self._archive.places
        return [
            Span(one.topic, one.partition, one.position, one.position + one.gone)
            for one in behind
            if one.gone and (one.topic, one.partition) in held
        ]

    def _beside(self, until: dt.datetime | None) -> Iterator[Sequence[Event]]:
        outbox = sync_outbox.c
        waits = sa.and_(outbox.status == Status.PROCESSING.value, outbox.outcome == "waiting")
        where = sa.or_(outbox.status == Status.DONE.value, waits)
        if until is not None:
            since = until - CLOCKS_DIFFER
            where = sa.and_(where, sa.or_(outbox.processed_at >= since, outbox.processed_at.is_(None)))
        engine = source(self._settings, statement_limit_s=LONG_STATEMENT_LIMIT_S)
        return unknown_events(engine, where, self._replaying.target.settled_or_waiting, self._coming)

    def _ledger(self) -> tuple[dict[Place, int], dt.datetime | None]:
        schema = checked_schema(self._settings.ledger_schema)
        sql = f"SELECT topic, partition_no, next_offset FROM {schema}.stream_position WHERE group_id = :group_id"  # noqa: S608 - ours
        newest = f"""
            SELECT MAX(at) FROM (
                SELECT MAX(updated_at) AS at FROM {schema}.stream_position
                UNION ALL SELECT MAX(updated_at) FROM {schema}.entity_map) AS times"""  # noqa: S608 - ours
        with reading_engine(self._settings.database_url("openemr_url")).connect() as connection:
            rows = connection.execute(sa.text(sql), {"group_id": self._settings.consumer_group}).all()
            at = connection.execute(sa.text(newest)).scalar()
        return {(row[0], row[1]): row[2] for row in rows}, None if at is None else at.replace(tzinfo=dt.UTC)
