"""The site's state: which shape of OpenEMR's tables was accepted, and whether somebody works on the site."""

from __future__ import annotations

from alembic import context, op

revision = "ledger_0004"
down_revision = "ledger_0003"

# One row, which every transaction of a writer holds in share mode; an empty fingerprint is filled by the next start.
_TABLES = (
    """
    CREATE TABLE {schema}.site_state (
        name VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
        fingerprint BINARY(16) NULL,
        shape MEDIUMTEXT CHARACTER SET utf8mb4 NULL,
        accepted_at DATETIME(6) NULL,
        accepted_by VARCHAR(100) CHARACTER SET utf8mb4 NULL,
        maintenance_since DATETIME(6) NULL,
        maintenance_by VARCHAR(100) CHARACTER SET utf8mb4 NULL
    ) ENGINE=InnoDB""",
    "INSERT INTO {schema}.site_state (name) VALUES ('openemr')",
)


def upgrade() -> None:
    """Create the table and its row."""
    schema = context.config.attributes["ledger_schema"]
    for statement in _TABLES:
        op.execute(statement.format(schema=schema))
