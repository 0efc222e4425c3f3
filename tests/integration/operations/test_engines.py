"""A statement that does not end is ended, on PostgreSQL and on MariaDB."""

from __future__ import annotations

import os
import socket
import time

import pytest
import sqlalchemy as sa

from operations.engines import reading_engine

HOLDS_S = 20
LIMIT_S = 6.0
"""For a statement that may take 1 s, on a busy machine."""


@pytest.mark.parametrize(
    ("which", "statement"), [("source_admin_url", "SELECT pg_sleep"), ("openemr_admin_url", "SELECT SLEEP")]
)
def test_a_statement_that_does_not_end_fails_in_time(
    request: pytest.FixtureRequest, which: str, statement: str
) -> None:
    """Such as one that waits for a lock, or for a server that hangs."""
    url = sa.make_url(request.getfixturevalue(which))
    began_s = time.monotonic()

    with reading_engine(url, statement_limit_s=1).connect() as connection, pytest.raises(sa.exc.OperationalError):
        connection.exec_driver_sql(f"{statement}({HOLDS_S})")

    assert time.monotonic() - began_s < LIMIT_S


def test_a_connection_that_dies_in_silence_is_given_up_by_tcp(source_admin_url: str) -> None:
    """PostgreSQL's driver has no limit of its own; the URL's own options stay."""
    url = sa.make_url(source_admin_url)
    named = url.update_query_dict({"options": "-c search_path=elsewhere"})

    with reading_engine(named).connect() as connection:
        path = connection.exec_driver_sql("SHOW search_path").scalar()
        limit = connection.exec_driver_sql("SHOW statement_timeout").scalar()
        with socket.socket(fileno=os.dup(connection.connection.driver_connection.fileno())) as seen:  # type: ignore[union-attr]  # psycopg's
            user_timeout_ms = seen.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            keeps_alive = seen.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    assert (path, limit) == ("elsewhere", "30s")
    assert (user_timeout_ms, keeps_alive) == (15_000, 1)
