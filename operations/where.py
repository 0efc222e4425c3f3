"""The whole way of one record: business row, outbox rows, ledger, and in words where it is now."""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid
from typing import Any, Final

import sqlalchemy as sa

from connectors.connect_client import ConnectorStatus
from connectors.outbox import LAST_SYNCED, EntityType, Status, sync_outbox
from connectors.outbox_event import in_utc
from consumer.openemr.ledger_schema import checked_schema
from operations.config import OperationsSettings
from operations.connect import connect_client
from operations.engines import reading_engine, source
from operations.parts import Unavailable, part

_ROWS_MAX: Final = 1_000

_MAPPED: Final = """
    SELECT entity_type, kind, local_id, uuid, parent_id, last_seq, updated_at, deleted_at
    FROM {schema}.entity_map WHERE entity_id = :entity_id AND entity_type IN :types LIMIT :rows_max
"""
_APPLIED: Final = """
    SELECT outbox_id, entity_type, seq, operation, target_system, outcome, detail, applied_at
    FROM {schema}.applied_event WHERE entity_id = :entity_id AND entity_type IN :types ORDER BY seq LIMIT :rows_max
"""
_WAITING: Final = """
    SELECT outbox_id, entity_type, seq, parent_type, parent_id, since
    FROM {schema}.waiting_event WHERE entity_id = :entity_id AND entity_type IN :types ORDER BY seq LIMIT :rows_max
"""
_TRAIL: Final = """
    SELECT outbox_id, entity_type, action, LOWER(HEX(hash_before)) AS hash_before, LOWER(HEX(hash_after)) AS hash_after,
      changed, author, account, written_at
    FROM {schema}.trail WHERE entity_id = :entity_id AND entity_type IN :types ORDER BY trail_id LIMIT :rows_max
"""


@dataclasses.dataclass(frozen=True, slots=True)
class BusinessRow:
    """The application's own row; last_synced_at is when OpenEMR last got it."""

    entity_type: EntityType
    table: str
    last_synced_at: dt.datetime | None


@dataclasses.dataclass(frozen=True, slots=True)
class OutboxRow:
    """One event as the outbox tells it, without its payload; instants are UTC."""

    outbox_id: uuid.UUID
    seq: int
    entity_type: EntityType
    operation: str
    target_system: str
    status: Status
    outcome: str | None
    retry_count: int
    next_attempt_at: dt.datetime | None
    error_class: str | None
    error_message: str | None
    created_at: dt.datetime
    processed_at: dt.datetime | None
    cause: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Mapped:
    """What OpenEMR knows the entity by."""

    entity_type: EntityType
    kind: str
    local_id: int | None
    uuid: uuid.UUID | None
    parent_id: str | None
    last_seq: int
    updated_at: dt.datetime
    deleted_at: dt.datetime | None


