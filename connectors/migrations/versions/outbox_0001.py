"""The outbox of the first release: made new, or completed from the eleven classic columns."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

from connectors.migrations import first_mysql, first_postgresql

revision = "outbox_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create or complete the table."""
    connection = op.get_bind()
    report = context.config.attributes["report"]
    first = first_postgresql if connection.dialect.name == "postgresql" else first_mysql
    if sa.inspect(connection).has_table("sync_outbox"):
        report("sync_outbox exists: completing it")
        first.complete(connection, report)
    else:
        first.create(connection)
        report("sync_outbox created")
