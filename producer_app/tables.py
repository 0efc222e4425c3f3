"""The application's own tables: one business table per entity type, and the counter of ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from connectors.outbox import ENTITY_ID_CHARACTERS_MAX, EntityType, JsonbText

ENTITY_ID: Final = sa.String(ENTITY_ID_CHARACTERS_MAX)
# The same text form as the outbox payload, so that the two rows of a change hold the same.
STATE: Final = sa.Text().with_variant(JsonbText(), "postgresql").with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
NAME: Final = sa.String(1_000)
INSTANT: Final = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")

_MYSQL: Final[dict[str, Any]] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    # Binary collation: P-1 and p-1 are two patients, as they are to Kafka and in the consumer's ledger.
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}

metadata: Final = sa.MetaData()


def _kept() -> list[sa.Column[Any]]:
    """Give the columns that every business table has beside its key and its searchable ones."""
    return [
        sa.Column("state", STATE, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.Column("deleted_at", INSTANT, nullable=True),
        sa.Column("last_synced_at", INSTANT, nullable=True),
    ]


patient_cache: Final = sa.Table(
    "patient_cache",
    metadata,
    sa.Column("patient_id", ENTITY_ID, primary_key=True),
    sa.Column("family_name", NAME, nullable=False),
    sa.Column("given_name", NAME, nullable=False),
    sa.Column("birth_date", sa.Date(), nullable=False),
    *_kept(),
    # A hash has no limit of key length; MySQL's prefix keeps under its own.
    sa.Index(
        "ix_patient_cache_family_name",
        "family_name",
        postgresql_using="hash",
        mysql_length=191,
        mariadb_length=191,
    ),
    **_MYSQL,
)
"""Patients; the full state is the payload of version 1 as JSON."""

encounter_cache: Final = sa.Table(
    "encounter_cache",
    metadata,
    sa.Column("encounter_id", ENTITY_ID, primary_key=True),
    sa.Column("patient_id", ENTITY_ID, nullable=False),
    sa.Column("started_at", INSTANT, nullable=False),
    *_kept(),
    sa.Index("ix_encounter_cache_patient_id", "patient_id", "encounter_id"),
    **_MYSQL,
)
"""Encounters; that the patient exists is checked, under a lock, by the services."""

order_cache: Final = sa.Table(
    "order_cache",
    metadata,
    sa.Column("order_id", ENTITY_ID, primary_key=True),
    sa.Column("patient_id", ENTITY_ID, nullable=False),
    sa.Column("encounter_id", ENTITY_ID, nullable=True),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("ordered_at", INSTANT, nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
    *_kept(),
    sa.Index("ix_order_cache_patient_id", "patient_id", "order_id"),
    **_MYSQL,
)
"""Orders of all four kinds; patient and encounter are checked, under a lock, by the services."""

id_counter: Final = sa.Table(
    "id_counter",
    metadata,
    sa.Column("entity_type", sa.String(20), primary_key=True),
    sa.Column("year", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("last_number", sa.BigInteger(), nullable=False),
    **_MYSQL,
)
"""The last number given out per entity type and year."""

BUSINESS_TABLES: Final[Mapping[EntityType, sa.Table]] = {
    EntityType.PATIENT: patient_cache,
    EntityType.ENCOUNTER: encounter_cache,
    EntityType.ORDER: order_cache,
}
"""The business table of each entity type; its primary key is the entity id."""


def key_column(entity_type: EntityType) -> sa.Column[str]:
    """Return the column that holds the entity id."""
    return BUSINESS_TABLES[entity_type].c[f"{entity_type}_id"]
