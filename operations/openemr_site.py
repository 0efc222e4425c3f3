"""An OpenEMR site as an operator sees it: what an upgrade has changed, and whether somebody works on it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa

from consumer.openemr import gate
from consumer.openemr.shape import read_shape
from operations.config import OperationsSettings
from operations.engines import openemr
from operations.errors import UnsettledError

LAST_BATCH_LIMIT_S: Final = 75
"""How long an open batch is waited for: its statements end within 60 s, as a rule well under one."""

_LOCK_WAIT: Final = 1205


@dataclasses.dataclass(frozen=True, slots=True)
class SiteReport:
    """What was accepted, by whom and when (None before a consumer has started), and what keeps consumers from writing.

    differences: between the accepted tables and those there now, one line each; maintenance: by whom and since when.
    """

    accepted_at: dt.datetime | None
    accepted_by: str | None
    differences: tuple[str, ...]
    maintenance: str | None

    @property
    def findings(self) -> tuple[str, ...]:
        """What a person should look at, in words."""
        found = []
        if self.maintenance is not None:
            found.append(f"{self.maintenance}; `emrsync maintenance off` ends it")
        if self.differences:
            found.append(
                f"its tables have changed (differences: {len(self.differences)}), and nothing is written until that is"
                " accepted; `emrsync openemr check` shows how"
            )
        return tuple(found)


def read_report(settings: OperationsSettings) -> SiteReport:
    """Compare the tables with those accepted."""
    with openemr(settings).connect() as connection:
        state = gate.read_gate(connection, settings.ledger_schema)
        differences = state.changes(read_shape(connection))
    return SiteReport(state.accepted_at, state.accepted_by, differences, state.maintenance)


def accept(settings: OperationsSettings) -> tuple[str, ...]:
    """Accept the tables as they are, and return what has changed in them; consumers go on within seconds.

    Raises:
        UnsettledError: a batch does not end; nothing was changed.
    """
    with _alone(settings) as connection:
        shape = read_shape(connection)
        differences = gate.read_gate(connection, settings.ledger_schema).changes(shape)
        gate.accept(connection, settings.ledger_schema, shape, settings.operator)
    return differences


def maintenance_on(settings: OperationsSettings) -> str:
    """Let no batch begin, and return, when none is open any more, who has paused since when.

    Raises:
        UnsettledError: a batch does not end; nothing was changed.
    """
    with _alone(settings) as connection:
        gate.begin_maintenance(connection, settings.ledger_schema, settings.operator)
        return str(gate.read_gate(connection, settings.ledger_schema).maintenance)


def maintenance_off(settings: OperationsSettings) -> str | None:
    """Let batches begin; return who had paused since when, None if nobody had."""
    with _alone(settings) as connection:
        before = gate.read_gate(connection, settings.ledger_schema).maintenance
        if before is not None:
            gate.end_maintenance(connection, settings.ledger_schema)
    return before


@contextlib.contextmanager
def _alone(settings: OperationsSettings) -> Iterator[sa.Connection]:
    """Give a transaction that waits for the batches that are open."""
    try:
        with openemr(settings).begin() as connection:
            connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = %s", (LAST_BATCH_LIMIT_S,))
            yield connection
    except sa.exc.OperationalError as error:
        if error.orig is None or error.orig.args[:1] != (_LOCK_WAIT,):
            raise
        message = f"a batch is still open after {LAST_BATCH_LIMIT_S} s; nothing was changed: look for it, and try again"
        raise UnsettledError(message) from None
