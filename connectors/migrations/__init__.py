"""The DDL of sync_outbox: creates it, or completes one that an application already has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import alembic.command
import alembic.config
import sqlalchemy as sa

from connectors.migrations.errors import MigrationError
from connectors.migrations.publication import ensure_publication

__all__ = ["MigrationError", "upgrade"]

_LOCK_LIMIT_S: Final = 60
_LOCK_KEY: Final = 5_121_986_001


def upgrade(url: str, *, report: Callable[[str], None] = lambda _line: None) -> None:
    """Bring the outbox of one source database to the newest version; running it again changes nothing.

    The account must own the table (PostgreSQL) or hold ALTER, CREATE, INDEX, DROP and LOCK TABLES (MySQL, MariaDB).

    Args:
        url: SQLAlchemy URL of the source database.
        report: gets one line for each thing that is changed.

    Raises:
        MigrationError: an existing table or row contradicts the contract.
        sqlalchemy.exc.DBAPIError: the database cannot be reached or refuses.
    """
    engine = sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True)
    with engine.connect() as connection:
        _lock(connection)
        config = alembic.config.Config()
        config.set_main_option("script_location", "connectors:migrations")
        config.attributes["connection"] = connection
        config.attributes["report"] = report
        alembic.command.upgrade(config, "head")
        ensure_publication(connection, report)
        connection.commit()


def _lock(connection: sa.Connection) -> None:
    """Let one upgrade run at a time; the lock goes with the connection."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"SET lock_timeout = '{_LOCK_LIMIT_S}s'"))
        connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
    else:
        got = connection.scalar(
            sa.text("SELECT GET_LOCK('emrsync_outbox_migration', :limit_s)"), {"limit_s": _LOCK_LIMIT_S}
        )
        if got != 1:
            raise MigrationError(f"another migration of this outbox has run for {_LOCK_LIMIT_S} s; try again later")
    connection.commit()
