"""Databases of the clinic application, a new one for each test."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

import connectors.migrations
import producer_app.migrations
from connectors.outbox import sync_outbox
from producer_app.bootstrap import Application, build
from producer_app.config import AppSettings
from producer_app.tables import BUSINESS_TABLES


@contextlib.contextmanager
def database(admin_url: str, template: str | None = None) -> Iterator[str]:
    """Give the URL of a new database, and drop it afterwards with whoever is still connected."""
    name = f"app_{uuid.uuid4().hex}"
    url = sa.make_url(admin_url)
    postgresql = url.get_backend_name() == "postgresql"
    engine = sa.create_engine(
        url if postgresql else url.set(database=None), poolclass=sa.NullPool, isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name}" + (" WITH (FORCE)" if postgresql else ""))


def migrate(url: str) -> None:
    """Bring outbox and application tables into one database."""
    connectors.migrations.upgrade(url)
    producer_app.migrations.upgrade(url)


@pytest.fixture(scope="session")
def template(source_admin_url: str) -> Iterator[str]:
    """Give the name of a migrated database that others are copied from."""
    with database(source_admin_url) as url:
        migrate(url)
        yield str(sa.make_url(url).database)


@pytest.fixture
def app_url(source_admin_url: str, template: str) -> Iterator[str]:
    """Give the URL of a new PostgreSQL database with all tables."""
    with database(source_admin_url, template) as url:
        yield url


@pytest.fixture
def mariadb_url(openemr_admin_url: str) -> Iterator[str]:
    """Give the URL of a new MariaDB database without tables."""
    with database(openemr_admin_url) as url:
        yield url


@pytest.fixture
def settings(app_url: str) -> AppSettings:
    """Give the settings of an application that gives up waiting for a lock early."""
    return AppSettings.read(app_url=app_url, app_lock_timeout_seconds=2, app_pool_size=4, app_pool_timeout_seconds=1)


@pytest.fixture
def application(settings: AppSettings) -> Iterator[Application]:
    """Give an application on a new database."""
    built = build(settings)
    yield built
    built.close()


class Inspection:
    """What is committed in the application's database, seen by another connection."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def outbox(self, entity_id: str | None = None) -> list[sa.RowMapping]:
        """Return outbox rows, of one entity or all, in the order of seq; payload is JSON text."""
        columns = [column for column in sync_outbox.c if column.name != "payload"]
        statement = sa.select(*columns, sa.cast(sync_outbox.c.payload, sa.Text()).label("payload"))
        if entity_id is not None:
            statement = statement.where(sync_outbox.c.entity_id == entity_id)
        with self._engine.connect() as connection:
            return list(connection.execute(statement.order_by(sync_outbox.c.seq)).mappings())

    def business_rows(self) -> int:
        """Count the rows of all business tables."""
        with self._engine.connect() as connection:
            counts = [sa.select(sa.func.count()).select_from(table) for table in BUSINESS_TABLES.values()]
            return sum(connection.scalar(count) or 0 for count in counts)


@pytest.fixture
def inspection(app_url: str) -> Iterator[Inspection]:
    """Look into the database of the application."""
    engine = sa.create_engine(app_url, poolclass=sa.NullPool)
    yield Inspection(engine)
    engine.dispose()
