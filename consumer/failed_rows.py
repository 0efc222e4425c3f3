"""Takes failed rows out of the source's outbox for a retry, on PostgreSQL, MariaDB from 10.6 and MySQL from 8.0."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Collection, Sequence
from typing import Any, Final

import sqlalchemy as sa

from connectors.outbox import Status, sync_outbox
from connectors.outbox_event import EVENT_COLUMNS, event_of, in_utc
from consumer.outcome import ErrorClass
from consumer.ports import FailedRow
from consumer.source_database import chunks, one_of, translated

RETRYING: Final = "retrying"
"""The outcome of a row that a retrier holds; next_attempt_at is then when the hold lapses."""

BYTES_MAX: Final = 4_194_304
"""Payloads of one claim, beyond the first: what is written from them is one statement."""

_OUTBOX: Final = sync_outbox.c

_HELD: Final = sa.and_(_OUTBOX.status == Status.PROCESSING.value, _OUTBOX.outcome == RETRYING)

_COLUMNS: Final = (*EVENT_COLUMNS, _OUTBOX.error_class, _OUTBOX.next_attempt_at)


class SqlFailedRows:
    """The real FailedRows; the account needs no more than the marker's rights."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def claim_due(
        self, limit: int, *, now: dt.datetime, held_until: dt.datetime, paused: Collection[ErrorClass]
    ) -> Sequence[FailedRow]:
        """See ports.FailedRows.

        One query for each status: the index on (status, next_attempt_at) then gives the rows in order, and no more
        are looked at and locked than are taken.
        """
        where = [_OUTBOX.next_attempt_at <= now]
        if paused:
            words = [one.value for one in paused]
            where.append(sa.or_(_OUTBOX.error_class.is_(None), _OUTBOX.error_class.not_in(words)))
        with translated(), self._engine.begin() as connection:
            found: list[sa.Row[Any]] = []
            for state in (_HELD, _OUTBOX.status == Status.FAILED.value):
                if len(found) < limit:
                    found += _locked(connection, sa.and_(state, *where), limit - len(found))
            return _taken(connection, found, held_until)

    def claim(
        self, outbox_ids: Sequence[uuid.UUID], *, now: dt.datetime, held_until: dt.datetime
    ) -> Sequence[FailedRow]:
        """See ports.FailedRows."""
        lapsed = sa.and_(_HELD, _OUTBOX.next_attempt_at <= now)
        state = sa.or_(_OUTBOX.status == Status.FAILED.value, lapsed)
        with translated(), self._engine.begin() as connection:
            found: list[sa.Row[Any]] = []
            for chunk in chunks(outbox_ids):
                chosen = one_of(connection, _OUTBOX.outbox_id, chunk)
                found += _locked(connection, sa.and_(chosen, state), len(chunk))
            return _taken(connection, found, held_until)

    def give_back(self, rows: Sequence[FailedRow], *, due_at: dt.datetime) -> None:
        """See ports.FailedRows; the hold's end tells our own hold from another retrier's later one."""
        if not rows:
            return
        with translated(), self._engine.begin() as connection:
            for next_attempt_at in (None, due_at):
                given = [one for one in rows if (one.due_at is None) == (next_attempt_at is None)]
                for chunk in chunks([one.event.outbox_id for one in given]):
                    where = one_of(connection, _OUTBOX.outbox_id, chunk), _HELD
                    still = _OUTBOX.next_attempt_at == rows[0].held_until
                    values = {"status": Status.FAILED.value, "outcome": "failed", "next_attempt_at": next_attempt_at}
                    connection.execute(sa.update(sync_outbox).where(*where, still).values(values))


def _locked(connection: sa.Connection, where: sa.ColumnElement[bool], limit: int) -> Sequence[sa.Row[Any]]:
    """Lock rows that no other retrier is just taking."""
    chosen = sa.select(*_COLUMNS).where(where).order_by(_OUTBOX.next_attempt_at).limit(limit)
    return list(connection.execute(chosen.with_for_update(skip_locked=True)))


def _taken(connection: sa.Connection, found: Sequence[sa.Row[Any]], held_until: dt.datetime) -> Sequence[FailedRow]:
    """Hold rows as long as their payloads fit; the others are free again at the commit."""
    rows: list[FailedRow] = []
    size_bytes = 0
    for row in found:
        one = _failed_row(row, held_until)
        size_bytes += len(one.event.payload)
        if rows and size_bytes > BYTES_MAX:
            break
        rows.append(one)
    values = {"status": Status.PROCESSING.value, "outcome": RETRYING, "next_attempt_at": held_until}
    for chunk in chunks([one.event.outbox_id for one in rows]):
        chosen = one_of(connection, _OUTBOX.outbox_id, chunk)
        connection.execute(sa.update(sync_outbox).where(chosen).values(values))
    return rows


def _failed_row(row: sa.Row[Any], held_until: dt.datetime) -> FailedRow:
    known = row.error_class in set(ErrorClass)
    due_at = None if row.next_attempt_at is None else in_utc(row.next_attempt_at)
    return FailedRow(event_of(row), ErrorClass(row.error_class) if known else None, due_at, held_until)
