"""How far replays have come, and who turned time back, when and why: remembered in the ledger's schema."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from consumer.openemr.ledger_schema import checked_schema
from operations.config import OperationsSettings
from operations.engines import pooled_engine
from operations.errors import ReplayError

WHY_CHARACTERS_MAX: Final = 500
_DETAIL_CHARACTERS_MAX: Final = 1_000
_OPERATOR_CHARACTERS_MAX: Final = 100

_IDLE_S: Final = 604_800

_USED_LOCK: Final = sa.text("SELECT IS_USED_LOCK(:name)")
_OWN_LOCK: Final = sa.text("SELECT IS_USED_LOCK(:name) = CONNECTION_ID()")

RUNNING: Final = "running"
PAUSED: Final = "paused"
STOPPED: Final = "stopped"
ABORTED: Final = "aborted"
FINISHED: Final = "finished"

Place = tuple[str, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """A replay that has begun; positions are the next offsets by topic and partition; times are UTC.

    RUNNING is also what a killed one says: no other state was written.
    """

    plan_id: str
    digest: str
    state: str
    events: int
    done: int
    positions: Mapping[Place, int]
    counts: Counter[str]
    started_at: dt.datetime
    updated_at: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Action:
    """What a person did, with UTC time; subject is a plan's id, or what else it was done to."""

    command: str
    subject: str
    action: str
    operator: str
    why: str | None
    detail: str | None
    taken_at: dt.datetime


class RecoveryLedger:
    """Rows of replay_run and recovery_action; every method may raise a DBAPIError of SQLAlchemy."""

    def __init__(self, settings: OperationsSettings) -> None:
        self._schema = checked_schema(settings.ledger_schema)
        self._operator = settings.operator[:_OPERATOR_CHARACTERS_MAX]
        self._engine = pooled_engine(settings.database_url("openemr_url"))

    def note(self, command: str, subject: str, action: str, *, why: str | None = None, detail: str = "") -> None:
        """Remember what was done; rows are only added."""
        row = {
            "command": command,
            "subject": subject,
            "action": action,
            "operator": self._operator,
            "why": why,
            "detail": detail[:_DETAIL_CHARACTERS_MAX] or None,
        }
        sql = f"""
            INSERT INTO {self._schema}.recovery_action (command, subject, action, operator, why, detail, taken_at)
            VALUES (:command, :subject, :action, :operator, :why, :detail, UTC_TIMESTAMP(6))"""  # noqa: S608 - ours
        with self._engine.begin() as connection:
            connection.execute(sa.text(sql), row)

    def actions(self, command: str, subject: str | None, limit: int) -> Sequence[Action]:
        """Return what was done, the newest first."""
        sql = f"""
            SELECT command, subject, action, operator, why, detail, taken_at FROM {self._schema}.recovery_action
            WHERE command = :command AND (:subject IS NULL OR subject = :subject)
            ORDER BY action_id DESC LIMIT :limit"""  # noqa: S608 - ours
        with self._engine.connect() as connection:
            rows = connection.execute(sa.text(sql), {"command": command, "subject": subject, "limit": limit}).all()
        return [
            Action(
                row.command,
                row.subject,
                row.action,
                row.operator,
                row.why,
                row.detail,
                row.taken_at.replace(tzinfo=dt.UTC),
            )
            for row in rows
        ]

    def run(self, plan_id: str) -> Run | None:
        """Return how far a plan's replay has come; None if it has not begun."""
        sql = f"""
            SELECT plan_id, digest, state, events, done, positions, counts, started_at, updated_at
            FROM {self._schema}.replay_run WHERE plan_id = :plan_id"""  # noqa: S608 - ours
        with self._engine.connect() as connection:
            row = connection.execute(sa.text(sql), {"plan_id": plan_id}).one_or_none()
        if row is None:
            return None
        return Run(
            row.plan_id,
            row.digest,
            row.state,
            row.events,
            row.done,
            {(topic, number): offset for topic, number, offset in json.loads(row.positions)},
            Counter(json.loads(row.counts)),
            row.started_at.replace(tzinfo=dt.UTC),
            row.updated_at.replace(tzinfo=dt.UTC),
        )

    def save(
        self,
        plan_id: str,
        *,
        digest: str,
        state: str,
        events: int,
        done: int,
        positions: Mapping[Place, int],
        counts: Mapping[str, int],
    ) -> None:
        """Write how far a replay has come."""
        row: dict[str, Any] = {
            "plan_id": plan_id,
            "digest": digest,
            "state": state,
            "events": events,
            "done": done,
            "positions": json.dumps([[*place, offset] for place, offset in sorted(positions.items())]),
            "counts": json.dumps(dict(counts)),
        }
        sql = f"""
            INSERT INTO {self._schema}.replay_run
                (plan_id, digest, state, events, done, positions, counts, started_at, updated_at)
            VALUES (:plan_id, :digest, :state, :events, :done, :positions, :counts,
                UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))
            ON DUPLICATE KEY UPDATE state = :state, done = :done, positions = :positions, counts = :counts,
                updated_at = UTC_TIMESTAMP(6)"""  # noqa: S608 - ours
        with self._engine.begin() as connection:
            connection.execute(sa.text(sql), row)

    @contextlib.contextmanager
    def alone(self, subject: str) -> Iterator[Hold]:
        """Keep others from doing the same at the same time; a killed process's hold ends with its connection.

        Raises:
            ReplayError: somebody does.
        """
        name = self._lock(subject)
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            # It is idle while the work goes on, which may take longer than the server lets idle connections be.
            connection.execute(sa.text(f"SET SESSION wait_timeout = {_IDLE_S}"))
            if connection.execute(sa.text("SELECT GET_LOCK(:name, 0)"), {"name": name}).scalar() != 1:
                raise ReplayError("somebody is at it right now: this plan is being applied, or the same command runs")
            hold = Hold(connection, name)
            try:
                yield hold
            finally:
                hold.release()

    def is_held(self, subject: str) -> bool:
        """Tell whether somebody is at it right now; see alone."""
        with self._engine.connect() as connection:
            return connection.execute(_USED_LOCK, {"name": self._lock(subject)}).scalar() is not None

    def _lock(self, subject: str) -> str:
        return f"{self._schema}:{subject}"[-64:]


class Hold:
    """What keeps others from doing the same; it is gone for good when its connection breaks."""

    def __init__(self, connection: sa.Connection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._is_lost = False

    def is_held(self) -> bool:
        """Tell whether it is still there; False also when the server does not answer."""
        if not self._is_lost:
            try:
                self._is_lost = self._connection.execute(_OWN_LOCK, {"name": self._name}).scalar() != 1
            except sa.exc.DBAPIError:
                self._is_lost = True
        return not self._is_lost

    def release(self) -> None:
        """Let others begin; what is lost needs none, and how the work ended must not be hidden by that."""
        if self.is_held():
            with contextlib.suppress(sa.exc.DBAPIError):
                self._connection.execute(sa.text("SELECT RELEASE_LOCK(:name)"), {"name": self._name})
