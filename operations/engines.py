"""Engines for the few statements of a command."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa

from operations.config import OperationsSettings

ANSWER_LIMIT_S: Final = 5
"""A person waits for the answer."""


def source(settings: OperationsSettings) -> sa.Engine:
    """Return an engine on the source database by the marker account."""
    return reading_engine(settings.database_url("source_url"))


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
    return sa.create_engine(
        url, hide_parameters=True, pool_pre_ping=True, connect_args={"connect_timeout": ANSWER_LIMIT_S}
    )


def reading_engine(url: sa.URL) -> sa.Engine:
    """Return an engine that answers, or fails, within seconds."""
    return sa.create_engine(
        url, poolclass=sa.NullPool, hide_parameters=True, connect_args={"connect_timeout": ANSWER_LIMIT_S}
    )
