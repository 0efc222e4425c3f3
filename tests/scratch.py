"""Databases that a test has to itself."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

import sqlalchemy as sa


@contextlib.contextmanager
def scratch_database(admin_url: str) -> Iterator[str]:
    """Give the name of a database that does not exist yet, and drop it afterwards if it does then."""
    name = f"test_{uuid.uuid4().hex}"
    try:
        yield name
    finally:
        with connected(admin_url) as connection:
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name}")


@contextlib.contextmanager
def connected(admin_url: str, database: str | None = None) -> Iterator[sa.Connection]:
    """Connect as the administrator for the time of a block; what is not committed is lost.

    Nothing is asked of the server at the end, which a test may have restarted under the connection.
    """
    engine = sa.create_engine(
        sa.make_url(admin_url).set(database=database), poolclass=sa.NullPool, connect_args={"charset": "utf8mb4"}
    )
    with engine.connect() as connection:
        try:
            yield connection
        finally:
            connection.invalidate()
