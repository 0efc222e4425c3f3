"""The sync_outbox table, declared once for PostgreSQL, MySQL and MariaDB."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.ext.compiler import compiles

ENTITY_ID_CHARACTERS_MAX: Final = 100
"""Width of entity_id, and so the longest Kafka key."""

PAYLOAD_BYTES_MAX: Final = 1_048_576
"""Largest payload accepted; the broker's and connector's limits are five times this."""

ERROR_MESSAGE_CHARACTERS_MAX: Final = 2_000
"""Longest error_message; it names fields and reasons, never values, and so is short."""


RESYNC: Final = "resync"
"""The cause of an event that tells an entity's state again although nothing has changed."""


class EntityType(enum.StrEnum):
    """What an event is about; the topic follows from it."""

    PATIENT = "patient"
    ENCOUNTER = "encounter"
    ORDER = "order"


class Operation(enum.StrEnum):
    """What the application did; create and update are both "make it so"."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class TargetSystem(enum.StrEnum):
    """Where the event goes: fhir is openemr plus the check that OpenEMR's FHIR API shows the row."""

    OPENEMR = "openemr"
    FHIR = "fhir"


class Status(enum.StrEnum):
    """Where the row is on its way."""

    PENDING = "pending"
    PROCESSING = "processing"
    DONE = "done"
    FAILED = "failed"


class TextUuid(sa.TypeDecorator[uuid.UUID]):
    """A UUID in 36 ASCII characters: MariaDB's own UUID type loses trailing zero bytes in the binlog."""

    impl = sa.CHAR(36)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """Use PostgreSQL's native type, and ASCII characters elsewhere."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.UUID(as_uuid=True))
        return dialect.type_descriptor(mysql.CHAR(36, charset="ascii", collation="ascii_bin"))

    def process_bind_param(self, value: uuid.UUID | None, dialect: sa.Dialect) -> uuid.UUID | str | None:
        """Send text where the database has no such type."""
        if value is None or dialect.name == "postgresql":
            return value
        return str(value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> uuid.UUID | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Give back a UUID from either form."""
        if value is None or isinstance(value, uuid.UUID):
            return value
        return uuid.UUID(value)


class JsonbText(sa.types.UserDefinedType[str]):
    """PostgreSQL's JSONB, written as JSON text; read it with payload_text, never as parsed objects."""

    cache_ok = True

    def get_col_spec(self, **_options: Any) -> str:
        """Name the column's type."""
        return "JSONB"


class CurrentInstant(sa.FunctionElement[dt.datetime]):
    """The database's present instant, as created_at holds it."""

    inherit_cache = True


@compiles(CurrentInstant, "postgresql")
def _instant_of_postgresql(_element: CurrentInstant, _compiler: Any, **_options: Any) -> str:
    # now() is the start of the transaction, and one transaction may write many events.
    return "clock_timestamp()"


@compiles(CurrentInstant, "mysql")
@compiles(CurrentInstant, "mariadb")
def _instant_of_mysql(_element: CurrentInstant, _compiler: Any, **_options: Any) -> str:
    # CURRENT_TIMESTAMP is in the session's time zone.
    return "(UTC_TIMESTAMP(6))"


class RandomUuid(sa.FunctionElement[uuid.UUID]):
    """A UUID made by the database, for writers that bring none."""

    inherit_cache = True


@compiles(RandomUuid, "postgresql")
def _uuid_of_postgresql(_element: RandomUuid, _compiler: Any, **_options: Any) -> str:
    return "gen_random_uuid()"


@compiles(RandomUuid, "mysql")
@compiles(RandomUuid, "mariadb")
def _uuid_of_mysql(_element: RandomUuid, _compiler: Any, **_options: Any) -> str:
    return "(UUID())"


# JSON columns of MySQL and MariaDB stream other text than was stored; LONGTEXT with a check is byte-equal.
_PAYLOAD = (
    sa.Text()
    .with_variant(JsonbText(), "postgresql")
    .with_variant(mysql.LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")
)
_INSTANT = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def _one_of(column: str, values: type[enum.StrEnum]) -> sa.CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=f"ck_sync_outbox_{column}")


def _payload_is_text(*_created: object, dialect: sa.Dialect, **_options: object) -> bool:
    return dialect.name != "postgresql"


metadata: Final = sa.MetaData()

# Ids that differ in case are different, and 'PATIENT' is no entity type, whatever the database's own default is.
_EXACT: Final[dict[str, Any]] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}

sync_outbox: Final = sa.Table(
    "sync_outbox",
    metadata,
    sa.Column("outbox_id", TextUuid(), primary_key=True, server_default=RandomUuid()),
    sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column("entity_type", sa.String(20), nullable=False),
    sa.Column("entity_id", sa.String(ENTITY_ID_CHARACTERS_MAX), nullable=False),
    sa.Column("operation", sa.String(10), nullable=False),
    sa.Column("target_system", sa.String(20), nullable=False),
    sa.Column("payload", _PAYLOAD, nullable=False),
    sa.Column("payload_version", sa.SmallInteger(), nullable=False, server_default=sa.text("1")),
    sa.Column("status", sa.String(20), nullable=False, server_default=Status.PENDING.value),
    sa.Column("outcome", sa.String(20), nullable=True),
    sa.Column("retry_count", sa.Integer(), nullable=False, server_default=sa.text("0")),
    sa.Column("next_attempt_at", _INSTANT, nullable=True),
    sa.Column("error_class", sa.String(64), nullable=True),
    sa.Column("error_message", sa.Text(), nullable=True),
    sa.Column("created_at", _INSTANT, nullable=False, server_default=CurrentInstant()),
    sa.Column("processed_at", _INSTANT, nullable=True),
    sa.Column("cause", sa.String(20), nullable=True),
    sa.UniqueConstraint("seq", name="uq_sync_outbox_seq"),
    _one_of("entity_type", EntityType),
    _one_of("operation", Operation),
    _one_of("target_system", TargetSystem),
    _one_of("status", Status),
    sa.CheckConstraint("JSON_VALID(payload)", name="ck_sync_outbox_payload").ddl_if(callable_=_payload_is_text),
    sa.Index("ix_sync_outbox_status_next_attempt_at", "status", "next_attempt_at"),
    sa.Index("ix_sync_outbox_entity", "entity_type", "entity_id", "seq"),
    **_EXACT,
)
"""One row per change and target; the DDL that creates it is in connectors/migrations."""

# Debezium reads its three columns by their order.
sync_signal: Final = sa.Table(
    "sync_signal",
    metadata,
    sa.Column("id", sa.String(42), primary_key=True),
    sa.Column("type", sa.String(32), nullable=False),
    sa.Column("data", sa.Text(), nullable=True),
    **_EXACT,
)
"""What the connector is told, read in the log; a row is removed when it was done."""

payload_text: Final[sa.ColumnElement[str]] = sa.cast(sync_outbox.c.payload, sa.Text())
"""The payload as the JSON text the database holds."""


LAST_SYNCED: Final[dict[EntityType, sa.TableClause]] = {
    EntityType.PATIENT: sa.table("patient_cache", sa.column("patient_id"), sa.column("last_synced_at", _INSTANT)),
    EntityType.ENCOUNTER: sa.table("encounter_cache", sa.column("encounter_id"), sa.column("last_synced_at", _INSTANT)),
    EntityType.ORDER: sa.table("order_cache", sa.column("order_id"), sa.column("last_synced_at", _INSTANT)),
}
"""The business row of each entity type: table, key column, column that tells when OpenEMR last got it."""
