"""The business tables and the id counter of the first release."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, postgresql

revision = "app_0001"
down_revision = None
branch_labels = None
depends_on = None

# Written out rather than taken from tables.py: a released revision stays what it was.
_ENTITY_ID = sa.String(100)
_INSTANT = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_STATE = sa.Text().with_variant(postgresql.JSONB(), "postgresql").with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
_MYSQL: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_bin",
}


def upgrade() -> None:
    """Create the tables."""
    _business_table(
        "patient_cache",
        sa.Column("patient_id", _ENTITY_ID, primary_key=True),
        sa.Column("family_name", sa.String(1_000), nullable=False),
        sa.Column("given_name", sa.String(1_000), nullable=False),
        sa.Column("birth_date", sa.Date(), nullable=False),
    )
    op.create_index(
        "ix_patient_cache_family_name",
        "patient_cache",
        ["family_name"],
        postgresql_using="hash",
        mysql_length=191,
        mariadb_length=191,
    )
    _business_table(
        "encounter_cache",
        sa.Column("encounter_id", _ENTITY_ID, primary_key=True),
        sa.Column("patient_id", _ENTITY_ID, nullable=False),
        sa.Column("started_at", _INSTANT, nullable=False),
    )
    op.create_index("ix_encounter_cache_patient_id", "encounter_cache", ["patient_id", "encounter_id"])
    _business_table(
        "order_cache",
        sa.Column("order_id", _ENTITY_ID, primary_key=True),
        sa.Column("patient_id", _ENTITY_ID, nullable=False),
        sa.Column("encounter_id", _ENTITY_ID, nullable=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("ordered_at", _INSTANT, nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
    )
    op.create_index("ix_order_cache_patient_id", "order_cache", ["patient_id", "order_id"])
    op.create_table(
        "id_counter",
        sa.Column("entity_type", sa.String(20), primary_key=True),
        sa.Column("year", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("last_number", sa.BigInteger(), nullable=False),
        **_MYSQL,
    )


def _business_table(name: str, *columns: sa.Column[Any]) -> None:
    as_text = op.get_bind().dialect.name != "postgresql"
    check = (sa.CheckConstraint("JSON_VALID(state)", name=f"ck_{name}_state"),) if as_text else ()
    op.create_table(
        name,
        *columns,
        sa.Column("state", _STATE, nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("updated_at", _INSTANT, nullable=False),
        sa.Column("deleted_at", _INSTANT, nullable=True),
        sa.Column("last_synced_at", _INSTANT, nullable=True),
        *check,
        **_MYSQL,
    )
