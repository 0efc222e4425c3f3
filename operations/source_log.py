"""What the source database keeps in its log for the connector, and how long it can go on keeping it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import sqlalchemy as sa

from operations.config import OperationsSettings
from operations.engines import reading_engine

SAMPLE_S: Final = 1.0
"""How long the rate is measured for."""

_LOST: Final = (
    "the log that the connector had not read is gone, and no restart brings it back:"
    " `emrsync connector reset-offsets` sends every unfinished row again"
)
_HOUR_S: Final = 3600.0
_UNLIMITED: Final = -1

_SLOT: Final = """
SELECT active, restart_lsn IS NULL OR wal_status = 'lost' AS lost,
       pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint AS retained,
       safe_wal_size AS left_bytes,
       pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint AS written,
       pg_size_bytes(current_setting('max_slot_wal_keep_size')) AS limit_bytes
  FROM pg_replication_slots WHERE slot_name = :name"""


@dataclasses.dataclass(frozen=True, slots=True)
class SourceLog:
    """The part of the source's log that the connector has not read yet.

    Attributes:
        reader: slot:NAME (PostgreSQL), or binlog:FILE where the connector is (MySQL, MariaDB).
        active: whether the connector is connected; None where the server does not tell.
        lost: the log it needs is gone, or the slot is invalid.
        retained_bytes: kept for it now.
        limit_bytes: what the server keeps at most; None for no limit but the disk, or a limit in time.
        rate_bytes_s: how fast the log grows at present.
        hours_left: until the log is gone if nothing more is read; None when that is never, or cannot be told.
    """

    reader: str
    active: bool | None
    lost: bool
    retained_bytes: int | None
    limit_bytes: int | None
    rate_bytes_s: float
    hours_left: float | None

    def findings(self, *, bytes_max: int, hours_min: float) -> tuple[str, ...]:
        """Tell in words what needs a person: lost, unread, too much, or soon too late."""
        if self.lost:
            return (f"{self.reader}: {_LOST}",)
        found = []
        kept = self.retained_bytes or 0
        if self.active is False:
            found.append(f"{self.reader}: nobody reads it, and the source keeps {_size(kept)} for it")
        if kept > bytes_max:
            found.append(f"{self.reader}: the source keeps {_size(kept)} for it, above {_size(bytes_max)}")
        if self.hours_left is not None and self.hours_left < hours_min and (found or self.active is None):
            found.append(
                f"{self.reader}: at {_size(int(self.rate_bytes_s))}/s it is lost in {self.hours_left:.1f} hours"
                " unless it is read"
            )
        if self.active is not None and self.limit_bytes is None:
            found.append(
                f"{self.reader}: max_slot_wal_keep_size is not set, so that a slot nobody reads fills the disk"
            )
        return tuple(found)


def read_slot(
    settings: OperationsSettings, *, sample_s: float = SAMPLE_S, sleep: Callable[[float], None] = time.sleep
) -> SourceLog | None:
    """Ask PostgreSQL twice for the slot, sample_s apart; None when there is no such slot."""
    with reading_engine(settings.database_url("source_url")).connect() as connection:

        def ask() -> Mapping[str, Any] | None:
            found = connection.execute(sa.text(_SLOT), {"name": settings.cdc_slot}).mappings().one_or_none()
            return None if found is None else dict(found)

        before = ask()
        sleep(sample_s)
        after = ask()
    if before is None or after is None:
        return None
    return slot_log(settings.cdc_slot, before, after, sample_s)


def slot_log(name: str, before: Mapping[str, Any], after: Mapping[str, Any], sample_s: float) -> SourceLog:
    """Make a state of two looks at a slot, sample_s apart."""
    rate = (int(after["written"]) - int(before["written"])) / sample_s if sample_s > 0 else 0.0
    left = after["left_bytes"]
    limit = None if after["limit_bytes"] == _UNLIMITED else int(after["limit_bytes"])
    return SourceLog(
        reader=f"slot:{name}",
        active=after["active"],
        lost=after["lost"],
        retained_bytes=after["retained"],
        limit_bytes=limit,
        rate_bytes_s=rate,
        hours_left=None if left is None or rate <= 0 else max(0.0, int(left) / rate / _HOUR_S),
    )


def read_binlog(
    settings: OperationsSettings,
    position: Mapping[str, Any],
    *,
    sample_s: float = SAMPLE_S,
    sleep: Callable[[float], None] = time.sleep,
    now_s: Callable[[], float] = time.time,
) -> SourceLog:
    """Ask MySQL or MariaDB, by the cdc account, for its binlogs, given the connector's position as Connect keeps it."""
    with cdc_engine(settings).connect() as connection:

        def ask() -> dict[str, int]:
            return {str(row[0]): int(row[1]) for row in connection.exec_driver_sql("SHOW BINARY LOGS")}

        before = ask()
        sleep(sample_s)
        after = ask()
        expiry_s = _expiry_s(connection)
    return binlog_log(position, before, after, sample_s=sample_s, expiry_s=expiry_s, now_s=now_s())


def binlog_log(
    position: Mapping[str, Any],
    before: Mapping[str, int],
    after: Mapping[str, int],
    *,
    sample_s: float,
    expiry_s: float,
    now_s: float,
) -> SourceLog:
    """Make a state of two looks at the sizes of all binlogs, in their order.

    A file is removed expiry_s after its last event; the newest one never is, nor anything when expiry_s is 0.
    """
    file, offset = str(position["file"]), int(position["pos"])
    rate = (sum(after.values()) - sum(before.values())) / sample_s
    if file not in after:
        return SourceLog(f"binlog:{file}", None, True, None, None, rate, 0.0)
    names = list(after)
    unread = names[names.index(file) :]
    hours_left = None
    if expiry_s and len(unread) > 1 and position.get("ts_sec"):
        hours_left = max(0.0, (float(position["ts_sec"]) + expiry_s - now_s) / _HOUR_S)
    kept = sum(after[name] for name in unread) - offset
    return SourceLog(f"binlog:{file}", None, False, max(0, kept), None, max(0.0, rate), hours_left)


def cdc_engine(settings: OperationsSettings) -> sa.Engine:
    """Return an engine for the source database by the connector's own account."""
    url = settings.database_url("source_url")
    own = url.set(username=settings.text("cdc_user"), password=settings.text("cdc_password"))
    return reading_engine(own)


def _expiry_s(connection: sa.Connection) -> float:
    rows = connection.exec_driver_sql(
        "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('binlog_expire_logs_seconds', 'expire_logs_days')"
    )
    found = {str(row[0]): float(row[1]) for row in rows}
    return found.get("binlog_expire_logs_seconds") or found.get("expire_logs_days", 0.0) * 24 * _HOUR_S


def _size(count: int) -> str:
    return f"{count / 1024**2:,.1f} MiB"
