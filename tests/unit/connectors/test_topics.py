"""The topics of the pipeline."""

from __future__ import annotations

from connectors.topics import topics

DAY_MS = 86_400_000


def test_every_topic_is_defined_as_the_design_says() -> None:
    """Partitions and retention, written by hand."""
    found = {topic.name: (topic.partitions, topic.config["retention.ms"]) for topic in topics()}

    assert {
        "emrsync.patient": (6, str(14 * DAY_MS)),
        "emrsync.encounter": (6, str(14 * DAY_MS)),
        "emrsync.order": (6, str(14 * DAY_MS)),
        "emrsync.dead-letter": (1, str(90 * DAY_MS)),
        "emrsync.notifications": (1, str(7 * DAY_MS)),
        "__debezium-heartbeat.emrsync": (1, str(DAY_MS)),
        "emrsync.schema-history": (1, "-1"),
    } == found


def test_no_topic_is_compacted_as_that_would_drop_events() -> None:
    """Two events of one entity share a key."""
    assert {"delete"} == {topic.config["cleanup.policy"] for topic in topics()}


def test_copies_and_in_sync_copies_are_the_callers_choice() -> None:
    """A cluster sets both, one machine neither."""
    found = topics(replication_factor=3, min_insync_replicas=2)

    assert {(3, "2")} == {(topic.replication_factor, topic.config["min.insync.replicas"]) for topic in found}
