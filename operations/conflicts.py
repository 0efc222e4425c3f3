"""Conflicts with clerks as an operator sees them: failed rows of the outbox beside what OpenEMR has now."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from connectors.events import EntityKey
from connectors.outbox import CurrentInstant, EntityType, Status, payload_text, sync_outbox
from consumer.openemr import conflicts
from consumer.openemr.conflicts import Conflict
from consumer.openemr.trail import AUTHOR_CHARACTERS_MAX
from consumer.outcome import ErrorClass
from operations.config import OperationsSettings
from operations.engines import reading_engine, source
from operations.errors import UnsettledError

ROWS_MAX = 1_000
_CONFLICT: Final = (
    sync_outbox.c.status == Status.FAILED.value,
    sync_outbox.c.error_class == ErrorClass.CONFLICT.value,
)


@dataclasses.dataclass(frozen=True, slots=True)
class ConflictRow:
    """One entity with failed events; conflict is None where map and rows agree and something else is in the way."""

    entity_type: str
    entity_id: str
    events: int
    newest_seq: int
    message: str | None
    conflict: Conflict | None


def list_conflicts(settings: OperationsSettings) -> tuple[ConflictRow, ...]:
    """Return the entities whose events failed as conflicts, oldest first, at most a thousand."""
    row = sync_outbox.c
    query = (
        sa.select(row.entity_type, row.entity_id, sa.func.count(), sa.func.max(row.seq), sa.func.max(row.error_message))
        .where(row.status == Status.FAILED.value, row.error_class == ErrorClass.CONFLICT.value)
        .group_by(row.entity_type, row.entity_id)
        .order_by(sa.func.min(row.seq))
        .limit(ROWS_MAX)
    )
    with source(settings).connect() as connection:
        failed = connection.execute(query).all()
    with reading_engine(settings.database_url("openemr_url")).connect() as connection:
        return tuple(
            ConflictRow(kind, entity_id, events, newest, message, _found(connection, settings, kind, entity_id))
            for kind, entity_id, events, newest, message in failed
        )


def adopt(settings: OperationsSettings, key: EntityKey, number: int) -> int:
    """Map the entity to another row of OpenEMR; return how many failed events are due again, its children's too."""
    return _settle(
        settings,
        key,
        lambda connection, author: conflicts.adopt(connection, settings.ledger_schema, key, number, author),
        children=True,
    )


def recreate(settings: OperationsSettings, key: EntityKey) -> int:
    """Let the next event insert a new row; return how many failed events are due again, its children's too."""
    return _settle(
        settings,
        key,
        lambda connection, author: conflicts.recreate(connection, settings.ledger_schema, key, author),
        children=True,
    )


def drop(settings: OperationsSettings, key: EntityKey) -> int:
    """Take OpenEMR's side; return how many failed events are due again, to become stale."""
    row = sync_outbox.c
    with source(settings).connect() as connection:
        newest = connection.scalar(sa.select(sa.func.max(row.seq)).where(*_failed(key))) or 0
    return _settle(
        settings,
        key,
        lambda connection, author: conflicts.drop(connection, settings.ledger_schema, key, int(newest), author),
    )


def _settle(
    settings: OperationsSettings,
    key: EntityKey,
    act: Callable[[sa.Connection, str], None],
    *,
    children: bool = False,
) -> int:
    """Change the ledger, then let the failed events be tried again at once; each may be repeated.

    children: also the events that failed because this entity's row was gone; what is not there yet they wait for.

    Raises:
        UnsettledError: the ledger or OpenEMR's rows do not allow it; nothing was changed.
    """
    try:
        with reading_engine(settings.database_url("openemr_url")).begin() as connection:
            act(connection, settings.operator[:AUTHOR_CHARACTERS_MAX])
    except conflicts.ConflictError as error:
        raise UnsettledError(str(error)) from error
    due = sa.update(sync_outbox).values(next_attempt_at=CurrentInstant())
    with source(settings).begin() as connection:
        rows = connection.execute(due.where(*_failed(key))).rowcount
        orphans = _orphans(connection, key) if children else []
        for start in range(0, len(orphans), ROWS_MAX):
            chunk = orphans[start : start + ROWS_MAX]
            rows += connection.execute(due.where(*_CONFLICT, sync_outbox.c.outbox_id.in_(chunk))).rowcount
        return rows


def _orphans(connection: sa.Connection, key: EntityKey) -> list[uuid.UUID]:
    """Return the events that failed because the row of this parent was gone.

    The parent stands in their payload only, which the databases' own JSON functions read in three dialects.
    """
    row = sync_outbox.c
    query = sa.select(row.outbox_id, payload_text).where(*_CONFLICT, row.error_message == conflicts.parent_gone(key))
    field = f"{key.entity_type}_id"
    found = connection.execute(query, execution_options={"yield_per": ROWS_MAX})
    return [outbox_id for outbox_id, payload in found if json.loads(payload).get(field) == key.entity_id]


def _failed(key: EntityKey) -> tuple[sa.ColumnElement[bool], ...]:
    row = sync_outbox.c
    return (row.entity_type == key.entity_type.value, row.entity_id == key.entity_id, *_CONFLICT)


def _found(connection: sa.Connection, settings: OperationsSettings, kind: str, entity_id: str) -> Conflict | None:
    return conflicts.find_conflict(connection, settings.ledger_schema, EntityKey(EntityType(kind), entity_id))
