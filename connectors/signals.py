"""Signals that make the connector send outbox rows again, and its notifications of how far that is."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Final

from connectors.connector_config import SourceEngine

COMPLETED: Final = "COMPLETED"
"""A notification of this type says that nothing more comes of the signal."""

_EXECUTE: Final = "execute-snapshot"
# The connector writes with the string converter, and so a structure as Java shows it.
_STRUCT: Final = re.compile(r"Struct\{id=([^,}]*),type=([A-Z_]+),aggregate_type=Incremental Snapshot,")


@dataclasses.dataclass(frozen=True, slots=True)
class Signal:
    """One row of sync_signal."""

    id: str
    type: str
    data: str


@dataclasses.dataclass(frozen=True, slots=True)
class Notification:
    """What the connector says of a signal: its id, and a type in Debezium's words."""

    signal_id: str
    type: str


def outbox_name(engine: SourceEngine, database: str) -> str:
    """Name the outbox as the connector does."""
    return f"{'public' if engine is SourceEngine.POSTGRESQL else database}.sync_outbox"


def resend(signal_id: str, outbox: str, seqs: Sequence[int]) -> Signal:
    """Ask for the rows of these seqs: numbers are all that the connector puts into its SQL."""
    chosen = f"seq IN ({', '.join(str(int(seq)) for seq in seqs)})"
    data = {
        "type": "INCREMENTAL",
        "data-collections": [outbox],
        "additional-conditions": [{"data-collection": outbox, "filter": chosen}],
    }
    return Signal(signal_id, _EXECUTE, json.dumps(data))


def read_notification(value: bytes | None) -> Notification | None:
    """Read a record of the topic of notifications; None if it is about something else."""
    found = _STRUCT.match((value or b"").decode("utf-8", "replace"))
    return None if found is None else Notification(found[1], found[2])
