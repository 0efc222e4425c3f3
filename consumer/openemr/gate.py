"""Whether we may write into OpenEMR: not while somebody works on the site, nor into tables that nobody accepted."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from typing import Final

import sqlalchemy as sa

from consumer.openemr.ledger_schema import checked_schema
from consumer.openemr.shape import Shape, differences, fingerprint, read_shape, written
from consumer.openemr.site import TABLES, TablesMissingError
from consumer.ports import MisconfiguredError, PausedError

FIRST_START: Final = "first start"
"""Who accepted the shape that a site had before any was known."""

NAME_CHARACTERS_MAX: Final = 100

_READ: Final = """
    SELECT fingerprint, shape, accepted_at, accepted_by, maintenance_since, maintenance_by
    FROM {ledger}.site_state WHERE name = 'openemr'
"""
_ACCEPT: Final = """
    UPDATE {ledger}.site_state
    SET fingerprint = %s, shape = %s, accepted_at = UTC_TIMESTAMP(6), accepted_by = %s WHERE name = 'openemr'
"""
_BEGIN: Final = """
    UPDATE {ledger}.site_state SET maintenance_since = UTC_TIMESTAMP(6), maintenance_by = %s
    WHERE name = 'openemr' AND maintenance_since IS NULL
"""
_END: Final = """
    UPDATE {ledger}.site_state SET maintenance_since = NULL, maintenance_by = NULL WHERE name = 'openemr'
"""
# Nothing could come for them in the meantime, so that it does not count as waiting.
_PROLONG: Final = """
    UPDATE {ledger}.waiting_event SET since = since + INTERVAL %s MICROSECOND WHERE overdue_at IS NULL
"""
# An addition that overflows when the gate is closed is the one condition of plain SQL, the same on MariaDB and MySQL,
# that ends a packet before its next statement; it gives no result, so that it costs no round trip of its own.
_SENTRY: Final = """
    SELECT ~0 + (maintenance_since IS NOT NULL OR fingerprint <> x'{accepted}') INTO @emrsync_closed
    FROM {ledger}.site_state WHERE name = 'openemr' LOCK IN SHARE MODE
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Gate:
    """The row of site_state; shape and fingerprint are None until a first start, times are UTC."""

    fingerprint: bytes | None
    shape: Shape | None
    accepted_at: dt.datetime | None
    accepted_by: str | None
    maintenance_since: dt.datetime | None
    maintenance_by: str | None

    @property
    def maintenance(self) -> str | None:
        """Say that somebody works on the site; None if nobody does."""
        if self.maintenance_since is None:
            return None
        return f"maintenance by {self.maintenance_by} since {self.maintenance_since.isoformat(timespec='seconds')}"

    def changes(self, live: Shape) -> tuple[str, ...]:
        """Tell what is different from what was accepted; nothing before a first start."""
        return () if self.shape is None else differences(self.shape, live)


def read_gate(connection: sa.Connection, ledger_schema: str) -> Gate:
    """Read the row.

    Raises:
        MisconfiguredError: it is not there.
    """
    row = connection.exec_driver_sql(_READ.format(ledger=checked_schema(ledger_schema))).one_or_none()
    if row is None:
        raise MisconfiguredError("the ledger's site_state has no row: run emrsync provision, or restore it")
    return Gate(
        fingerprint=row.fingerprint,
        shape=None if row.shape is None else json.loads(row.shape),
        accepted_at=_utc(row.accepted_at),
        accepted_by=row.accepted_by,
        maintenance_since=_utc(row.maintenance_since),
        maintenance_by=row.maintenance_by,
    )


def admitted(connection: sa.Connection, ledger_schema: str) -> Shape | None:
    """Return the shape of the tables, which is the one accepted; None when none is known yet.

    Raises:
        PausedError: somebody works on the site, or the tables are others than those accepted.
    """
    gate = read_gate(connection, ledger_schema)
    if gate.maintenance is not None:
        raise PausedError(f"{gate.maintenance}: emrsync maintenance off ends it")
    if gate.fingerprint is None:
        return None
    try:
        live = read_shape(connection)
    except TablesMissingError as error:
        raise tables_gone(error) from None
    if gate.fingerprint != fingerprint(live):
        first, *others = (line.partition(":")[0] for line in gate.changes(live) or ("the stored shape:",))
        where = f"{first} and {len(others)} more" if others else first
        reason = f"OpenEMR's tables have changed ({where})"
        raise PausedError(f"{reason}: emrsync openemr check shows how, emrsync openemr accept goes on")
    return live


def tables_gone(error: TablesMissingError) -> Exception:
    """Give the pause for a site that was OpenEMR when its tables were accepted: ALTER TABLE hides one for a moment.

    A database without any of them is another one, and the error stays.
    """
    if len(error.tables) == len(TABLES):
        return error
    return PausedError(f"OpenEMR has no table {', '.join(error.tables)} at this moment")


def accept(connection: sa.Connection, ledger_schema: str, shape: Shape, by: str, *, first: bool = False) -> None:
    """Remember a shape as the one to write into; with first, only if none is known yet.

    Waits for open transactions of writers, whose share of the row it must have alone.
    """
    sql = _ACCEPT.format(ledger=checked_schema(ledger_schema)) + (" AND fingerprint IS NULL" if first else "")
    connection.exec_driver_sql(sql, (fingerprint(shape), written(shape), by[:NAME_CHARACTERS_MAX]))


def sentry(ledger_schema: str, shape: Shape) -> str:
    """Give the statement that opens a writer's transaction.

    It holds the gate until the transaction ends, and fails with error 1690 when the gate is closed or another shape
    was accepted than this one.
    """
    accepted = fingerprint(shape).hex()
    return " ".join(_SENTRY.format(ledger=checked_schema(ledger_schema), accepted=accepted).split())


def begin_maintenance(connection: sa.Connection, ledger_schema: str, by: str) -> None:
    """Close the gate; when this returns no writer's transaction is open, and after the commit none can begin."""
    connection.exec_driver_sql(_BEGIN.format(ledger=checked_schema(ledger_schema)), (by[:NAME_CHARACTERS_MAX],))


def end_maintenance(connection: sa.Connection, ledger_schema: str) -> None:
    """Open the gate; what waits for its parent has waited as long as when it was closed."""
    ledger = checked_schema(ledger_schema)
    elapsed = f"SELECT TIMESTAMPDIFF(MICROSECOND, maintenance_since, UTC_TIMESTAMP(6)) FROM {ledger}.site_state"  # noqa: S608 - names are ours
    microseconds = connection.exec_driver_sql(f"{elapsed} WHERE name = 'openemr' FOR UPDATE").scalar()
    if microseconds is not None:
        connection.exec_driver_sql(_PROLONG.format(ledger=ledger), (int(microseconds),))
    connection.exec_driver_sql(_END.format(ledger=ledger))


def _utc(instant: dt.datetime | None) -> dt.datetime | None:
    return None if instant is None else instant.replace(tzinfo=dt.UTC)
