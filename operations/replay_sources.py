"""Chooses what a command reads records from: the topics, or an archive by its place."""

from __future__ import annotations

from operations.archive import ArchiveSource
from operations.archive_store import ArchiveStore
from operations.config import OperationsSettings
from operations.kafka_times import TopicTimes
from operations.record_source import TopicSource


def source_named(settings: OperationsSettings, name: str | None) -> TopicSource | ArchiveSource:
    """Return the topics (None, or their own name), or the archive at a place.

    Raises:
        ArchiveError: nothing is archived there, such as after a slip of the pen.
    """
    if name is None or name == TopicSource.name:
        return TopicSource(TopicTimes(settings.text("kafka_bootstrap_servers")), settings.topic_prefix)
    return ArchiveSource(ArchiveStore(name), settings.topic_prefix)
