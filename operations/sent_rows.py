"""How far the connector has sent the outbox, by all that may know: topics, ledger, marks and its own position."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any, Final

import sqlalchemy as sa

from connectors.outbox import Status, sync_outbox
from consumer.openemr.ledger_schema import checked_schema
from operations.config import OperationsSettings
from operations.connect import connect_client
from operations.engines import openemr, source
from operations.parts import Unavailable, part

CLOCKS_DIFFER: Final = dt.timedelta(minutes=5)
"""A row's created_at may be of the application's clock, the connector's position is of the database's."""

_ANSWER_LIMIT_S: Final = 5.0
_OUTBOX: Final = sync_outbox.c


@dataclasses.dataclass(frozen=True, slots=True)
class Sent:
    """What was sent: rows up to a seq, and rows made before until (UTC; None when the connector cannot be asked)."""

    seq: int
    until: dt.datetime | None

    def holds(self, seq: int, created_at: dt.datetime) -> bool:
        """Tell whether a row has been sent; on a quiet site whose topics are empty only the time tells it."""
        return seq <= self.seq or (self.until is not None and created_at < self.until - CLOCKS_DIFFER)


def read_sent(settings: OperationsSettings, seq: int) -> Sent:
    """Ask for more than the highest seq that the topics show."""
    return Sent(max(seq, _marked(settings), _settled(settings)), _position(settings))


def _marked(settings: OperationsSettings) -> int:
    newest = sa.select(sa.func.max(_OUTBOX.seq)).where(_OUTBOX.status != Status.PENDING.value)
    with source(settings).connect() as connection:
        return connection.scalar(newest) or 0


def _settled(settings: OperationsSettings) -> int:
    newest = f"SELECT MAX(last_seq) FROM {checked_schema(settings.ledger_schema)}.entity_map"  # noqa: S608 - ours
    with openemr(settings).connect() as connection:
        return connection.scalar(sa.text(newest)) or 0


def _position(settings: OperationsSettings) -> dt.datetime | None:
    if settings.connect_url is None:
        return None
    with connect_client(settings, retry_limit_s=_ANSWER_LIMIT_S) as client:
        found = part(lambda: client.offsets(settings.connector_name))
    return None if isinstance(found, Unavailable) else position_time([one["offset"] or {} for one in found])


def position_time(positions: list[dict[str, Any]]) -> dt.datetime | None:
    """Return the commit time of what a connector has read last: ts_usec of PostgreSQL, ts_sec of MySQL and MariaDB."""
    times = [one["ts_usec"] / 1e6 if "ts_usec" in one else one.get("ts_sec") or 0 for one in positions]
    newest = max(times, default=0)
    return dt.datetime.fromtimestamp(newest, dt.UTC) if newest else None
