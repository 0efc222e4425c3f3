"""How far the ledger beside OpenEMR is in the entity topics."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping

import sqlalchemy as sa

from consumer.openemr.ledger_schema import checked_schema
from consumer.ports import Place
from operations.config import OperationsSettings
from operations.engines import openemr
from operations.kafka import PartitionLag

Positions = Mapping[Place, tuple[int, dt.datetime]]
"""Next offset and time of writing (UTC) by partition."""


def read_positions(settings: OperationsSettings) -> Positions:
    """Read the positions of the group; raises a DBAPIError of SQLAlchemy."""
    sql = f"""
        SELECT topic, partition_no, next_offset, updated_at
        FROM {checked_schema(settings.ledger_schema)}.stream_position WHERE group_id = :group_id"""  # noqa: S608 - ours
    with openemr(settings).connect() as connection:
        rows = connection.execute(sa.text(sql), {"group_id": settings.consumer_group}).all()
    return {(row[0], row[1]): (row[2], row[3].replace(tzinfo=dt.UTC)) for row in rows}


def records_behind(lag: Collection[PartitionLag], positions: Positions) -> int:
    """Count the records that the group has passed and the ledger lacks; the lag must have been read first."""
    known = {place: offset for place, (offset, _) in positions.items()}
    return sum(max(0, (one.committed or 0) - known.get((one.topic, one.partition), 0)) for one in lag)
