"""Whether a process shows metrics: its ports as they are, or counting and timing ones before them."""

from __future__ import annotations

import contextlib

from prometheus_client import CollectorRegistry

from consumer import metered
from consumer.kafka import KafkaEventStream
from consumer.metrics import RetryMetrics, SettlingMetrics, StreamMetrics
from consumer.ports import EventStream, FailedRows, OutboxMarker, Target


class Unmetered:
    """For a process that shows none: every port stays as it is."""

    def target(self, target: Target) -> Target:
        """Give what settles in OpenEMR."""
        return target

    def marker(self, marker: OutboxMarker) -> OutboxMarker:
        """Give what writes outcomes."""
        return marker

    def stream(self, stream: KafkaEventStream) -> EventStream:
        """Give what the member reads."""
        return stream

    def failed_rows(self, rows: FailedRows) -> FailedRows:
        """Give the rows that are tried again."""
        return rows

    def asking(self, _system: str) -> contextlib.AbstractContextManager[None]:
        """Ask a system within a block."""
        return contextlib.nullcontext()


class Metered(Unmetered):
    """Puts counting and timing ports before the real ones."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._settling = SettlingMetrics(registry)
        self._streams: StreamMetrics | None = None

    def target(self, target: Target) -> Target:
        """Time its transactions."""
        return metered.MeteredTarget(target, self._settling)

    def marker(self, marker: OutboxMarker) -> OutboxMarker:
        """Count the outcomes that it writes."""
        return metered.MeteredMarker(marker, self._settling)

    def stream(self, stream: KafkaEventStream) -> EventStream:
        """Show the member's partitions and lag; a process may be a member more than once."""
        self._streams = self._streams or StreamMetrics(self._registry)
        return metered.MeteredStream(stream, self._streams, self._settling, stream.ends, is_troubled=stream.is_troubled)

    def failed_rows(self, rows: FailedRows) -> FailedRows:
        """Count the rows that are tried again."""
        return metered.MeteredFailedRows(rows, RetryMetrics(self._registry), self._settling)

    def asking(self, system: str) -> contextlib.AbstractContextManager[None]:
        """Show by the block's end whether the system answers."""
        return self._settling.asking(system)


def metering(registry: CollectorRegistry | None) -> Unmetered:
    """Give the metering of a process with this registry, which is None where no metrics are asked for."""
    return Unmetered() if registry is None else Metered(registry)