@dataclasses.dataclass(frozen=True, slots=True)
class AppliedEvent:
    """One event that the ledger has settled."""

    outbox_id: uuid.UUID
    entity_type: EntityType
    seq: int
    operation: str
    target_system: str
    outcome: str
    detail: str | None
    applied_at: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class TrailEntry:
    """One write of the entity's row in OpenEMR; changed names columns, and is None where all or none were written."""

    outbox_id: uuid.UUID | None
    entity_type: EntityType
    action: str
    hash_before: str | None
    hash_after: str | None
    changed: str | None
    author: str
    account: str
    written_at: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class WaitingEvent:
    """One event that waits for its parent."""

    outbox_id: uuid.UUID
    entity_type: EntityType
    seq: int
    parent_type: EntityType
    parent_id: str
    since: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """What the source database knows of an id."""

    business: tuple[BusinessRow, ...]
    outbox: tuple[OutboxRow, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Ledger:
    """What OpenEMR's side knows of an id."""

    mapped: tuple[Mapped, ...]
    applied: tuple[AppliedEvent, ...]
    waiting: tuple[WaitingEvent, ...]
    trail: tuple[TrailEntry, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """Everything that is known of one id; the connector is asked only while something has not left the outbox."""

    entity_id: str
    source: Source | Unavailable
    ledger: Ledger | Unavailable
    connector: ConnectorStatus | Unavailable | None

    @property
    def known(self) -> bool:
        """Whether any system that answered has heard of the id."""
        in_source = isinstance(self.source, Source) and bool(self.source.business or self.source.outbox)
        ledger = self.ledger
        return in_source or (isinstance(ledger, Ledger) and bool(ledger.mapped or ledger.applied or ledger.waiting))

    @property
    def complete(self) -> bool:
        """Whether both databases answered."""
        return isinstance(self.source, Source) and isinstance(self.ledger, Ledger)


def read_way(settings: OperationsSettings, entity_id: str, entity_type: EntityType | None = None) -> Way:
    """Ask the source database, the ledger and, if an event is under way, the connector."""
    types = tuple(EntityType) if entity_type is None else (entity_type,)
    in_source = part(lambda: _source(settings, entity_id, types))
    under_way = isinstance(in_source, Source) and any(row.status is Status.PENDING for row in in_source.outbox)
    return Way(
        entity_id=entity_id,
        source=in_source,
        ledger=part(lambda: _ledger(settings, entity_id, types)),
        connector=part(lambda: _connector(settings)) if under_way else None,
    )


def _source(settings: OperationsSettings, entity_id: str, types: tuple[EntityType, ...]) -> Source:
    with source(settings).connect() as connection:
        present = set(sa.inspect(connection).get_table_names())
        business = []
        for entity_type in types:
            table = LAST_SYNCED[entity_type]
            if table.name not in present:
                continue
            key = next(column for column in table.columns if column.name != "last_synced_at")
            query = sa.select(table.c.last_synced_at).where(key == entity_id)
            synced = connection.execute(query).scalars()
            business += [BusinessRow(entity_type, table.name, None if at is None else in_utc(at)) for at in synced]
        return Source(tuple(business), _outbox(connection, entity_id, types))


def _outbox(connection: sa.Connection, entity_id: str, types: tuple[EntityType, ...]) -> tuple[OutboxRow, ...]:
    columns = [sync_outbox.c[field.name] for field in dataclasses.fields(OutboxRow)]
    query = (
        sa.select(*columns)
        .where(sync_outbox.c.entity_id == entity_id, sync_outbox.c.entity_type.in_([str(one) for one in types]))
        .order_by(sync_outbox.c.seq)
        .limit(_ROWS_MAX)
    )
    return tuple(OutboxRow(**_read(row)) for row in connection.execute(query))


def _ledger(settings: OperationsSettings, entity_id: str, types: tuple[EntityType, ...]) -> Ledger:
    schema = checked_schema(settings.ledger_schema)
    asked = {"entity_id": entity_id, "types": [str(one) for one in types], "rows_max": _ROWS_MAX}
    with reading_engine(settings.database_url("openemr_url")).connect() as connection:

        def rows(query: str) -> list[dict[str, Any]]:
            text = sa.text(query.format(schema=schema)).bindparams(sa.bindparam("types", expanding=True))
            return [_read(row) for row in connection.execute(text, asked)]

        return Ledger(
            mapped=tuple(Mapped(**row) for row in rows(_MAPPED)),
            applied=tuple(AppliedEvent(**row) for row in rows(_APPLIED)),
            waiting=tuple(WaitingEvent(**row) for row in rows(_WAITING)),
            trail=tuple(TrailEntry(**row) for row in rows(_TRAIL)),
        )


def _connector(settings: OperationsSettings) -> ConnectorStatus:
    with connect_client(settings, retry_limit_s=2.0) as client:
        return client.status(settings.connector_name)


def _read(row: sa.Row[Any]) -> dict[str, Any]:
    """Give a row's values the types of our own values."""
    read: dict[str, Any] = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name
    for name, value in read.items():
        if name in {"outbox_id", "uuid"} and isinstance(value, bytes):
            read[name] = uuid.UUID(bytes=value)
        elif name in {"entity_type", "parent_type"}:
            read[name] = EntityType(value)
        elif name == "status":
            read[name] = Status(value)
        elif isinstance(value, dt.datetime):
            read[name] = in_utc(value)
    return read
