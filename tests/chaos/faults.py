"""Every fault by name: it begins, lasts for a while, and is over when its function returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import pymysql
import sqlalchemy as sa
from pymysql.constants import ER

from tests.chaos.arena import Arena

Fault: TypeAlias = Callable[[Arena, float], None]
"""Injects, lets it last for so many seconds, and mends; what it took down answers again when it returns."""

CUT_BYTES: Final = 30_000
"""In the middle of a batch's statements."""

ROWS_HELD: Final = 200

STREAMING_LIMIT_S: Final = 60.0
"""A worker answers long before its connector runs: it waits for its dead predecessor to be thrown out of the group."""


def openemr_down(arena: Arena, hold_s: float) -> None:
    """Shut OpenEMR's database down, and start it again."""
    arena.stack.stop("mariadb")
    time.sleep(hold_s)
    arena.stack.start("mariadb")


def openemr_restarted(arena: Arena, hold_s: float) -> None:
    """Kill OpenEMR's database with -9, and start it again after a moment."""
    arena.stack.kill("mariadb")
    time.sleep(min(hold_s, 1.0))
    arena.stack.start("mariadb")


def openemr_read_only(arena: Arena, hold_s: float) -> None:
    """Make OpenEMR's server read-only, as before a failover."""
    with arena.clerk.connect() as connection:
        connection.exec_driver_sql("SET GLOBAL read_only = 1")
        try:
            time.sleep(hold_s)
        finally:
            connection.exec_driver_sql("SET GLOBAL read_only = 0")


def openemr_locked(arena: Arena, hold_s: float) -> None:
    """Let somebody hold whole tables, as a backup or an ALTER TABLE does."""
    with arena.clerk.connect() as connection:
        connection.exec_driver_sql("LOCK TABLES patient_data WRITE, form_encounter WRITE, procedure_order WRITE")
        try:
            time.sleep(hold_s)
        finally:
            connection.exec_driver_sql("UNLOCK TABLES")


def clerk_holds_rows(arena: Arena, hold_s: float) -> None:
    """Let a clerk's transaction hold the newest patients, and the gap behind them."""
    with arena.clerk.connect() as connection:
        while not _is_held(connection, f"SELECT id FROM patient_data ORDER BY id DESC LIMIT {ROWS_HELD} FOR UPDATE"):
            pass
        time.sleep(hold_s)
        connection.rollback()


def openemr_network_cut(arena: Arena, hold_s: float) -> None:
    """Cut the connection to OpenEMR's database in the middle of a transaction, and refuse new ones."""
    before = arena.openemr.cuts
    arena.openemr.cut_after(CUT_BYTES)
    _until(lambda: arena.openemr.cuts > before, hold_s)
    arena.openemr.refuse()
    time.sleep(hold_s)
    arena.openemr.mend()


def openemr_network_hangs(arena: Arena, hold_s: float) -> None:
    """Let everything sent to OpenEMR's database vanish, and then arrive after all."""
    arena.openemr.hang()
    time.sleep(hold_s)
    arena.openemr.mend()


def source_down(arena: Arena, hold_s: float) -> None:
    """Shut the application's database down, and start it again."""
    arena.stack.stop("postgresql")
    time.sleep(hold_s)
    arena.stack.start("postgresql")


def source_network_cut(arena: Arena, hold_s: float) -> None:
    """Cut the marker's connection in the middle of a transaction, and refuse new ones; the application goes on."""
    before = arena.source.cuts
    arena.source.cut_after(CUT_BYTES)
    _until(lambda: arena.source.cuts > before, hold_s)
    arena.source.refuse()
    time.sleep(hold_s)
    arena.source.mend()


def kafka_killed(arena: Arena, hold_s: float) -> None:
    """Kill the broker with -9, and start it again."""
    arena.stack.kill("kafka")
    time.sleep(hold_s)
    arena.stack.start("kafka")


def connect_killed(arena: Arena, hold_s: float) -> None:
    """Kill the Connect worker with -9, and start it again; it is back when its connector reads the source's log."""
    arena.stack.kill("connect-1")
    time.sleep(hold_s)
    arena.stack.start("connect-1")
    _until(lambda: _is_streaming(arena), STREAMING_LIMIT_S)


def member_killed(arena: Arena, hold_s: float) -> None:
    """Kill a member of the group with -9, and start it again."""
    arena.members.kill(0)
    time.sleep(hold_s)
    arena.members.start(0)


FAULTS: Final[Mapping[str, Fault]] = {
    one.__name__: one
    for one in (
        openemr_down,
        openemr_restarted,
        openemr_read_only,
        openemr_locked,
        clerk_holds_rows,
        openemr_network_cut,
        openemr_network_hangs,
        source_down,
        source_network_cut,
        kafka_killed,
        connect_killed,
        member_killed,
    )
}


def _is_held(connection: sa.Connection, sql: str) -> bool:
    """Run a locking read; tell whether it got its locks, or met our writes halfway and was the deadlock's victim."""
    try:
        connection.exec_driver_sql(sql).all()
    except sa.exc.OperationalError as error:
        connection.rollback()
        if isinstance(error.orig, pymysql.Error) and error.orig.args[0] == ER.LOCK_DEADLOCK:
            return False
        raise
    return True


def _is_streaming(arena: Arena) -> bool:
    sql = "SELECT bool_or(active) FROM pg_replication_slots WHERE slot_type = 'logical'"
    with arena.source_admin.connect() as connection:
        return bool(connection.exec_driver_sql(sql).scalar())


def _until(condition: Callable[[], bool], limit_s: float) -> None:
    """Wait for what the load brings about by itself; an idle chain has nothing to cut."""
    deadline_s = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.01)
