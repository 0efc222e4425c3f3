"""The one place where the application's concrete parts are chosen."""

from __future__ import annotations

import dataclasses
from typing import Any

import sqlalchemy as sa

from connectors.outbox import TargetSystem
from producer_app.config import AppSettings
from producer_app.unit_of_work import UnitOfWork


@dataclasses.dataclass(frozen=True, slots=True)
class Application:
    """The wired application: its engine, and units of work on it."""

    engine: sa.Engine
    targets: tuple[TargetSystem, ...]

    def unit_of_work(self) -> UnitOfWork:
        """Make a unit of work for one thread."""
        return UnitOfWork(self.engine, self.targets)

    def close(self) -> None:
        """Close the pool's connections."""
        self.engine.dispose()


def build(settings: AppSettings) -> Application:
    """Wire the application; no connection is opened yet."""
    return Application(engine=build_engine(settings), targets=settings.app_targets.systems)


def build_engine(settings: AppSettings) -> sa.Engine:
    """Make the engine with a bounded pool; no connection is opened yet."""
    url = sa.make_url(settings.app_url.get_secret_value())
    return sa.create_engine(
        url,
        # MariaDB's own default, REPEATABLE READ, adds gap locks that make inserts of neighbours wait.
        isolation_level="READ COMMITTED",
        # Parameters are patients' names; they may not reach an exception's text.
        hide_parameters=True,
        pool_size=settings.app_pool_size,
        # A limit that can be overflown is none.
        max_overflow=0,
        pool_timeout=settings.app_pool_timeout_seconds,
        # A connection that died while idle is replaced before a change is tried on it.
        pool_pre_ping=True,
        # Below the idle limits of usual firewalls and of MySQL's wait_timeout.
        pool_recycle=1_800,
        connect_args=_postgresql_options(settings)
        if url.get_backend_name() == "postgresql"
        else _mysql_options(settings),
    )


def _postgresql_options(settings: AppSettings) -> dict[str, Any]:
    session = (
        f"-c lock_timeout={settings.app_lock_timeout_seconds * 1_000}"
        # A client that hangs inside a transaction would keep its locks, and the replication slot, for ever.
        " -c idle_in_transaction_session_timeout=60000"
        # Instants come back in the zone they are stored in.
        " -c timezone=UTC"
    )
    return {
        "connect_timeout": settings.app_connect_timeout_seconds,
        "application_name": "emrsync-app",
        "options": session,
    }


def _mysql_options(settings: AppSettings) -> dict[str, Any]:
    session = (
        f"SET SESSION innodb_lock_wait_timeout = {settings.app_lock_timeout_seconds},"
        # Too long a value is an error, never cut.
        " sql_mode = 'STRICT_TRANS_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO',"
        " time_zone = '+00:00'"
    )
    return {
        "connect_timeout": settings.app_connect_timeout_seconds,
        # A server that stops answering frees the thread after this long.
        "read_timeout": 60,
        "write_timeout": 60,
        "charset": "utf8mb4",
        "init_command": session,
    }
