"""The statements on the business tables; each runs in the caller's transaction."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from connectors.outbox import EntityType
from connectors.payloads import AnyPayload, EncounterV1, PatientV1, payload_json
from producer_app.database_errors import is_duplicate
from producer_app.errors import AlreadyExistsError, InvalidChangeError
from producer_app.tables import BUSINESS_TABLES, key_column


@dataclasses.dataclass(frozen=True, slots=True)
class LockedRow:
    """A business row this transaction has locked: its state as JSON text, and whether it was deleted."""

    state: str
    deleted: bool


def lock(connection: sa.Connection, entity_type: EntityType, entity_ids: Collection[str]) -> dict[str, LockedRow]:
    """Lock these entities' rows until the transaction ends, in the order of their ids; absent ones are left out."""
    table, key = BUSINESS_TABLES[entity_type], key_column(entity_type)
    statement = (
        sa.select(key, sa.cast(table.c.state, sa.Text()), table.c.deleted_at)
        .where(key.in_(sorted(entity_ids)))
        .order_by(key)
        .with_for_update()
    )
    return {
        entity_id: LockedRow(state, deleted_at is not None)
        for entity_id, state, deleted_at in connection.execute(statement)
    }


def lock_live(connection: sa.Connection, entity_type: EntityType, entity_ids: Collection[str]) -> frozenset[str]:
    """Return which of these entities exist undeleted, and keep them so until the transaction ends.

    The lock is shared: many transactions may refer to one patient at a time; who locks that patient waits for them.
    """
    table, key = BUSINESS_TABLES[entity_type], key_column(entity_type)
    statement = (
        sa.select(key)
        .where(key.in_(sorted(entity_ids)), table.c.deleted_at.is_(None))
        .order_by(key)
        # The weakest lock that excludes FOR UPDATE: on PostgreSQL the consumer's last_synced_at need not wait for it.
        .with_for_update(read=True, key_share=True)
    )
    return frozenset(connection.execute(statement).scalars()) if entity_ids else frozenset()


def insert(
    connection: sa.Connection, entity_type: EntityType, payloads: Sequence[AnyPayload], now: dt.datetime
) -> None:
    """Insert new business rows, which locks them.

    Raises:
        AlreadyExistsError: one of the ids is taken, perhaps by a transaction that has just committed.
    """
    key = key_column(entity_type).name
    rows = [
        {key: payload.entity_id, **searchable(payload), "state": payload_json(payload)}
        | {"created_at": now, "updated_at": now}
        for payload in payloads
    ]
    try:
        connection.execute(sa.insert(BUSINESS_TABLES[entity_type]), rows)
    except sa.exc.IntegrityError as error:
        if not is_duplicate(error):
            raise
        which = payloads[0].entity_id if len(payloads) == 1 else f"one of {len(payloads)}"
        # The cause holds the row.
        raise AlreadyExistsError(f"{entity_type} {which} already exists") from None


def replace(
    connection: sa.Connection, entity_type: EntityType, payloads: Sequence[AnyPayload], now: dt.datetime
) -> None:
    """Put new full states into locked rows."""
    table, key = BUSINESS_TABLES[entity_type], key_column(entity_type)
    rows = [
        {"entity_id_": payload.entity_id, **searchable(payload), "state": payload_json(payload), "updated_at": now}
        for payload in payloads
    ]
    connection.execute(sa.update(table).where(key == sa.bindparam("entity_id_")), rows)


def mark_deleted(connection: sa.Connection, entity_type: EntityType, entity_id: str, now: dt.datetime) -> None:
    """Mark a locked row deleted; its last state stays, so that the id is never used twice."""
    table, key = BUSINESS_TABLES[entity_type], key_column(entity_type)
    connection.execute(sa.update(table).where(key == entity_id).values(deleted_at=now, updated_at=now))


def searchable(payload: AnyPayload) -> Mapping[str, Any]:
    """Give the columns by which a business row is found, out of its state."""
    if isinstance(payload, PatientV1):
        return {
            "family_name": payload.family_name,
            "given_name": payload.given_name,
            "birth_date": payload.birth_date,
        }
    if isinstance(payload, EncounterV1):
        return {"patient_id": payload.patient_id, "started_at": _utc("started_at", payload.started_at)}
    return {
        "patient_id": payload.patient_id,
        "encounter_id": payload.encounter_id,
        "kind": payload.kind,
        "ordered_at": _utc("ordered_at", payload.ordered_at),
        "status": payload.status,
    }


def _utc(field: str, instant: dt.datetime) -> dt.datetime:
    """Bring an instant to UTC, as MySQL and MariaDB store none with an offset."""
    try:
        return instant.astimezone(dt.UTC)
    except OverflowError:
        raise InvalidChangeError.of(field, "is out of range") from None
