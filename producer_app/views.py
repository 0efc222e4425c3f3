"""What the application shows: an entity with its way into OpenEMR, and pages of entities."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any, Final

import pydantic
import pydantic_core
import sqlalchemy as sa

from connectors.events import EventError, check_entity_id
from connectors.outbox import EntityType, Operation, Status, TargetSystem, sync_outbox
from producer_app.database_errors import database_errors
from producer_app.errors import NotFoundError
from producer_app.tables import BUSINESS_TABLES, key_column

PAGE_ROWS_MAX: Final = 500
"""The longest page of a list."""


class SyncView(pydantic.BaseModel):
    """How far the newest change of an entity has come on its way to one target system."""

    target_system: TargetSystem
    operation: Operation
    status: Status
    outcome: str | None
    error_class: str | None
    error_message: str | None
    outbox_id: uuid.UUID
    created_at: dt.datetime
    processed_at: dt.datetime | None


class EntityView(pydantic.BaseModel):
    """An entity: its full state, when it changed, and its way into each target system."""

    entity_id: str
    state: dict[str, Any]
    created_at: dt.datetime
    updated_at: dt.datetime
    deleted_at: dt.datetime | None
    last_synced_at: dt.datetime | None
    sync: list[SyncView]


class PageView(pydantic.BaseModel):
    """Ids of undeleted entities in order; next_after, when there are more, is the `after` of the next page."""

    entity_ids: list[str]
    next_after: str | None


def entity_view(engine: sa.Engine, entity_type: EntityType, entity_id: str) -> EntityView:
    """Show one entity, also a deleted one.

    Raises:
        NotFoundError: there is none with this id.
        UnavailableError, StorageError: the database's part.
    """
    try:
        check_entity_id(entity_id)
    except EventError:
        raise NotFoundError(f"there is no {entity_type} with this id") from None
    table, key = BUSINESS_TABLES[entity_type], key_column(entity_type)
    kept = (table.c.created_at, table.c.updated_at, table.c.deleted_at, table.c.last_synced_at)
    with database_errors(), engine.connect() as connection:
        row = connection.execute(
            sa.select(key.label("entity_id"), sa.cast(table.c.state, sa.Text()).label("state"), *kept).where(
                key == entity_id
            )
        ).one_or_none()
        if row is None:
            raise NotFoundError(f"there is no {entity_type} with this id")
        sync = connection.execute(_newest_per_target(entity_type, entity_id)).all()
    return EntityView(
        entity_id=row.entity_id,
        state=pydantic_core.from_json(row.state),
        created_at=_aware(row.created_at),
        updated_at=_aware(row.updated_at),
        deleted_at=_aware(row.deleted_at),
        last_synced_at=_aware(row.last_synced_at),
        sync=[
            SyncView.model_validate(
                {name: _aware(value) if isinstance(value, dt.datetime) else value for name, value in found.items()}
            )
            for found in (one._asdict() for one in sync)
        ],
    )


def page_view(
    engine: sa.Engine, entity_type: EntityType, *, after: str, limit: int, patient_id: str | None = None
) -> PageView:
    """List undeleted entities with ids greater than `after`, at most `limit`; of encounters and orders by patient.

    Raises:
        UnavailableError, StorageError: the database's part.
    """
    table, key = BUSINESS_TABLES[entity_type], key_column(entity_type)
    wanted = sa.select(key).where(key > after, table.c.deleted_at.is_(None)).order_by(key).limit(limit + 1)
    if patient_id is not None:
        wanted = wanted.where(table.c.patient_id == patient_id)
    with database_errors(), engine.connect() as connection:
        found = list(connection.execute(wanted).scalars())
    return PageView(entity_ids=found[:limit], next_after=found[limit - 1] if len(found) > limit else None)


def answers(engine: sa.Engine) -> None:
    """Ask the database for a sign of life.

    Raises:
        UnavailableError: it gives none.
    """
    with database_errors(), engine.connect() as connection:
        connection.execute(sa.select(sa.literal(1)))


def _newest_per_target(entity_type: EntityType, entity_id: str) -> sa.Select[Any]:
    of_entity = (sync_outbox.c.entity_type == entity_type.value) & (sync_outbox.c.entity_id == entity_id)
    newest = sa.select(sa.func.max(sync_outbox.c.seq)).where(of_entity).group_by(sync_outbox.c.target_system)
    shown = [sync_outbox.c[name] for name in SyncView.model_fields]
    return sa.select(*shown).where(sync_outbox.c.seq.in_(newest)).order_by(sync_outbox.c.seq)


def _aware(instant: Any) -> Any:
    # MySQL and MariaDB give back naive instants; ours are UTC.
    return instant.replace(tzinfo=dt.UTC) if instant is not None and instant.tzinfo is None else instant
