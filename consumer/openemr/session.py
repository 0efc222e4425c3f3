"""Connections to OpenEMR's database: strict where OpenEMR's own are lax, in the site's time zone, with time limits."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from typing import Final

import sqlalchemy as sa
from pymysql.constants import CLIENT

from consumer.openemr.packet import keep_back

SQL_MODE: Final = "STRICT_TRANS_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
"""Refuse what OpenEMR's own sessions (sql_mode '') would cut or zero; for our sessions only, never global."""

CONNECT_TIMEOUT_S: Final = 5
STATEMENT_TIMEOUT_S: Final = 60
LOCK_WAIT_TIMEOUT_S: Final = 10


def create_engine(url: str) -> sa.Engine:
    """Make the engine of one process: a connection for batches, and one for the allocation of ids."""
    engine = sa.create_engine(
        url,
        # No gap locks: members insert new keys side by side, and the entity map's primary key decides a race.
        isolation_level="READ COMMITTED",
        pool_size=2,  # batches, ids
        max_overflow=0,
        pool_reset_on_return=None,  # each block ends its own transaction; a rollback at close would only complain
        pool_pre_ping=False,  # a lost connection is seen by the statement that needs it, and nothing is lost by it
        connect_args={
            "charset": "utf8mb4",  # 4-byte characters
            "client_flag": CLIENT.MULTI_STATEMENTS,  # for packet.py; every value in them goes through literal
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": STATEMENT_TIMEOUT_S,
            "write_timeout": STATEMENT_TIMEOUT_S,
            # A clerk's lock, or a locked table, must not hold our batch, and so our locks, for the server's defaults
            # of 50 s and of a day.
            "init_command": (
                f"SET SESSION sql_mode='{SQL_MODE}', innodb_lock_wait_timeout={LOCK_WAIT_TIMEOUT_S}, "
                f"lock_wait_timeout={LOCK_WAIT_TIMEOUT_S}"
            ),
        },
    )
    keep_back(engine)
    return engine


def utc_offset(zone: zoneinfo.ZoneInfo, now: dt.datetime) -> str:
    """Give the zone's present offset as SET time_zone takes it; names need tables that many servers lack."""
    minutes = int((now.astimezone(zone).utcoffset() or dt.timedelta()).total_seconds() // 60)
    sign = "-" if minutes < 0 else "+"
    return f"{sign}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


def local(instant: dt.datetime, zone: zoneinfo.ZoneInfo) -> dt.datetime:
    """Give the site's naive local time, which is what OpenEMR's datetime columns hold."""
    return instant.astimezone(zone).replace(tzinfo=None)
