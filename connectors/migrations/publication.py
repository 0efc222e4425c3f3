"""The publication that lets only inserts of outbox rows and signals leave a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

PUBLICATION: Final = "emrsync"
_TABLES: Final = "sync_outbox, sync_signal"


def ensure_publication(connection: sa.Connection, report: Callable[[str], None]) -> None:
    """Create or correct the publication; does nothing on MySQL and MariaDB, whose connector reads the binlog.

    It is made here and not with the accounts, because it needs the owner of the table, who runs the migrations, and
    CREATE on the database; the account that the connector uses shall have neither.
    """
    if connection.dialect.name != "postgresql":
        return
    found = connection.execute(
        sa.text(
            "SELECT p.puballtables, p.pubinsert, p.pubupdate OR p.pubdelete OR p.pubtruncate AS more,"
            " ARRAY(SELECT t.schemaname || '.' || t.tablename FROM pg_publication_tables t WHERE t.pubname = p.pubname"
            " ORDER BY 1) = ARRAY[current_schema() || '.sync_outbox', current_schema() || '.sync_signal'] AS only_ours"
            " FROM pg_publication p WHERE p.pubname = :name"
        ),
        {"name": PUBLICATION},
    ).one_or_none()
    if found is not None and found.pubinsert and found.only_ours and not (found.more or found.puballtables):
        return
    if found is not None and found.puballtables:
        connection.execute(sa.text("DROP PUBLICATION emrsync"))
        found = None
    if found is None:
        connection.execute(sa.text(f"CREATE PUBLICATION emrsync FOR TABLE {_TABLES} WITH (publish = 'insert')"))
        report(f"publication emrsync created: inserts of {_TABLES}")
        return
    connection.execute(sa.text(f"ALTER PUBLICATION emrsync SET TABLE {_TABLES}"))
    connection.execute(sa.text("ALTER PUBLICATION emrsync SET (publish = 'insert')"))
    report(f"publication emrsync corrected: inserts of {_TABLES}, nothing else")
