"""In words, where a record is now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from connectors.connect_client import ConnectorStatus
from connectors.outbox import Status
from consumer.failed_rows import RETRYING
from operations.parts import Unavailable
from operations.where import Ledger, Mapped, OutboxRow, Source, WaitingEvent, Way

_KNOWN_BY: Final[Mapping[str, str]] = {
    "patient": "patient pid",
    "encounter": "encounter",
    "order": "procedure order",
    "medication": "prescription",
}


def in_words(way: Way) -> tuple[str, ...]:
    """Say which systems did not answer, then where the record is, the newest first."""
    lines = []
    if isinstance(way.source, Unavailable):
        lines.append(f"the source database could not be asked: {way.source.reason}")
    if isinstance(way.ledger, Unavailable):
        lines.append(f"OpenEMR's database could not be asked: {way.ledger.reason}")
    if not way.known:
        doubt = "" if way.complete else " to the systems that answered"
        return (*lines, f"{way.entity_id} is not known{doubt}")
    if isinstance(way.source, Source):
        lines += [_event(row, way) for row in reversed(way.source.outbox) if row.status is not Status.DONE]
        lines += _without_event(way.source)
    if isinstance(way.ledger, Ledger):
        told = {row.outbox_id for row in way.source.outbox} if isinstance(way.source, Source) else set()
        lines += [_waits(one, f"event of {one.entity_type}") for one in way.ledger.waiting if one.outbox_id not in told]
        lines += [_mapped(one) for one in way.ledger.mapped]
        if not way.ledger.mapped:
            lines.append("not in OpenEMR")
    return tuple(lines)


def _without_event(source: Source) -> list[str]:
    told = {row.entity_type for row in source.outbox}
    return [
        f"a row in {row.table}, but no event in the outbox: the application has recorded none, or it was cleared"
        for row in source.business
        if row.entity_type not in told
    ]


def _event(row: OutboxRow, way: Way) -> str:
    name = f"{row.operation} of {row.entity_type}, seq {row.seq}"
    if row.status is Status.FAILED:
        again = "; a person may: `emrsync retry one OUTBOX_ID`"
        if row.next_attempt_at is not None:
            again = f"; next attempt {row.next_attempt_at.isoformat()}"
        return f"failed: {name}: {row.error_class}: {row.error_message} (attempt {row.retry_count}{again})"
    waiting = [one for one in way.ledger.waiting if one.seq == row.seq] if isinstance(way.ledger, Ledger) else []
    if waiting:
        return _waits(waiting[0], f"{row.operation} of {row.entity_type}")
    if row.outcome == RETRYING:
        return f"being tried again: {name}: {row.error_class}: {row.error_message} (attempt {row.retry_count + 1})"
    if row.status is Status.PROCESSING:
        return f"under way: {name}: {row.error_message or 'the consumer holds it'}"
    if isinstance(way.ledger, Ledger) and any(one.outbox_id == row.outbox_id for one in way.ledger.applied):
        return f"in OpenEMR, not yet marked in the outbox: {name}"
    return f"in the outbox, not yet applied: {name}: {_connector(way)}"


def _waits(event: WaitingEvent, name: str) -> str:
    since = event.since.isoformat()
    return f"waiting: {name}, seq {event.seq}: for {event.parent_type} {event.parent_id}, since {since}"


def _connector(way: Way) -> str:
    if isinstance(way.connector, ConnectorStatus):
        if way.connector.running:
            return (
                "the connector runs, so it is in Kafka or about to be: see whether a consumer runs (`emrsync status`)"
            )
        return f"not yet in Kafka, perhaps: {way.connector.failure or way.connector.summary}"
    if isinstance(way.connector, Unavailable):
        return f"the connector could not be asked: {way.connector.reason}"
    return "the connector was not asked"


def _mapped(one: Mapped) -> str:
    known_by = f"{_KNOWN_BY.get(one.kind, one.kind)} {one.local_id}"
    if one.deleted_at is not None:
        return f"deleted in OpenEMR at {one.deleted_at.isoformat()} (was {known_by}), by seq {one.last_seq}"
    return f"in OpenEMR as {known_by}, uuid {one.uuid}, state of seq {one.last_seq}"
