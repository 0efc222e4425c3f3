"""How far resyncs have come."""

from __future__ import annotations

from alembic import context, op

revision = "ledger_0006"
down_revision = "ledger_0005"

# selection and place are JSON of ours.
_RUN = """
    CREATE TABLE {schema}.resync_run (
        run_id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
        way VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        selection LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        state VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        events BIGINT NOT NULL,
        done BIGINT NOT NULL,
        place LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        started_at DATETIME(6) NOT NULL,
        updated_at DATETIME(6) NOT NULL
    ) ENGINE=InnoDB
"""


def upgrade() -> None:
    """Create the table."""
    op.execute(_RUN.format(schema=context.config.attributes["ledger_schema"]))
