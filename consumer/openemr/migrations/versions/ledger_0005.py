"""How far replays have come, and what operators did to turn time back."""

from __future__ import annotations

from alembic import context, op

revision = "ledger_0005"
down_revision = "ledger_0004"

# positions and counts are JSON of ours; a run's row is rewritten about once a second, an action's is only added.
_TABLES = (
    """
    CREATE TABLE {schema}.replay_run (
        plan_id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
        digest CHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        state VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        events BIGINT NOT NULL,
        done BIGINT NOT NULL,
        positions LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        counts TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        started_at DATETIME(6) NOT NULL,
        updated_at DATETIME(6) NOT NULL
    ) ENGINE=InnoDB""",
    """
    CREATE TABLE {schema}.recovery_action (
        action_id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
        command VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        subject VARCHAR(100) CHARACTER SET utf8mb4 NOT NULL,
        action VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        operator VARCHAR(100) CHARACTER SET utf8mb4 NOT NULL,
        why VARCHAR(500) CHARACTER SET utf8mb4 NULL,
        detail VARCHAR(1000) CHARACTER SET utf8mb4 NULL,
        taken_at DATETIME(6) NOT NULL,
        KEY ix_recovery_action_subject (command, subject, action_id)
    ) ENGINE=InnoDB""",
)


def upgrade() -> None:
    """Create the tables."""
    for statement in _TABLES:
        op.execute(statement.format(schema=context.config.attributes["ledger_schema"]))
