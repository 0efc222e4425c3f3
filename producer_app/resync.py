"""Tells the state of entities again, out of their business rows, for events that the outbox keeps no more."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from connectors.outbox import RESYNC, EntityType, Operation, TargetSystem, sync_outbox
from connectors.payloads import PayloadError
from producer_app import rows
from producer_app.outbox import Change, checked_payload, record_changes
from producer_app.tables import BUSINESS_TABLES, key_column
from producer_app.unit_of_work import UnitOfWork


@dataclasses.dataclass(frozen=True, slots=True)
class ToldAgain:
    """Entities whose events were written, and ids of those whose stored state the contract refuses."""

    recorded: int
    refused: tuple[str, ...]


def entities(entity_type: EntityType, *, every: bool) -> sa.Select[Any]:
    """Select the ids of a type's entities, the deleted ones too; without every, those that the outbox has no row of."""
    key = key_column(entity_type)
    chosen = sa.select(key.label("entity_id"))
    if every:
        return chosen
    kept = sa.exists().where(sync_outbox.c.entity_type == entity_type.value, sync_outbox.c.entity_id == key)
    return chosen.where(~kept)


def updated_at(entity_type: EntityType) -> sa.ColumnElement[Any]:
    """Return the column that tells when an entity was last changed."""
    return BUSINESS_TABLES[entity_type].c.updated_at


def tell_again(
    uow: UnitOfWork,
    entity_type: EntityType,
    entity_ids: Collection[str],
    *,
    targets: Sequence[TargetSystem] | None = None,
) -> ToldAgain:
    """Write an update with the full state of each entity, or a delete where it was deleted, in one transaction.

    Rows are locked first, as the services do, so that the event is the newest; ids that do not exist are passed over.

    Raises:
        UnavailableError, StorageError: the database's part; nothing was written.
    """
    changes: list[Change] = []
    refused: list[str] = []
    with uow:
        for entity_id, row in sorted(rows.lock(uow.connection, entity_type, entity_ids).items()):
            try:
                payload = checked_payload(entity_type, row.state)
            except PayloadError:
                refused.append(entity_id)
                continue
            operation = Operation.DELETE if row.deleted else Operation.UPDATE
            changes.append(Change(entity_type, operation, payload, entity_id))
        record_changes(uow.connection, changes, targets=uow.targets if targets is None else targets, cause=RESYNC)
        uow.commit()
    return ToldAgain(len(changes), tuple(refused))
