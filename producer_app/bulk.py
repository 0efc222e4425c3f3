"""Saving many entities of one type in one transaction, for imports."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Sequence

import pydantic_core

from connectors.outbox import EntityType, Operation
from connectors.payloads import AnyPayload
from producer_app import rows
from producer_app.outbox import Change, record_changes
from producer_app.services import Targets, parents
from producer_app.unit_of_work import UnitOfWork


class Saved(enum.StrEnum):
    """What became of one entity of a batch; the last three were left out, and nothing was written for them."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    DELETED = "the entity was deleted in the application"
    NO_PATIENT = "patient_id: no such patient, or it was deleted"
    NO_ENCOUNTER = "encounter_id: no such encounter, or it was deleted"


def save_batch(
    uow: UnitOfWork, entity_type: EntityType, payloads: Sequence[AnyPayload], *, targets: Targets = None
) -> dict[str, Saved]:
    """Create the new, update the changed and leave the equal entities in one transaction, and say which was which.

    The rules are those of services.create and services.update: every row is locked before its outbox row is
    written, and what it refers to must exist. Outbox rows are written in the order given. Ids must differ.

    Raises:
        AlreadyExistsError: another transaction created one of them meanwhile; call again.
        BusyError, UnavailableError, StorageError: the database's part; nothing was written.
        ValueError: an id stands twice in the batch.
    """
    by_id = {payload.entity_id: payload for payload in payloads}
    if len(by_id) != len(payloads):
        raise ValueError("payloads: an id stands twice in the batch")
    now = dt.datetime.now(tz=dt.UTC)
    with uow:
        locked = rows.lock(uow.connection, entity_type, by_id)
        live = _live_parents(uow, payloads)
        saved = {entity_id: _verdict(payload, locked.get(entity_id), live) for entity_id, payload in by_id.items()}
        created = [by_id[entity_id] for entity_id, verdict in saved.items() if verdict is Saved.CREATED]
        updated = [by_id[entity_id] for entity_id, verdict in saved.items() if verdict is Saved.UPDATED]
        if created:
            rows.insert(uow.connection, entity_type, created, now)
        if updated:
            rows.replace(uow.connection, entity_type, updated, now)
        record_changes(
            uow.connection,
            [
                Change(entity_type, _OPERATIONS[verdict], by_id[entity_id], entity_id)
                for entity_id, verdict in saved.items()
                if verdict in _OPERATIONS
            ],
            targets=uow.targets if targets is None else targets,
        )
        uow.commit()
    return saved


_OPERATIONS = {Saved.CREATED: Operation.CREATE, Saved.UPDATED: Operation.UPDATE}

_MISSING = {EntityType.PATIENT: Saved.NO_PATIENT, EntityType.ENCOUNTER: Saved.NO_ENCOUNTER}


def _live_parents(uow: UnitOfWork, payloads: Sequence[AnyPayload]) -> frozenset[tuple[EntityType, str]]:
    wanted = {parent for payload in payloads for parent in parents(payload)}
    return frozenset(
        (entity_type, entity_id)
        for entity_type in (EntityType.ENCOUNTER, EntityType.PATIENT)
        for entity_id in rows.lock_live(
            uow.connection, entity_type, [name for kind, name in wanted if kind == entity_type]
        )
    )


def _verdict(payload: AnyPayload, row: rows.LockedRow | None, live: frozenset[tuple[EntityType, str]]) -> Saved:
    for parent in parents(payload):
        if parent not in live:
            return _MISSING[parent[0]]
    if row is None:
        return Saved.CREATED
    if row.deleted:
        return Saved.DELETED
    same = pydantic_core.from_json(row.state) == payload.model_dump(mode="json", exclude_none=True)
    return Saved.UNCHANGED if same else Saved.UPDATED
