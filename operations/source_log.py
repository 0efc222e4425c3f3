"""What the source database keeps in its log for the connector, and how long it can go on keeping it."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import sqlalchemy as sa

from operations.config import OperationsSettings
from operations.engines import reading_engine

SAMPLE_S: Final = 1.0
"""How long the rate is measured for by who looks once, and at the first of many looks."""

RATE_WINDOW_S: Final = 600.0
"""How long the rate is measured for by who looks again and again."""

_LOST: Final = (
    "the log that the connector had not read is gone, and no restart brings it back:"
    " `emrsync connector reset-offsets` sends every unfinished row again"
)
_HOUR_S: Final = 3600.0
_UNLIMITED: Final = -1
_LOOKS_MIN: Final = 2  # make a rate, however long ago the first was

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
        limit_bytes: what can be kept at most, by the server's setting or the disk's size as far as that was told; None
            for no limit that is known, or a limit in time.
        rate_bytes_s: how fast the log grows, over a second or the looks of the last minutes.
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
                f"{self.reader}: max_slot_wal_keep_size is not set, so that a slot nobody reads fills the disk;"
                " set it, or EMRSYNC_SOURCE_LOG_DISK_BYTES for the hours until then"
            )
        return tuple(found)


class WrittenRate:
    """How fast a log grows over the looks of the last minutes: a quiet second says nothing of who writes in bursts."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, window_s: float = RATE_WINDOW_S) -> None:
        self._clock = clock
        self._window_s = window_s
        self._seen: deque[tuple[float, int]] = deque()

    def take(self, written: int) -> float | None:
        """Take in how many bytes were ever written, and return bytes a second; None at the first look."""
        now_s = self._clock()
        if self._seen and written < self._seen[-1][1]:
            self._seen.clear()  # another server
        self._seen.append((now_s, written))
        while now_s - self._seen[0][0] > self._window_s and len(self._seen) > _LOOKS_MIN:
            self._seen.popleft()
        began_s, begun = self._seen[0]
        return (written - begun) / (now_s - began_s) if now_s > began_s else None


class SlotReader:
    """Looks at the slot of the connector in PostgreSQL, again and again."""

    def __init__(
        self,
        settings: OperationsSettings,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._sleep = sleep
        self._rate = WrittenRate(clock)

    def read(self, *, sample_s: float = SAMPLE_S) -> SourceLog | None:
        """Ask once, and at the first look again after sample_s unless that is 0; None when there is no such slot."""
        with reading_engine(self._settings.database_url("source_url")).connect() as connection:
            seen, rate = self._ask(connection)
            if seen is not None and rate is None and sample_s > 0:
                self._sleep(sample_s)
                seen, rate = self._ask(connection)
        if seen is None:
            return None
        return slot_log(self._settings.cdc_slot, seen, rate or 0.0, disk_bytes=self._settings.source_log_disk_bytes)

    def _ask(self, connection: sa.Connection) -> tuple[Mapping[str, Any] | None, float | None]:
        found = connection.execute(sa.text(_SLOT), {"name": self._settings.cdc_slot}).mappings().one_or_none()
        return (None, None) if found is None else (dict(found), self._rate.take(int(found["written"])))


def slot_log(name: str, seen: Mapping[str, Any], rate: float, *, disk_bytes: int | None = None) -> SourceLog:
    """Make a state of a look at a slot; disk_bytes is what the source's disk has for its log."""
    kept = seen["retained"]
    limits = [None if seen["limit_bytes"] == _UNLIMITED else int(seen["limit_bytes"]), disk_bytes]
    lefts = [seen["left_bytes"], None if disk_bytes is None or kept is None else disk_bytes - int(kept)]
    left = min((int(one) for one in lefts if one is not None), default=None)
    return SourceLog(
        reader=f"slot:{name}",
        active=seen["active"],
        lost=seen["lost"],
        retained_bytes=kept,
        limit_bytes=min((one for one in limits if one is not None), default=None),
        rate_bytes_s=rate,
        hours_left=None if left is None or rate <= 0 else max(0.0, left / rate / _HOUR_S),
    )


class BinlogReader:
    """Looks at the binlogs of MySQL or MariaDB, by the cdc account, again and again."""

    def __init__(
        self,
        settings: OperationsSettings,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._sleep = sleep
        self._rate = WrittenRate(clock)
        self._sizes: Mapping[str, int] | None = None
        self._written = 0

    def read(self, position: Mapping[str, Any], *, sample_s: float = SAMPLE_S) -> SourceLog:
        """Ask once, and at the first look again after sample_s, given the connector's position as Connect keeps it."""
        with cdc_engine(self._settings).connect() as connection:
            sizes, rate = self._ask(connection)
            if rate is None and sample_s > 0:
                self._sleep(sample_s)
                sizes, rate = self._ask(connection)
            expiry_s = _expiry_s(connection)
        return binlog_log(position, sizes, rate or 0.0, expiry_s=expiry_s, now_s=time.time())

    def _ask(self, connection: sa.Connection) -> tuple[Mapping[str, int], float | None]:
        sizes = {str(row[0]): int(row[1]) for row in connection.exec_driver_sql("SHOW BINARY LOGS")}
        self._written += 0 if self._sizes is None else grown(self._sizes, sizes)
        self._sizes = sizes
        return sizes, self._rate.take(self._written)


def grown(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    """Return how many bytes were written between two looks at the sizes; files that were removed are no loss."""
    return sum(max(0, size - before.get(name, 0)) for name, size in after.items())


def binlog_log(
    position: Mapping[str, Any], sizes: Mapping[str, int], rate: float, *, expiry_s: float, now_s: float
) -> SourceLog:
    """Make a state of a look at the sizes of all binlogs, in their order.

    A file is removed expiry_s after its last event; the newest one never is, nor anything when expiry_s is 0.
    """
    file, offset = str(position["file"]), int(position["pos"])
    if file not in sizes:
        return SourceLog(f"binlog:{file}", None, True, None, None, rate, 0.0)
    names = list(sizes)
    unread = names[names.index(file) :]
    hours_left = None
    if expiry_s and len(unread) > 1 and position.get("ts_sec"):
        hours_left = max(0.0, (float(position["ts_sec"]) + expiry_s - now_s) / _HOUR_S)
    kept = sum(sizes[name] for name in unread) - offset
    return SourceLog(f"binlog:{file}", None, False, max(0, kept), None, rate, hours_left)


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
