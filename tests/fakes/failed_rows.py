"""The failed rows of the application's outbox in memory."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Collection, Sequence

from consumer.outcome import ErrorClass
from consumer.ports import FailedRow
from tests.fakes.faults import Faults
from tests.fakes.marker import FakeRow, FakeSource


class FakeFailedRows:
    """FailedRows on a FakeSource; several may share one."""

    def __init__(self, source: FakeSource, faults: Faults | None = None) -> None:
        self._source = source
        self._faults = faults or Faults()

    def claim_due(
        self, limit: int, *, now: dt.datetime, held_until: dt.datetime, paused: Collection[ErrorClass]
    ) -> Sequence[FailedRow]:
        """See ports.FailedRows."""
        words = {one.value for one in paused}

        def due(row: FakeRow) -> bool:
            return row.next_attempt_at is not None and row.next_attempt_at <= now and row.error_class not in words

        return self._claim(lambda row: due(row) and (row.status == "failed" or _held(row)), limit, held_until)

    def claim(
        self, outbox_ids: Sequence[uuid.UUID], *, now: dt.datetime, held_until: dt.datetime
    ) -> Sequence[FailedRow]:
        """See ports.FailedRows."""

        def free(row: FakeRow) -> bool:
            lapsed = _held(row) and row.next_attempt_at is not None and row.next_attempt_at <= now
            return row.event.outbox_id in outbox_ids and (row.status == "failed" or lapsed)

        return self._claim(free, len(outbox_ids), held_until)

    def _claim(self, chosen: Callable[[FakeRow], bool], limit: int, held_until: dt.datetime) -> Sequence[FailedRow]:
        self._faults.at("failed.claim")
        found = [row for row in self._source.outbox.values() if chosen(row)]
        found.sort(key=lambda row: row.next_attempt_at.timestamp() if row.next_attempt_at else 0)
        taken = []
        for row in found[:limit]:
            error_class = None if row.error_class is None else ErrorClass(row.error_class)
            taken.append(FailedRow(row.event, error_class, row.next_attempt_at, held_until))
            row.status, row.outcome, row.next_attempt_at = "processing", "retrying", held_until
        self._faults.at("failed.claimed")
        return taken

    def give_back(self, rows: Sequence[FailedRow], *, due_at: dt.datetime) -> None:
        """See ports.FailedRows."""
        self._faults.at("failed.give_back")
        for one in rows:
            row = self._source.outbox[one.event.outbox_id]
            if _held(row) and row.next_attempt_at == one.held_until:
                row.status, row.outcome = "failed", "failed"
                row.next_attempt_at = None if one.due_at is None else due_at
        self._faults.at("failed.given_back")


def _held(row: FakeRow) -> bool:
    return row.status == "processing" and row.outcome == "retrying"
