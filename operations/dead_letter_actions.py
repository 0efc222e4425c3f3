"""What operators decided about dead letters, remembered in the ledger's schema."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import enum
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import sqlalchemy as sa

from consumer.openemr.ledger_schema import checked_schema
from operations.config import OperationsSettings
from operations.errors import DeadLetterError

WHY_CHARACTERS_MAX: Final = 500
_OPERATOR_CHARACTERS_MAX: Final = 100

_COLUMNS: Final = "partition_no, offset_no, action_no, action, operator, why, taken_at"
_READ: Final = f"SELECT {_COLUMNS} FROM {{schema}}.dead_letter_action WHERE topic_id = :topic_id"  # noqa: S608 - ours
_COUNT: Final = """
    SELECT partition_no, COUNT(DISTINCT offset_no) FROM {schema}.dead_letter_action
    WHERE topic_id = :topic_id AND ({kept}) GROUP BY partition_no
"""
_INSERT: Final = """
    INSERT INTO {schema}.dead_letter_action
        (topic_id, partition_no, offset_no, action_no, action, operator, why, taken_at)
    VALUES (:topic_id, :partition_no, :offset_no, :action_no, :action, :operator, :why, UTC_TIMESTAMP(6))
"""


class Kind(enum.StrEnum):
    """What can be decided about a dead letter."""

    REPLAYED = "replayed"
    DISCARDED = "discarded"


@dataclasses.dataclass(frozen=True, slots=True)
class Action:
    """One decision; number counts those on the same letter from 1, why is None for a replay, taken_at is UTC."""

    number: int
    kind: Kind
    operator: str
    why: str | None
    taken_at: dt.datetime

    def __str__(self) -> str:
        because = "" if self.why is None else f": {self.why}"
        return f"{self.kind} by {self.operator} at {self.taken_at.isoformat(timespec='seconds')}{because}"


Actions = Mapping[tuple[int, int], Action]
"""The newest decision on each letter, by partition and offset."""


class DeadLetterActions:
    """Decisions on the dead letters of one topic; every method may raise a DBAPIError of SQLAlchemy."""

    def __init__(self, engine: sa.Engine, settings: OperationsSettings, topic_id: str) -> None:
        self._schema = checked_schema(settings.ledger_schema)
        self._operator = settings.operator[:_OPERATOR_CHARACTERS_MAX]
        self._topic_id = topic_id
        self._engine = engine

    def newest(self) -> Actions:
        """Return the newest decision on each letter."""
        found: dict[tuple[int, int], Action] = {}
        with self._engine.connect() as connection:
            query = sa.text(f"{_READ.format(schema=self._schema)} ORDER BY action_no")
            for row in connection.execute(query, {"topic_id": self._topic_id}):
                action = Action(
                    row.action_no, Kind(row.action), row.operator, row.why, row.taken_at.replace(tzinfo=dt.UTC)
                )
                found[row.partition_no, row.offset_no] = action
        return found

    def take(
        self,
        place: tuple[int, int],
        kind: Kind,
        *,
        before: Action | None,
        why: str | None = None,
        act: Callable[[], None] = lambda: None,
    ) -> None:
        """Remember a decision on a letter, after `before`, once act has done its part.

        What act did is done again if the database is lost right after it, which the ledger makes a duplicate; the
        other way round a letter would count as replayed that never was.

        Raises:
            DeadLetterError: another operator decided at the same time; nothing was done.
        """
        row = {
            "topic_id": self._topic_id,
            "partition_no": place[0],
            "offset_no": place[1],
            "action_no": 1 if before is None else before.number + 1,
            "action": kind.value,
            "operator": self._operator,
            "why": why,
        }
        with self._decided_once(place), self._engine.begin() as connection:
            # Its key is held until the commit, so that a second operator waits here and is then refused.
            connection.execute(sa.text(_INSERT.format(schema=self._schema)), row)
            act()

    @contextlib.contextmanager
    def _decided_once(self, place: tuple[int, int]) -> Iterator[None]:
        try:
            yield
        except sa.exc.IntegrityError:
            raise DeadLetterError(f"{place[0]}-{place[1]}: somebody else has just decided; look again") from None

    def count(self, kept: tuple[tuple[int, int], ...]) -> int:
        """Count the letters with a decision among those that are kept: first and end offset by partition."""
        if not kept:
            return 0
        wheres = (f"(partition_no = {number} AND offset_no >= {start:d})" for number, (start, _) in enumerate(kept))
        query = _COUNT.format(schema=self._schema, kept=" OR ".join(wheres))
        with self._engine.connect() as connection:
            return sum(row[1] for row in connection.execute(sa.text(query), {"topic_id": self._topic_id}))
