"""Recording changes in sync_outbox inside the transaction of any SQLAlchemy application."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import pydantic
import pydantic_core
import sqlalchemy as sa
from sqlalchemy import orm

from connectors.events import EventError, check_entity_id
from connectors.outbox import EntityType, Operation, TargetSystem, sync_outbox
from connectors.payloads import CURRENT_VERSION, AnyPayload, PayloadError, check_payload, payload_json
from connectors.payloads.reading import FieldError
from producer_app.errors import TransactionError

PayloadInput: TypeAlias = AnyPayload | Mapping[str, Any] | str | bytes
"""A payload model, a mapping that JSON can express, or JSON text."""

_DIALECTS: Final = ("postgresql", "mysql", "mariadb")


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """One change of one entity; entity_id, when given, must be the payload's own id."""

    entity_type: EntityType
    operation: Operation
    payload: PayloadInput
    entity_id: str | None = None


def record_change(
    connection: sa.Connection | orm.Session,
    *,
    entity_type: EntityType,
    operation: Operation,
    payload: PayloadInput,
    entity_id: str | None = None,
    targets: Sequence[TargetSystem] = (TargetSystem.OPENEMR,),
) -> tuple[uuid.UUID, ...]:
    """Write one outbox row per target through the caller's own transaction, and return their ids in that order.

    The caller must have locked the entity's row in this transaction before the call: by SELECT … FOR UPDATE or
    an UPDATE, and for a new entity by the INSERT itself (an ORM session flushes it first). Only then is the order of
    seq, which the database counts up as rows are inserted, the order in which changes of one entity are committed,
    and the last of them the newest state. The payload is the full state, for a delete the last one.

    Nothing is committed, flushed or begun here: the row shares the fate of the caller's transaction.

    Raises:
        PayloadError: a field is wrong or unknown, or the id differs from entity_id; nothing was sent to the database.
        TransactionError: no transaction is open, or the connection commits each statement by itself.
        TypeError: an argument is of another type.
        ValueError: no target, or one twice.
        sqlalchemy.exc.DBAPIError: the database's own; create the engine with hide_parameters=True to keep values out.
    """
    change = Change(EntityType(entity_type), Operation(operation), payload, entity_id)
    return record_changes(connection, (change,), targets=targets)


def record_changes(
    connection: sa.Connection | orm.Session,
    changes: Iterable[Change],
    *,
    targets: Sequence[TargetSystem] = (TargetSystem.OPENEMR,),
    cause: str | None = None,
) -> tuple[uuid.UUID, ...]:
    """Write the outbox rows of many changes by one executemany; contract and errors are those of record_change.

    cause tells why they are written although nothing has changed, in at most 20 characters; it has no effect.
    Rows are inserted, and so numbered, in the order given: per change, per target. All payloads are checked before
    the first row is sent.
    """
    open_connection = _open_connection(connection)
    systems = _systems(targets)
    created_at = dt.datetime.now(tz=dt.UTC)
    rows = [row for change in changes for row in _rows(change, systems, created_at, cause)]
    if rows:
        open_connection.execute(sa.insert(sync_outbox), rows)
    return tuple(row["outbox_id"] for row in rows)


def checked_payload(entity_type: EntityType, payload: PayloadInput) -> AnyPayload:
    """Read a payload in any of its forms as the contract's model; an unknown field is refused.

    Raises:
        PayloadError: it cannot be read, or not be stored by every source database.
        TypeError: it is none of the forms.
    """
    if isinstance(payload, Mapping):
        payload = _mapping_json(payload)
    if not isinstance(payload, pydantic.BaseModel | str | bytes):
        raise TypeError(f"payload: is a {type(payload).__name__}; give a payload model, a mapping or JSON text")
    checked = check_payload(entity_type, payload)
    try:
        check_entity_id(checked.entity_id)
    except EventError as error:
        raise _refused(f"{entity_type}_id", str(error).removeprefix("entity_id: ")) from None
    if "\\u0000" in payload_json(checked):
        _refuse_nul(checked.model_dump(mode="json"), ())
    return checked


def new_outbox_id() -> uuid.UUID:
    """Make a UUIDv7 (RFC 9562): milliseconds since 1970, then random bits, so that index pages fill in order."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10))
    bits = (milliseconds & (1 << 48) - 1) << 80 | random
    bits = bits & ~(0xF << 76) | 7 << 76
    bits = bits & ~(0b11 << 62) | 0b10 << 62
    return uuid.UUID(int=bits)


def _open_connection(given: sa.Connection | orm.Session) -> sa.Connection:
    if not isinstance(given, sa.Connection | orm.Session):
        raise TypeError(
            f"connection: is a {type(given).__name__}; give a sqlalchemy Connection or Session"
            " (of a scoped session call it, of an async one use run_sync)"
        )
    if not given.in_transaction():
        raise TransactionError("no transaction is open: begin one, lock the entity's row, then record the change")
    # The clause lets a session with several binds find the one of this table.
    connection = given.connection(bind_arguments={"clause": sync_outbox}) if isinstance(given, orm.Session) else given
    if connection.dialect.name not in _DIALECTS:
        raise TypeError(f"connection: is to {connection.dialect.name}; an outbox lives in {', '.join(_DIALECTS)}")
    dbapi_connection = connection.connection.dbapi_connection
    if dbapi_connection is not None and connection.dialect.detect_autocommit_setting(dbapi_connection):
        raise TransactionError(
            "the connection is in autocommit, so business row and outbox row would not be one transaction"
        )
    return connection


def _systems(targets: Sequence[TargetSystem]) -> tuple[TargetSystem, ...]:
    # A plain string is a sequence too, of letters.
    if isinstance(targets, str):
        raise TypeError("targets: is one string; give a tuple of TargetSystem")
    systems = tuple(TargetSystem(target) for target in targets)
    if not systems or len(set(systems)) != len(systems):
        raise ValueError("targets: must name at least one target system, and each only once")
    return systems


def _rows(
    change: Change, systems: tuple[TargetSystem, ...], created_at: dt.datetime, cause: str | None
) -> list[dict[str, Any]]:
    payload = checked_payload(change.entity_type, change.payload)
    if change.entity_id is not None and change.entity_id != payload.entity_id:
        raise _refused(f"{change.entity_type}_id", "differs from the entity_id of the change")
    text = payload_json(payload)
    return [
        {
            "outbox_id": new_outbox_id(),
            "entity_type": change.entity_type.value,
            "entity_id": payload.entity_id,
            "operation": change.operation.value,
            "target_system": system.value,
            "payload": text,
            "payload_version": CURRENT_VERSION,
            "created_at": created_at,
            "cause": cause,
        }
        for system in systems
    ]


def _mapping_json(payload: Mapping[str, Any]) -> bytes:
    try:
        return pydantic_core.to_json(dict(payload))
    except (pydantic_core.PydanticSerializationError, ValueError):
        # The cause holds the value that JSON cannot express.
        raise _refused("payload", "holds a value that JSON cannot express") from None


def _refuse_nul(found: Any, path: tuple[str, ...]) -> None:
    if isinstance(found, str) and "\0" in found:
        raise _refused(".".join(path), "holds a NUL character, which PostgreSQL cannot store")
    if isinstance(found, dict):
        for name, inner in found.items():
            _refuse_nul(inner, (*path, str(name)))
    if isinstance(found, list):
        for index, inner in enumerate(found):
            _refuse_nul(inner, (*path, str(index)))


def _refused(field: str, reason: str) -> PayloadError:
    return PayloadError((FieldError(field=field, reason=reason),))
