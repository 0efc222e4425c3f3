"""Engines for the few statements of a command."""

from __future__ import annotations

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


def reading_engine(url: sa.URL) -> sa.Engine:
    """Return an engine that answers, or fails, within seconds."""
    return sa.create_engine(
        url, poolclass=sa.NullPool, hide_parameters=True, connect_args={"connect_timeout": ANSWER_LIMIT_S}
    )
