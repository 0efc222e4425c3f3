"""The DDL of the application's own tables; it lives beside the outbox's in one database."""

from __future__ import annotations

from typing import Final

import alembic.command
import alembic.config
import sqlalchemy as sa

from producer_app.errors import UnavailableError

__all__ = ["upgrade"]

_LOCK_LIMIT_S: Final = 60
_LOCK_KEY: Final = 5_121_986_002


def upgrade(url: str) -> None:
    """Bring the application's tables to the newest version; running it again changes nothing.

    The account must be allowed to create tables; the outbox has migrations of its own (connectors.migrations).

    Args:
        url: SQLAlchemy URL of the application's database.

    Raises:
        UnavailableError: another upgrade has run for a minute.
        sqlalchemy.exc.DBAPIError: the database cannot be reached or refuses.
    """
    engine = sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True)
    with engine.connect() as connection:
        _lock(connection)
        config = alembic.config.Config()
        config.set_main_option("script_location", "producer_app:migrations")
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "head")
        connection.commit()


def _lock(connection: sa.Connection) -> None:
    """Let one upgrade run at a time; the lock goes with the connection."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"SET lock_timeout = '{_LOCK_LIMIT_S}s'"))
        connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
    else:
        lock = sa.text("SELECT GET_LOCK('emrsync_app_migration', :limit_s)")
        if connection.scalar(lock, {"limit_s": _LOCK_LIMIT_S}) != 1:
            raise UnavailableError(f"another migration of this application has run for {_LOCK_LIMIT_S} s; try later")
    connection.commit()
