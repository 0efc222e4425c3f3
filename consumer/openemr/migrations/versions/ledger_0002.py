"""What operators decided about dead letters."""

from __future__ import annotations

from alembic import context, op

revision = "ledger_0002"
down_revision = "ledger_0001"

# Rows are only added; the primary key lets one of two operators who decide at once through. The topic's id and not
# its name: a topic made anew begins again at offset 0.
_TABLE = """
    CREATE TABLE {schema}.dead_letter_action (
        topic_id VARCHAR(40) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        partition_no INT NOT NULL,
        offset_no BIGINT NOT NULL,
        action_no INT NOT NULL,
        action VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        operator VARCHAR(100) CHARACTER SET utf8mb4 NOT NULL,
        why VARCHAR(500) CHARACTER SET utf8mb4 NULL,
        taken_at DATETIME(6) NOT NULL,
        PRIMARY KEY (topic_id, partition_no, offset_no, action_no)
    ) ENGINE=InnoDB"""


def upgrade() -> None:
    """Create the table."""
    op.execute(_TABLE.format(schema=context.config.attributes["ledger_schema"]))
