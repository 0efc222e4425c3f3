"""How far each resync has come, in the ledger's schema."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from consumer.openemr.ledger_schema import checked_schema
from operations.config import OperationsSettings
from operations.engines import pooled_engine
from operations.recovery_ledger import ABORTED, FINISHED
from operations.resync_selection import ResyncSelection

_OPEN: Final = f"state NOT IN ('{FINISHED}', '{ABORTED}')"


class Way(enum.StrEnum):
    """Where the events of a resync come from."""

    OUTBOX = "outbox"
    TABLES = "tables"


@dataclasses.dataclass(frozen=True, slots=True)
class ResyncRun:
    """A resync that has begun; place is where it goes on, in words of its way; updated_at is UTC.

    The state of a killed one still says running.
    """

    run_id: str
    way: Way
    selection: ResyncSelection
    state: str
    events: int
    done: int
    place: Mapping[str, Any]
    updated_at: dt.datetime


class ResyncLedger:
    """Rows of resync_run; every method may raise a DBAPIError of SQLAlchemy."""

    def __init__(self, settings: OperationsSettings) -> None:
        self._table = f"{checked_schema(settings.ledger_schema)}.resync_run"
        self._engine = pooled_engine(settings.database_url("openemr_url"))

    def open_run(self) -> ResyncRun | None:
        """Return the resync that has begun and has neither ended nor been given up."""
        sql = f"""
            SELECT run_id, way, selection, state, events, done, place, updated_at FROM {self._table}
            WHERE {_OPEN} ORDER BY started_at DESC LIMIT 1"""  # noqa: S608 - ours
        with self._engine.connect() as connection:
            row = connection.execute(sa.text(sql)).one_or_none()
        if row is None:
            return None
        return ResyncRun(
            row.run_id,
            Way(row.way),
            ResyncSelection.from_json(row.selection),
            row.state,
            row.events,
            row.done,
            json.loads(row.place),
            row.updated_at.replace(tzinfo=dt.UTC),
        )

    def save(self, run: ResyncRun) -> None:
        """Write how far it has come."""
        sql = f"""
            INSERT INTO {self._table}
                (run_id, way, selection, state, events, done, place, started_at, updated_at)
            VALUES (:run_id, :way, :selection, :state, :events, :done, :place, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))
            ON DUPLICATE KEY UPDATE state = :state, done = :done, place = :place, updated_at = UTC_TIMESTAMP(6)
            """  # noqa: S608 - ours
        row = {
            "run_id": run.run_id,
            "way": run.way.value,
            "selection": run.selection.to_json(),
            "state": run.state,
            "events": run.events,
            "done": run.done,
            "place": json.dumps(dict(run.place)),
        }
        with self._engine.begin() as connection:
            connection.execute(sa.text(sql), row)
