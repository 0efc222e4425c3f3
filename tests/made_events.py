"""Events of made-up entities, as the application would have written them."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from connectors.events import EntityKey, Event
from connectors.outbox import EntityType, Operation, TargetSystem

NOON = dt.datetime(2025, 3, 1, 12, tzinfo=dt.UTC)

_SEQ = itertools.count(1)


def event(
    fields: Mapping[str, Any] | bytes,
    operation: Operation = Operation.CREATE,
    *,
    seq: int | None = None,
    key: EntityKey | None = None,
    target_system: TargetSystem = TargetSystem.OPENEMR,
    payload_version: int = 1,
) -> Event:
    """Give an event of these fields with a new id, and the next seq unless another is given.

    fields as bytes are the payload itself, which then needs a key.
    """
    if isinstance(fields, bytes):
        assert key is not None
        payload = fields
    else:
        payload = json.dumps(fields).encode()
        key = key or key_of(fields)
    return Event(
        outbox_id=uuid.uuid4(),
        key=key,
        operation=operation,
        target_system=target_system,
        seq=next(_SEQ) if seq is None else seq,
        payload_version=payload_version,
        created_at=NOON,
        payload=payload,
    )


def key_of(fields: Mapping[str, Any]) -> EntityKey:
    """Tell what the fields are about."""
    for entity_type in (EntityType.ORDER, EntityType.ENCOUNTER, EntityType.PATIENT):
        if f"{entity_type}_id" in fields and (entity_type is not EntityType.ENCOUNTER or "kind" not in fields):
            return EntityKey(entity_type, str(fields[f"{entity_type}_id"]))
    raise AssertionError(f"no entity has {sorted(fields)}")


def headers(one: Event) -> Sequence[tuple[str, bytes | None]]:
    """Give the event's headers as the connector writes them."""
    named = {
        "id": str(one.outbox_id),
        "entity_type": one.key.entity_type.value,
        "operation": one.operation.value,
        "target_system": one.target_system.value,
        "seq": str(one.seq),
        "payload_version": str(one.payload_version),
        "created_at": one.created_at.isoformat(),
    }
    return [(name, text.encode()) for name, text in named.items()]
