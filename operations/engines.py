"""Engines for the few statements of a command."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa

from operations.config import OperationsSettings

ANSWER_LIMIT_S: Final = 5
"""A person waits for the answer."""

STATEMENT_LIMIT_S: Final = 30
"""A count of a large outbox takes some seconds; what takes longer waits for a lock, or for a server that hangs."""

LONG_STATEMENT_LIMIT_S: Final = 600
"""A statement that looks at every row of large tables, and which a person has asked for."""


def source(settings: OperationsSettings, *, statement_limit_s: int = STATEMENT_LIMIT_S) -> sa.Engine:
    """Return an engine on the source database by the marker account."""
    return reading_engine(settings.database_url("source_url"), statement_limit_s=statement_limit_s)


def openemr(settings: OperationsSettings) -> sa.Engine:
    """Return an engine on OpenEMR's database by the writer's account."""
    return reading_engine(settings.database_url("openemr_url"))


@contextlib.contextmanager
def opened(settings: OperationsSettings, name: str) -> Iterator[sa.Engine]:
    """Give a pooled engine by a setting's URL for a command that works for long, and close it at the end."""
    engine = sa.create_engine(settings.database_url(name), hide_parameters=True, pool_pre_ping=True)
    try:
        yield engine
    finally:
        engine.dispose()


def pooled_engine(url: sa.URL) -> sa.Engine:
    """Return an engine for progress that is written often: each new connection costs as much as many of these."""
    return sa.create_engine(url, hide_parameters=True, pool_pre_ping=True, connect_args=limits(url))


def reading_engine(url: sa.URL, *, statement_limit_s: int = STATEMENT_LIMIT_S) -> sa.Engine:
    """Return an engine that answers, or fails, within statement_limit_s; a network that swallows packets within 15 s.

    What nothing interrupts would hang the watch, and stop its metrics at their last values.
    """
    return sa.create_engine(
        url, poolclass=sa.NullPool, hide_parameters=True, connect_args=limits(url, statement_limit_s)
    )


def limits(url: sa.URL, statement_limit_s: int = STATEMENT_LIMIT_S) -> dict[str, str | int]:
    """Return the driver's options that end what does not answer."""
    if url.get_backend_name() != "postgresql":
        # The driver itself waits no longer for an answer, or for its own words to leave.
        return {
            "connect_timeout": ANSWER_LIMIT_S, "read_timeout": statement_limit_s, "write_timeout": statement_limit_s,
        }  # fmt: skip
    own = url.query.get("options", "")
    given = own if isinstance(own, str) else " ".join(own)
    return {
        "connect_timeout": ANSWER_LIMIT_S,
        # The server ends the statement. The URL's own options would be replaced by these, and stand before them.
        "options": f"{given} -c statement_timeout={statement_limit_s * 1000}".strip(),
        # The driver waits for an answer without end: TCP notices an end of the connection that is gone, idle or not.
        "keepalives_idle": 5,
        "keepalives_interval": 5,
        "keepalives_count": 2,
        "tcp_user_timeout": 15_000,
    }
