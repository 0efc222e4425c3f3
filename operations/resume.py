"""Finds what a restored, or new, OpenEMR lacks, by its ledger, and lets the consumers bring it again."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import sqlalchemy as sa

from connectors.events import Event, EventError
from connectors.topics import entity_topics
from consumer.openemr.ledger_schema import checked_schema
from consumer.ports import Place, StreamPosition
from consumer.settle import settle_events
from operations.archive import ArchiveSource
from operations.bootstrap import Replaying
from operations.config import OperationsSettings
from operations.engines import LONG_STATEMENT_LIMIT_S, reading_engine, source
from operations.errors import ResumeError, ResumeStoppedError
from operations.kafka_group import GroupAdmin
from operations.ledger_positions import read_positions
from operations.record_source import Span, merged
from operations.replay_forecast import LOOKED_UP, chunks, decoded, look_up, raw_id
from operations.resume_outbox import LedgerEnd, ResumeOutbox

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
    def place(self) -> Place:
        """The partition."""
        return self.topic, self.partition

    @property
    def missing(self) -> int:
        """How many records the group has passed and OpenEMR lacks."""
        return self.committed - self.position

    @property
    def gone(self) -> int:
        """How many of them the topic keeps no more."""
        return max(0, min(self.first, self.committed) - self.position)

    @property
    def restart(self) -> int:
        """Where the group is to go on."""
        return self.position + self.gone


@dataclasses.dataclass(frozen=True, slots=True)
class Missing:
    """What OpenEMR lacks.

    until: when the ledger was last written before the restore, UTC; None if it never was.
    beside: outbox rows that say they were applied, or wait, that the ledger does not know and no rewind brings: they
        were retried or replayed after the backup, or the topics keep them no more.
    archived: of the records that the topics keep no more, those that the archive given holds.
    standing: outbox rows that stand for such a record, whether they are to be applied still or not.
    """

    until: dt.datetime | None
    behind: tuple[Behind, ...]
    beside: Counter[str]
    archived: int
    standing: int

    @property
    def is_nothing(self) -> bool:
        """Tell whether OpenEMR is as the group's offsets say."""
        return not self.behind and not self.beside

    @property
    def gone(self) -> int:
        """How many of the missing records the topics keep no more."""
        return sum(one.gone for one in self.behind)

    @property
    def lost(self) -> int:
        """How many records are neither in the topics, nor in the archive, nor have they a row in the outbox."""
        return max(0, self.gone - self.archived - self.standing)


