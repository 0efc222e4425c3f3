"""The trail: what was written into OpenEMR, by which event, when and by whom."""

from __future__ import annotations

from alembic import context, op

revision = "ledger_0003"
down_revision = "ledger_0002"

_ID = "VARCHAR(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
_WORD = "VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin"

# Appended in the order of trail_id; the one other key finds an entity's entries.
_TRAIL = f"""
    CREATE TABLE {{schema}}.trail (
        trail_id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
        outbox_id BINARY(16) NULL,
        entity_type {_WORD} NOT NULL,
        entity_id {_ID} NOT NULL,
        action {_WORD} NOT NULL,
        hash_before BINARY(16) NULL,
        hash_after BINARY(16) NULL,
        changed VARCHAR(2000) CHARACTER SET ascii NULL,
        author VARCHAR(255) CHARACTER SET utf8mb4 NOT NULL,
        account VARCHAR(255) CHARACTER SET utf8mb4 NOT NULL,
        written_at DATETIME(6) NOT NULL,
        KEY ix_trail_entity (entity_type, entity_id)
    ) ENGINE=InnoDB
"""


def upgrade() -> None:
    """Create the table; what was written before has no trail."""
    op.execute(_TRAIL.format(schema=context.config.attributes["ledger_schema"]))
