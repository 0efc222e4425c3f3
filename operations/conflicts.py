"""Conflicts with clerks as an operator sees them: failed rows of the outbox beside what OpenEMR has now."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import sqlalchemy as sa

from connectors.events import EntityKey
from connectors.outbox import CurrentInstant, EntityType, Status, sync_outbox
from consumer.openemr import conflicts
from consumer.openemr.conflicts import Conflict
from consumer.outcome import ErrorClass
from operations.config import OperationsSettings
from operations.errors import UnsettledError
from operations.status import reading_engine, source

ROWS_MAX = 1_000


@dataclasses.dataclass(frozen=True, slots=True)
class ConflictRow:
    """One entity with failed events; gone is None where its row is there and something else is in the way."""

    entity_type: str
    entity_id: str
    events: int
    newest_seq: int
    message: str | None
    gone: Conflict | None


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
            ConflictRow(kind, entity_id, events, newest, message, _gone(connection, settings, kind, entity_id))
            for kind, entity_id, events, newest, message in failed
        )


def adopt(settings: OperationsSettings, key: EntityKey, number: int) -> int:
    """Map the entity to another row of OpenEMR; return how many failed events are due again."""
    return _settle(
        settings,
        key,
        lambda connection, author: conflicts.adopt(connection, settings.ledger_schema, key, number, author),
    )


def recreate(settings: OperationsSettings, key: EntityKey) -> int:
    """Let the next event insert a new row; return how many failed events are due again."""
    return _settle(
        settings, key, lambda connection, author: conflicts.recreate(connection, settings.ledger_schema, key, author)
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


def _settle(settings: OperationsSettings, key: EntityKey, act: Callable[[sa.Connection, str], None]) -> int:
    """Change the ledger, then let the failed events be tried again at once; each may be repeated.

    Raises:
        UnsettledError: the ledger or OpenEMR's rows do not allow it; nothing was changed.
    """
    try:
        with reading_engine(settings.database_url("openemr_url")).begin() as connection:
            act(connection, "operator")
    except conflicts.ConflictError as error:
        raise UnsettledError(str(error)) from error
    due = sa.update(sync_outbox).where(*_failed(key)).values(next_attempt_at=CurrentInstant())
    with source(settings).begin() as connection:
        return connection.execute(due).rowcount


def _failed(key: EntityKey) -> tuple[sa.ColumnElement[bool], ...]:
    row = sync_outbox.c
    return (
        row.entity_type == key.entity_type.value,
        row.entity_id == key.entity_id,
        row.status == Status.FAILED.value,
        row.error_class == ErrorClass.CONFLICT.value,
    )


def _gone(connection: sa.Connection, settings: OperationsSettings, kind: str, entity_id: str) -> Conflict | None:
    return conflicts.find_conflict(connection, settings.ledger_schema, EntityKey(EntityType(kind), entity_id))