class Resume:
    """One resume, from looking to rewinding."""

    def __init__(self, settings: OperationsSettings, replaying: Replaying, archive: ArchiveSource | None) -> None:
        self._settings = settings
        self._replaying = replaying
        self._archive = archive
        self._kafka = GroupAdmin(settings.text("kafka_bootstrap_servers"))
        self._schema = checked_schema(settings.ledger_schema)
        self._openemr = reading_engine(settings.database_url("openemr_url"))
        self._end = LedgerEnd(None, None)
        self._coming: set[bytes] = set()

    def look(self, told: Told) -> Missing:
        """Find out what is missing; nothing is changed. told hears of each records and rows that were looked at.

        Raises:
            ResumeError: the ledger belongs to other topics.
        """
        positions = read_positions(self._settings)
        behind = self._behind({place: offset for place, (offset, _) in positions.items()})
        times = [at for _, at in positions.values()]
        ends = [positions[one.place][1] for one in behind if one.place in positions]
        # A partition that is not behind may have been written after the restore.
        until = max(ends or times, default=None)
        self._end = LedgerEnd(until, min(times) - CLOCKS_DIFFER if times else None)
        self._coming = set()
        for one in behind:
            kept = self._kafka.records(one.topic, one.partition, max(one.position, one.first), one.committed)
            for chunk in chunks(kept, LOOKED_UP):
                self._coming.update(raw_id(record) for record in chunk)
                told(len(chunk))
        archived = 0
        for span in self._archived_spans(behind):
            for chunk in chunks(self._archive.records(span) if self._archive is not None else (), LOOKED_UP):
                self._coming.update(raw_id(record) for record in chunk)
                archived += len(chunk)
                told(len(chunk))
        beside = self._outbox().look(self._coming, told)
        return Missing(until, tuple(behind), beside.counts, archived, beside.standing)

    def check_stopped(self) -> None:
        """Raise ResumeError while the group has members; a retrier may run, as the ledger tells it what is settled."""
        members = len(self._kafka.members(self._settings.consumer_group))
        if members:
            raise ResumeError(
                f"{members} consumers of group {self._settings.consumer_group} run: stop them first (those that have"
                " found the restore themselves have left the group, and may go on waiting)"
            )

    def carry_out(self, missing: Missing, stop: Callable[[], bool], told: Told) -> Counter[str]:
        """Apply what the topics do not bring, then rewind the group; may be repeated after an end at any point.

        The ledger's positions are what is looked at first, and they move last: until then a repetition finds the same.

        Raises:
            ResumeStoppedError: stop said so; what was applied stays, and the group is where it was.
        """
        counts: Counter[str] = Counter()

        def check() -> None:
            if stop():
                raise ResumeStoppedError(
                    f"stopped: {counts.total():,} events were applied directly, and the group is where it was;"
                    " the same command goes on"
                )

        spans = self._archived_spans(missing.behind)
        if self._archive is not None and spans:
            for chunk in chunks(merged(self._archive.records, spans), LOOKED_UP):
                check()
                events = []
                for one in look_up(self._replaying.target.known, chunk):
                    try:
                        if not one.is_known:
                            events.append(decoded(one.record, self._settings.record_bytes_max))
                    except EventError:
                        counts["unreadable"] += 1
                counts.update(self._settle(events))
                told(len(chunk))
        for events_beside in self._outbox().events(self._coming):
            check()
            counts.update(self._settle(events_beside))
            told(len(events_beside))
        check()
        if missing.behind:
            self._rewind(missing.behind)
        return counts

    def _rewind(self, behind: Sequence[Behind]) -> None:
        self._kafka.move(self._settings.consumer_group, {one.place: one.restart for one in behind})
        # What is gone was brought, or is lost: consumers must not wait for it.
        passed = [StreamPosition(one.topic, one.partition, one.restart) for one in behind if one.gone]
        if passed:
            with self._replaying.target.transaction() as transaction:
                transaction.record((), passed)
                transaction.commit()

    def _settle(self, events: Sequence[Event]) -> Sequence[str]:
        if not events:
            return ()
        clock = lambda: dt.datetime.now(dt.UTC)  # noqa: E731 - a value like the others
        settled = settle_events(self._replaying.target, self._replaying.marker, events, (), clock=clock)
        return [type(one.outcome).__name__.lower() for one in settled]

    def _behind(self, positions: dict[Place, int]) -> list[Behind]:
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
        return behind

    def _archived_spans(self, behind: Sequence[Behind]) -> list[Span]:
        """Return what is to be taken from the archive: what the topics keep no more."""
        if self._archive is None:
            return []
        held = self._archive.places
        return [
            Span(one.topic, one.partition, one.position, one.restart)
            for one in behind
            if one.gone and one.place in held
        ]

    def _outbox(self) -> ResumeOutbox:
        known = self._replaying.target.settled_or_waiting
        return ResumeOutbox(
            source(self._settings, statement_limit_s=LONG_STATEMENT_LIMIT_S), self._end, known, self._known_before
        )

    def _known_before(self, outbox_ids: Sequence[bytes]) -> frozenset[bytes]:
        """Return what the ledger had settled or parked by its end; what came since was brought by a resume."""
        if self._end.until is None or not outbox_ids:
            return frozenset()
        sql = sa.text(f"""
            SELECT outbox_id FROM {self._schema}.applied_event WHERE outbox_id IN :ids AND applied_at <= :until
            UNION SELECT outbox_id FROM {self._schema}.waiting_event WHERE outbox_id IN :ids AND since <= :until
        """)  # noqa: S608 - ours
        values = {"ids": list(outbox_ids), "until": self._end.until.replace(tzinfo=None)}
        with self._openemr.connect() as connection:
            rows = connection.execute(sql.bindparams(sa.bindparam("ids", expanding=True)), values)
            return frozenset(row[0] for row in rows)
