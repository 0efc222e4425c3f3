"""Which outbox rows, or which of the application's entities, a resync is about."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping
from typing import Any, Self

import sqlalchemy as sa

from connectors.outbox import EntityType, Status, sync_outbox
from operations.errors import ResyncError

_OUTBOX = sync_outbox.c


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResyncSelection:
    """What an operator has chosen; whatever is empty or None chooses all.

    Attributes:
        entity_types, entity_ids: of these.
        statuses: outbox rows that have one of these now.
        since, until: rows made, or entities changed, from then on and before then; both have an offset.
        seq_from, seq_to: outbox rows of these numbers, both included.
        seqs: outbox rows of just these numbers.
        every: also entities of which the outbox still has a row (from the tables only).
    """

    entity_types: tuple[EntityType, ...] = ()
    entity_ids: tuple[str, ...] = ()
    statuses: tuple[Status, ...] = ()
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    seq_from: int | None = None
    seq_to: int | None = None
    seqs: tuple[int, ...] = ()
    every: bool = False

    def __post_init__(self) -> None:
        for instant in (self.since, self.until):
            if instant is not None and instant.tzinfo is None:
                raise ResyncError("a time needs an offset, such as 2025-03-01T00:00:00+00:00")

    def rows(self) -> list[sa.ColumnElement[bool]]:
        """Return the conditions on outbox rows."""
        found = self.between(_OUTBOX.created_at)
        if self.entity_types:
            found.append(_OUTBOX.entity_type.in_([str(one) for one in self.entity_types]))
        if self.entity_ids:
            found.append(_OUTBOX.entity_id.in_(self.entity_ids))
        if self.statuses:
            found.append(_OUTBOX.status.in_([str(one) for one in self.statuses]))
        if self.seq_from is not None:
            found.append(_OUTBOX.seq >= self.seq_from)
        if self.seq_to is not None:
            found.append(_OUTBOX.seq <= self.seq_to)
        if self.seqs:
            found.append(_OUTBOX.seq.in_(self.seqs))
        return found

    def between(self, column: sa.ColumnElement[Any]) -> list[sa.ColumnElement[bool]]:
        """Return the conditions of time on a column that holds UTC."""
        found = []
        if self.since is not None:
            found.append(column >= self.since.astimezone(dt.UTC))
        if self.until is not None:
            found.append(column < self.until.astimezone(dt.UTC))
        return found

    def to_json(self) -> str:
        """Give it as text."""
        values = dataclasses.asdict(self)
        instants = {name: at.isoformat() for name in ("since", "until") if (at := values[name]) is not None}
        return json.dumps({**values, **instants})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what to_json gave."""
        read: Mapping[str, Any] = json.loads(text)
        instants = {name: dt.datetime.fromisoformat(read[name]) for name in ("since", "until") if read[name]}
        return cls(
            entity_types=tuple(EntityType(one) for one in read["entity_types"]),
            entity_ids=tuple(read["entity_ids"]),
            statuses=tuple(Status(one) for one in read["statuses"]),
            seq_from=read["seq_from"],
            seq_to=read["seq_to"],
            seqs=tuple(read["seqs"]),
            every=read["every"],
            **instants,
        )
