"""Pending outbox rows that nothing on the way explains, and settling them from the row itself."""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from connectors.events import Event
from connectors.outbox import Status, sync_outbox
from connectors.outbox_event import in_utc
from connectors.topics import entity_topics
from consumer.ports import Record
from consumer.settle import settle_events
from operations.bootstrap import Replaying
from operations.config import OperationsSettings
from operations.engines import LONG_STATEMENT_LIMIT_S, source
from operations.errors import SweepError
from operations.kafka import KafkaAdmin
from operations.outbox_rows import ROWS_READ, events_of
from operations.replay_forecast import raw_id
from operations.sent_rows import Sent, read_sent

LOST: Final = "lost"
UNMARKED: Final = "unmarked"
COMING: Final = "coming"
UNREAD: Final = "unread"
EXPLAINED: Final[Mapping[str, str]] = {
    LOST: "neither in the ledger nor on the way, although the connector is past it: to be applied from the row",
    UNMARKED: "applied or parked, and never marked: to be marked",
    COMING: "in the topics, and the consumers have not come to them: start or watch the consumers",
    UNREAD: "nothing tells that the connector has sent it: look at `emrsync connector status`, then use --unread-too",
}
"""What a pending row can be, in words."""

Stop = Callable[[], bool]

_OUTBOX: Final = sync_outbox.c


@dataclasses.dataclass(frozen=True, slots=True)
class FoundRow:
    """A pending row that needs a look; cause is LOST, UNMARKED or UNREAD, created_at is UTC."""

    outbox_id: uuid.UUID
    entity_type: str
    entity_id: str
    created_at: dt.datetime
    cause: str


@dataclasses.dataclass(frozen=True, slots=True)
class Swept:
    """Pending rows by what they are, and those that can be settled from the row, oldest first.

    Attributes:
        ids: all of these.
        unmarked: the ids of those that need only a mark.
        lost_seqs: the numbers of the others, which the connector may send again as well.
        rows: the oldest of those that are lost, unmarked or unread.
    """

    counts: Counter[str]
    by_entity: Counter[str]
    ids: tuple[bytes, ...]
    unmarked: tuple[bytes, ...]
    lost_seqs: tuple[int, ...]
    rows: tuple[FoundRow, ...]


class Sweep:
    """One sweep."""

    def __init__(self, settings: OperationsSettings, replaying: Replaying, stop: Stop) -> None:
        self._settings = settings
        self._replaying = replaying
        self._stop = stop
        self._kafka = KafkaAdmin(settings.text("kafka_bootstrap_servers"))
        self._topics = entity_topics(settings.topic_prefix)
        self._engine = source(settings, statement_limit_s=LONG_STATEMENT_LIMIT_S)

    def look(self, older_than: dt.timedelta, *, unread_too: bool, rows_max: int | None) -> Swept:
        """Find out what the pending rows are that are older than that; nothing is changed.

        At most rows_max of them are told one by one, all when it is None.

        Raises:
            SweepError: a stop was asked for.
        """
        coming, newest_seq = self._on_the_way()
        sent = read_sent(self._settings, newest_seq)
        counts: Counter[str] = Counter()
        by_entity: Counter[str] = Counter()
        ids: list[bytes] = []
        unmarked: list[bytes] = []
        lost_seqs: list[int] = []
        told: list[FoundRow] = []
        for rows in self._pending(dt.datetime.now(dt.UTC) - older_than):
            known = self._replaying.target.settled_or_waiting([row.outbox_id.bytes for row in rows])
            for row in rows:
                what = _what(row, known, coming, sent)
                counts[what] += 1
                if what != COMING and (rows_max is None or len(told) < rows_max):
                    told.append(FoundRow(row.outbox_id, row.entity_type, row.entity_id, in_utc(row.created_at), what))
                if what in {LOST, UNMARKED} or (what == UNREAD and unread_too):
                    ids.append(row.outbox_id.bytes)
                    by_entity[row.entity_type] += 1
                    if what == UNMARKED:
                        unmarked.append(row.outbox_id.bytes)
                    else:
                        lost_seqs.append(row.seq)
            self._check_stop()
        return Swept(counts, by_entity, tuple(ids), tuple(unmarked), tuple(lost_seqs), tuple(told))

    def settle(self, ids: Sequence[bytes]) -> Iterator[tuple[int, Counter[str]]]:
        """Settle rows as the consumers do; one that comes after all is a duplicate there.

        Yields, after each chunk, how many ids it had, and how many rows have which outcome.
        """
        clock = lambda: dt.datetime.now(dt.UTC)  # noqa: E731 - a value like the others
        for start in range(0, len(ids), ROWS_READ):
            chunk = ids[start : start + ROWS_READ]
            with self._engine.connect() as connection:
                events: Sequence[Event] = events_of(connection, chunk)
            outcomes: Counter[str] = Counter()
            if events:
                parts = self._replaying
                for one in settle_events(parts.target, parts.marker, events, (), clock=clock):
                    outcomes[type(one.outcome).__name__.lower()] += 1
            yield len(chunk), outcomes

    def _on_the_way(self) -> tuple[Collection[bytes], int]:
        """Return the ids that the group has still to read, and the highest seq that the topics show."""
        coming: set[bytes] = set()
        newest_seq = -1
        for one in self._kafka.lag(self._settings.consumer_group, self._topics):
            position = one.end - one.lag
            # The last record, too, when all are read: its seq tells how far the connector has come.
            for record in self._kafka.records(one.topic, one.partition, max(0, min(position, one.end - 1)), one.end):
                newest_seq = max(newest_seq, _seq(record))
                if record.offset >= position:
                    coming.add(raw_id(record))
                self._check_stop()
        return coming, newest_seq

    def _check_stop(self) -> None:
        if self._stop():
            raise SweepError("stopped while looking; nothing was changed, and the same command begins again")

    def _pending(self, before: dt.datetime) -> Iterator[Sequence[Any]]:
        seq = -1
        columns = (_OUTBOX.outbox_id, _OUTBOX.seq, _OUTBOX.entity_type, _OUTBOX.entity_id, _OUTBOX.created_at)
        where = _OUTBOX.status == Status.PENDING.value, _OUTBOX.created_at < before
        while True:
            chosen = sa.select(*columns).where(*where, _OUTBOX.seq > seq).order_by(_OUTBOX.seq).limit(ROWS_READ)
            with self._engine.connect() as connection:
                rows = connection.execute(chosen).all()
            if not rows:
                return
            seq = rows[-1].seq
            yield rows


def _what(row: Any, known: Collection[bytes], coming: Collection[bytes], sent: Sent) -> str:
    if row.outbox_id.bytes in coming:
        return COMING
    if row.outbox_id.bytes in known:
        return UNMARKED
    return LOST if sent.holds(row.seq, in_utc(row.created_at)) else UNREAD


def _seq(record: Record) -> int:
    seq = dict(record.headers).get("seq") or b""
    return int(seq) if seq.isdigit() else -1
