"""The records of one transaction, on their way from bytes to events."""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from connectors.events import Event
from consumer.ports import Place, Record, StreamPosition


class Batch:
    """Records still to be decoded, the events of those that were, and how far that brings each partition."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._records = collections.deque(records)
        self._events: list[tuple[Place, Event]] = []
        self._offsets: dict[Place, int] = {}

    def decode(self, read: Callable[[Record], Event | None]) -> None:
        """Read the records in turn, with None for one that is no event; what raises is read again the next time."""
        while self._records:
            record = self._records[0]
            event = read(record)
            if event is not None:
                self._events.append((record.place, event))
            self._offsets[record.place] = max(self._offsets.get(record.place, 0), record.offset + 1)
            self._records.popleft()

    def leave_out(self, places: Collection[Place]) -> None:
        """Forget what came from these partitions."""
        self._records = collections.deque(one for one in self._records if one.place not in places)
        self._events = [one for one in self._events if one[0] not in places]
        self._offsets = {place: offset for place, offset in self._offsets.items() if place not in places}

    @property
    def events(self) -> Sequence[Event]:
        """The events in the order of their records."""
        return [event for _, event in self._events]

    @property
    def positions(self) -> Sequence[StreamPosition]:
        """The next offsets after this batch."""
        return [StreamPosition(topic, partition, offset) for (topic, partition), offset in self._offsets.items()]


def split(records: Sequence[Record], bytes_max: int) -> Iterator[Batch]:
    """Cut what was polled into transactions; a record above the bound goes alone."""
    share: list[Record] = []
    size_bytes = 0
    for record in records:
        record_bytes = len(record.value or b"")
        if share and size_bytes + record_bytes > bytes_max:
            yield Batch(share)
            share, size_bytes = [], 0
        share.append(record)
        size_bytes += record_bytes
    if share:
        yield Batch(share)
