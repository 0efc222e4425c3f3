"""Options of Kafka's client, written out because their defaults lose or delay events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def consumer_options(
    *, bootstrap_servers: str, group_id: str, client_id: str, classic: bool, assignor: str = "uniform"
) -> Mapping[str, Any]:
    """Give the options of one member, written out because their defaults lose or delay events."""
    protocol: Mapping[str, Any] = {
        "group.protocol": "consumer",  # KIP-848: no stop-the-world when members change
        "group.remote.assignor": assignor,  # else the broker's first, which may be either
    }
    if classic:
        protocol = {
            "group.protocol": "classic",
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": 45_000,
            # Here the members find new partitions, not the broker; by default they look every 5 minutes.
            "topic.metadata.refresh.interval.ms": 5_000,
        }
    return {
        **protocol,
        "bootstrap.servers": bootstrap_servers,
        "group.id": group_id,
        "client.id": client_id,
        "enable.auto.commit": False,  # an offset moves only after the outcome is marked
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",  # the default, latest, would skip what came before the first start
        "isolation.level": "read_committed",
        "max.poll.interval.ms": 300_000,  # longest batch, far above STATEMENT_TIMEOUT_S
        "fetch.wait.max.ms": 100,  # an idle fetch returns as soon as one byte is there; this bounds the long poll
        "fetch.min.bytes": 1,
        "fetch.error.backoff.ms": 50,
        # A broker that is back is found within this; the default, 10 s, would double what its restart costs.
        "reconnect.backoff.max.ms": 1_000,
        "queued.min.messages": 2_000,  # four batches ahead; the default, 100,000, is memory for nothing
        "queued.max.messages.kbytes": 16_384,  # per consumer, so that memory stays flat whatever the backlog
        "socket.nagle.disable": True,
        "allow.auto.create.topics": False,
    }


def producer_options(*, bootstrap_servers: str, client_id: str) -> Mapping[str, Any]:
    """Give the options of the dead-letter producer."""
    return {
        "bootstrap.servers": bootstrap_servers,
        "client.id": f"{client_id}-dead-letter",
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",  # the same key goes to the partition Java's default would choose
        "message.max.bytes": 1_000_000_000,  # the topic decides: a client's own limit would only refuse sooner
        "compression.type": "zstd",  # a record that its topic took compressed may be larger than any topic's limit
        "delivery.timeout.ms": 10_000,
        "allow.auto.create.topics": False,
    }
