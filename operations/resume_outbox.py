"""What a restored OpenEMR lacks of the outbox: rows that no rewind brings, and rows that stand for lost records."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final

import sqlalchemy as sa

from connectors.events import Event
from connectors.outbox import Status, sync_outbox
from operations.outbox_rows import ROWS_READ, events_of

Known = Callable[[Sequence[bytes]], frozenset[bytes]]

_OUTBOX: Final = sync_outbox.c


@dataclasses.dataclass(frozen=True, slots=True)
class LedgerEnd:
    """Where the restored ledger ends, by its positions; UTC.

    until: when a partition of which records are missing was last written; None if the ledger never was.
    since: nothing that was settled before it is missing; None if everything may be.
    """

    until: dt.datetime | None
    since: dt.datetime | None


@dataclasses.dataclass(frozen=True, slots=True)
class Beside:
    """Rows by entity type that are to be applied from the outbox, and how many rows stand for records that are gone."""

    counts: Counter[str]
    standing: int


class ResumeOutbox:
    """The outbox rows that were settled, failed or parked since the ledger's end.

    known: what the ledger has settled or keeps waiting; known_before: what it had settled when it was restored, as far
    as its times tell.
    """

    def __init__(self, engine: sa.Engine, end: LedgerEnd, known: Known, known_before: Known) -> None:
        self._engine = engine
        self._end = end
        self._known = known
        self._known_before = known_before

    def look(self, coming: Collection[bytes], told: Callable[[int], None]) -> Beside:
        """Count; coming are the ids that a rewind or the archive brings.

        A row stands for a record that is gone if its event was read after the ledger's end: it was settled at the
        first try, or its row is younger than the ledger. Others were retried, and their records had been read before.
        """
        counts: Counter[str] = Counter()
        standing = 0
        for rows in self._rows():
            ids = [row.outbox_id.bytes for row in rows]
            known, before = self._known(ids), self._known_before(ids)
            for row in rows:
                one = row.outbox_id.bytes
                if one in coming:
                    continue
                if _is_applied(row) and one not in known:
                    counts[row.entity_type] += 1
                if one not in before and self._stands(row):
                    standing += 1
            told(len(rows))
        return Beside(counts, standing)

    def events(self, coming: Collection[bytes]) -> Iterator[Sequence[Event]]:
        """Give the events that are to be applied, in chunks, in the order of seq."""
        for rows in self._rows():
            known = self._known([row.outbox_id.bytes for row in rows])
            wanted = [
                row.outbox_id.bytes
                for row in rows
                if _is_applied(row) and row.outbox_id.bytes not in known and row.outbox_id.bytes not in coming
            ]
            with self._engine.connect() as connection:
                events = events_of(connection, wanted)
            if events:
                yield events

    def _stands(self, row: Any) -> bool:
        if self._end.until is None or _utc(row.created_at) >= self._end.until:
            return True
        return bool(row.status == Status.DONE.value and row.retry_count == 0)

    def _rows(self) -> Iterator[Sequence[Any]]:
        """Read ids and states first, so that only payloads that are wanted are read."""
        columns = ("outbox_id", "seq", "entity_type", "status", "outcome", "retry_count", "created_at")
        where = _OUTBOX.status != Status.PENDING.value
        if self._end.since is not None:
            where = sa.and_(where, sa.or_(_OUTBOX.processed_at >= self._end.since, _OUTBOX.processed_at.is_(None)))
        seq = -1
        while True:
            chosen = sa.select(*(_OUTBOX[name] for name in columns)).where(where, _OUTBOX.seq > seq)
            with self._engine.connect() as connection:
                rows = connection.execute(chosen.order_by(_OUTBOX.seq).limit(ROWS_READ)).all()
            if not rows:
                return
            seq = rows[-1].seq
            yield rows


def _is_applied(row: Any) -> bool:
    """Tell whether a row says that OpenEMR has its event, or keeps it waiting."""
    waits = row.status == Status.PROCESSING.value and row.outcome == "waiting"
    return bool(row.status == Status.DONE.value or waits)


def _utc(instant: dt.datetime) -> dt.datetime:
    return instant.replace(tzinfo=dt.UTC) if instant.tzinfo is None else instant
