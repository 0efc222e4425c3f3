"""The ledger's first tables."""

from __future__ import annotations

from alembic import context, op

revision = "ledger_0001"
down_revision = None

_ID = "VARCHAR(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
_WORD = "VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin"

_TABLES = (
    f"""
    CREATE TABLE {{schema}}.applied_event (
        outbox_id BINARY(16) NOT NULL PRIMARY KEY,
        entity_type {_WORD} NOT NULL,
        entity_id {_ID} NOT NULL,
        seq BIGINT NOT NULL,
        operation {_WORD} NOT NULL,
        target_system {_WORD} NOT NULL,
        outcome {_WORD} NOT NULL,
        detail VARCHAR(500) CHARACTER SET utf8mb4 NULL,
        applied_at DATETIME(6) NOT NULL,
        KEY ix_applied_event_entity (entity_type, entity_id, seq)
    ) ENGINE=InnoDB""",
    f"""
    CREATE TABLE {{schema}}.entity_map (
        entity_type {_WORD} NOT NULL,
        entity_id {_ID} NOT NULL,
        kind {_WORD} NOT NULL,
        local_id BIGINT NULL,
        row_id BIGINT NULL,
        uuid BINARY(16) NULL,
        parent_id {_ID} NULL,
        last_seq BIGINT NOT NULL,
        content_hash BINARY(16) NULL,
        created_at DATETIME(6) NOT NULL,
        updated_at DATETIME(6) NOT NULL,
        deleted_at DATETIME(6) NULL,
        PRIMARY KEY (entity_type, entity_id)
    ) ENGINE=InnoDB""",
    """
    CREATE TABLE {schema}.stream_position (
        group_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        topic VARCHAR(249) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        partition_no INT NOT NULL,
        next_offset BIGINT NOT NULL,
        updated_at DATETIME(6) NOT NULL,
        PRIMARY KEY (group_id, topic, partition_no)
    ) ENGINE=InnoDB""",
    f"""
    CREATE TABLE {{schema}}.waiting_event (
        outbox_id BINARY(16) NOT NULL PRIMARY KEY,
        entity_type {_WORD} NOT NULL,
        entity_id {_ID} NOT NULL,
        operation {_WORD} NOT NULL,
        target_system {_WORD} NOT NULL,
        seq BIGINT NOT NULL,
        payload_version SMALLINT NOT NULL,
        created_at DATETIME(6) NOT NULL,
        payload LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        parent_type {_WORD} NOT NULL,
        parent_id {_ID} NOT NULL,
        since DATETIME(6) NOT NULL,
        overdue_at DATETIME(6) NULL,
        KEY ix_waiting_event_parent (parent_type, parent_id),
        KEY ix_waiting_event_entity (entity_type, entity_id, seq),
        KEY ix_waiting_event_overdue (overdue_at, since)
    ) ENGINE=InnoDB""",
    """
    CREATE TABLE {schema}.id_block (
        name VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
        next_id BIGINT NOT NULL,
        end_id BIGINT NOT NULL
    ) ENGINE=InnoDB""",
    # An empty block: the first new patient opens a real one. The compendium row is a lock only.
    "INSERT INTO {schema}.id_block (name, next_id, end_id) VALUES ('pid', 0, 0), ('compendium', 0, 0)",
)


def upgrade() -> None:
    """Create the tables."""
    schema = context.config.attributes["ledger_schema"]
    for statement in _TABLES:
        op.execute(statement.format(schema=schema))
