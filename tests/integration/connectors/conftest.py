"""Source databases that a test has to itself, on PostgreSQL and MariaDB."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sa


@pytest.fixture(params=["postgresql", "mariadb"])
def source_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Give an administrator's URL of an empty database on each engine, and drop the database afterwards."""
    admin = "source_admin_url" if request.param == "postgresql" else "openemr_admin_url"
    with scratch_source(request.getfixturevalue(admin)) as url:
        yield url


@pytest.fixture
def postgresql_url(source_admin_url: str) -> Iterator[str]:
    """Give the same on PostgreSQL only."""
    with scratch_source(source_admin_url) as url:
        yield url


@contextlib.contextmanager
def scratch_source(admin_url: str) -> Iterator[str]:
    """Make an empty database, give its URL, and drop it."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    url = sa.make_url(admin_url)
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    force = " WITH (FORCE)" if url.get_backend_name() == "postgresql" else ""
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name}{force}")
