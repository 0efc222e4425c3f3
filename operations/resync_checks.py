"""What must be so before a resync begins, so that it does not stop at its first slice."""

from __future__ import annotations

from typing import Final

from connectors.connector_config import SourceEngine
from connectors.topics import schema_history_topic
from operations.config import OperationsSettings
from operations.connect import connect_client
from operations.errors import ResyncError
from operations.kafka import KafkaAdmin
from operations.kafka_group import GroupAdmin
from operations.source import connector_place

CONNECT_LIMIT_S: Final = 5.0
_NEEDED: Final = ("signal.data.collection", "notification.sink.topic.name")


def check_group(settings: OperationsSettings) -> None:
    """Raise ResyncError if nobody would settle what is sent: only the group says how much it can take."""
    if not GroupAdmin(settings.text("kafka_bootstrap_servers")).members(settings.consumer_group):
        raise ResyncError(f"group {settings.consumer_group} has no member: start consumers first")


def check_connector(settings: OperationsSettings) -> None:
    """Raise ResyncError if the connector does not run, or would not understand a signal."""
    with connect_client(settings, retry_limit_s=CONNECT_LIMIT_S) as client:
        config = client.config_or_none(settings.connector_name) or {}
        if any(name not in config for name in _NEEDED):
            raise ResyncError("the connector takes no signals yet: `emrsync provision`, then `emrsync connector apply`")
        status = client.status(settings.connector_name)
    if not status.running:
        raise ResyncError(f"the connector does not run ({status.summary}): see `emrsync connector status`")
    if connector_place(settings).engine is not SourceEngine.POSTGRESQL and not _knows_signals(settings):
        raise ResyncError(
            "the connector began before there was the table sync_signal, and would fail at a row of it:"
            " `emrsync connector reset-offsets` once"
        )


def _knows_signals(settings: OperationsSettings) -> bool:
    """Look for the table among the definitions by which the connector reads the binlog."""
    admin, topic = KafkaAdmin(settings.text("kafka_bootstrap_servers")), schema_history_topic(settings.topic_prefix)
    first, end = admin.kept(topic).offsets[0]
    return any(b"sync_signal" in (record.value or b"") for record in admin.records(topic, 0, first, end))
