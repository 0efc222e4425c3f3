"""Removes outbox rows that are done, confirmed and still held elsewhere, and ledger rows of no more use."""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid
from collections.abc import Iterator, Sequence
from typing import Final

import sqlalchemy as sa

from connectors.events import Event, EventError
from connectors.outbox import EntityType, Status, sync_outbox
from consumer.openemr.ledger_schema import checked_schema
from consumer.openemr.target import OpenEmrTarget
from operations.config import OperationsSettings
from operations.replay import Source
from operations.replay_forecast import Looked, chunks, decoded, look_up

ROWS_MAX: Final = 500
"""Rows of one transaction, so that neither the application nor a consumer waits for it."""

CLOCKS_DIFFER: Final = dt.timedelta(hours=1)
"""A record is younger than its row, by clocks that may differ so much; else it is not found, and its row stays."""

_LEDGER_ROWS_READ: Final = 2_000
_OUTBOX: Final = sync_outbox.c


@dataclasses.dataclass(frozen=True, slots=True)
class Portion:
    """How many records or rows were looked at, and how many rows were, or in a dry run would be, removed for them."""

    read: int
    removed: int


class OutboxPurge:
    """One purge of the outbox; engine is an account's that may delete its rows."""

    def __init__(
        self,
        settings: OperationsSettings,
        target: OpenEmrTarget,
        engine: sa.Engine,
        source: Source,
        before: dt.datetime,
    ) -> None:
        self._settings = settings
        self._target = target
        self._engine = engine
        self._source = source
        self._before = before
        self._counted: set[int] = set()

    def portions(self, *, dry_run: bool) -> Iterator[Portion]:
        """Go through what topics or archive hold, since only that may go: nothing is asked for row by row.

        A row goes if it is done since before the day given, and the ledger has settled it, or has a newer state.
        """
        oldest_ms = self._oldest_ms()
        if oldest_ms is None:
            return
        for kept in self._source.kept(tuple(EntityType)):
            span = dataclasses.replace(kept.span, start=self._source.offset_at(kept.span, oldest_ms))
            for chunk in chunks(self._source.records(span), ROWS_MAX):
                ids = self._confirmed(look_up(self._target.known, chunk))
                yield Portion(len(chunk), self._count(ids) if dry_run else self._remove(ids))

    def old_rows(self) -> int:
        """Count the rows that are done since before the day given and are there."""
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(sync_outbox).where(*self._old())) or 0

    def _oldest_ms(self) -> int | None:
        """Return from when on records can be of rows that may go, in ms since 1970; None if there are no such rows."""
        with self._engine.connect() as connection:
            oldest = connection.scalar(sa.select(sa.func.min(_OUTBOX.created_at)).where(*self._old()))
        if oldest is None:
            return None
        oldest = oldest.replace(tzinfo=dt.UTC) if oldest.tzinfo is None else oldest
        return int((oldest - CLOCKS_DIFFER).timestamp() * 1000)

    def _confirmed(self, looked: Sequence[Looked]) -> Sequence[uuid.UUID]:
        """Return what the ledger has settled; what it has forgotten is settled if its entity has that seq or beyond."""
        found = [uuid.UUID(bytes=one.outbox_id) for one in looked if one.is_known]
        others: list[Event] = []
        for one in looked:
            if not one.is_known:
                try:
                    others.append(decoded(one.record, self._settings.record_bytes_max))
                except EventError:
                    continue
        last = self._target.watermarks([event.key for event in others])
        return [*found, *(event.outbox_id for event in others if last.get(event.key, -1) >= event.seq)]

    def _count(self, ids: Sequence[uuid.UUID]) -> int:
        """Count rows that would go, each once, however often its record was sent."""
        if not ids:
            return 0
        asked = sa.select(_OUTBOX.seq).where(_OUTBOX.outbox_id.in_(ids), *self._old())
        with self._engine.connect() as connection:
            found = set(connection.scalars(asked)) - self._counted
        self._counted |= found
        return len(found)

    def _remove(self, ids: Sequence[uuid.UUID]) -> int:
        if not ids:
            return 0
        with self._engine.begin() as connection:
            return connection.execute(sa.delete(sync_outbox).where(_OUTBOX.outbox_id.in_(ids), *self._old())).rowcount

    def _old(self) -> tuple[sa.ColumnElement[bool], ...]:
        return _OUTBOX.status == Status.DONE.value, _OUTBOX.processed_at < self._before


def ledger_portions(
    engine: sa.Engine, settings: OperationsSettings, before: dt.datetime, *, dry_run: bool
) -> Iterator[Portion]:
    """Remove settled events of before that time, whose entity's watermark says the same.

    Such an event that is delivered again is behind its watermark and settles as stale: nothing is written to OpenEMR.
    """
    schema = checked_schema(settings.ledger_schema)
    read = sa.text(f"""
        SELECT a.outbox_id, a.applied_at < :before AND m.last_seq >= a.seq AS unneeded
        FROM {schema}.applied_event a
        LEFT JOIN {schema}.entity_map m ON m.entity_type = a.entity_type AND m.entity_id = a.entity_id
        WHERE a.outbox_id > :after ORDER BY a.outbox_id LIMIT {_LEDGER_ROWS_READ}""")  # noqa: S608 - ours
    remove = sa.text(f"DELETE FROM {schema}.applied_event WHERE outbox_id IN :ids").bindparams(  # noqa: S608 - ours
        sa.bindparam("ids", expanding=True)
    )
    after = b""
    while True:
        with engine.begin() as connection:
            values = {"before": before.astimezone(dt.UTC).replace(tzinfo=None), "after": after}
            rows = connection.execute(read, values).all()
            unneeded = [row.outbox_id for row in rows if row.unneeded]
            for start in range(0, 0 if dry_run else len(unneeded), ROWS_MAX):
                connection.execute(remove, {"ids": unneeded[start : start + ROWS_MAX]})
        if not rows:
            return
        after = rows[-1].outbox_id
        yield Portion(len(rows), len(unneeded))
