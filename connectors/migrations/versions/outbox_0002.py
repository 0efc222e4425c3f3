"""What a resync needs: why an event was written, and a table by which the connector is told to send rows again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

from connectors.migrations.errors import MigrationError

revision = "outbox_0002"
down_revision = "outbox_0001"
branch_labels = None
depends_on = None

_TEXT = " CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
_SIGNAL = """
CREATE TABLE sync_signal (
    id VARCHAR(42){text} NOT NULL PRIMARY KEY,
    type VARCHAR(32){text} NOT NULL,
    data TEXT{text} NULL
){options}
"""


def upgrade() -> None:
    """Add what is absent; DDL is not transactional everywhere, so each step looks."""
    connection = op.get_bind()
    report = context.config.attributes["report"]
    postgresql = connection.dialect.name == "postgresql"
    text = "" if postgresql else _TEXT
    inspector = sa.inspect(connection)
    columns = {column["name"]: column["type"] for column in inspector.get_columns("sync_outbox")}
    if "cause" not in columns:
        connection.execute(sa.text(f"ALTER TABLE sync_outbox ADD COLUMN cause VARCHAR(20){text} NULL"))
        report("column cause added")
    elif not isinstance(columns["cause"], sa.String):
        raise MigrationError("sync_outbox has a column cause that is no text: give it another name first")
    if not inspector.has_table("sync_signal"):
        options = "" if postgresql else f" ENGINE=InnoDB DEFAULT{_TEXT}"
        connection.execute(sa.text(_SIGNAL.format(text=text, options=options)))
        report("table sync_signal created")
