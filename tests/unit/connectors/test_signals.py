"""Signals hold numbers only, and notifications are read as the connector writes them."""

from __future__ import annotations

import json

import pytest

from connectors.connector_config import SourceEngine
from connectors.signals import Notification, outbox_name, read_notification, resend


def test_a_signal_asks_for_rows_by_their_numbers() -> None:
    """In the words of Debezium's documentation."""
    signal = resend("8f1c", "public.sync_outbox", [7, 9])

    assert ("8f1c", "execute-snapshot") == (signal.id, signal.type)
    assert json.loads(signal.data) == {
        "type": "INCREMENTAL",
        "data-collections": ["public.sync_outbox"],
        "additional-conditions": [{"data-collection": "public.sync_outbox", "filter": "seq IN (7, 9)"}],
    }


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        (SourceEngine.POSTGRESQL, "public.sync_outbox"),
        (SourceEngine.MYSQL, "clinic.sync_outbox"),
        (SourceEngine.MARIADB, "clinic.sync_outbox"),
    ],
)
def test_the_outbox_is_named_by_its_schema_or_database(engine: SourceEngine, name: str) -> None:
    """As table.include.list has it."""
    assert name == outbox_name(engine, "clinic")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            b"Struct{id=98dd8333,type=COMPLETED,aggregate_type=Incremental Snapshot,additional_data={},timestamp=1}",
            Notification("98dd8333", "COMPLETED"),
        ),
        (
            b"Struct{id=98dd8333,type=TABLE_SCAN_COMPLETED,aggregate_type=Incremental Snapshot,timestamp=1}",
            Notification("98dd8333", "TABLE_SCAN_COMPLETED"),
        ),
        (b"Struct{id=5563,type=COMPLETED,aggregate_type=Initial Snapshot,timestamp=1}", None),
        (None, None),
    ],
)
def test_a_notification_is_read_as_the_connector_writes_it(value: bytes | None, expected: Notification | None) -> None:
    """Those of other snapshots are passed over."""
    assert expected == read_notification(value)
