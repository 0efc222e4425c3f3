"""The records of one transaction, on their way from bytes to events."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime as dt
from collections.abc import Collection, Iterator, Sequence

from connectors.events import Event, EventError
from consumer.dead_letters import Reading, RecordReader
from consumer.drafting import Drafting
from consumer.ports import Place, Record, Settlement, StreamPosition
from consumer.prepare import Drafted, prepare


@dataclasses.dataclass(frozen=True, slots=True)
class _Ahead:
    """What another thread has made of a batch's records, one by one, and of the events among them."""

    decoded: Sequence[Event | EventError]
    drafted: Drafted


class Batch:
    """Records, the events of those that were read, and how far that brings each partition."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        self._reading: Reading | None = None
        self._ahead: concurrent.futures.Future[_Ahead] | None = None

    def look_ahead(self, executor: concurrent.futures.Executor, reader: RecordReader, drafting: Drafting) -> None:
        """Begin to decode and draft in another thread, once; nothing is parked or decided there."""
        if self._reading is None and self._ahead is None:
            self._ahead = executor.submit(_look_ahead, self._records, reader, drafting)

    def read(self, reader: RecordReader, now: dt.datetime) -> None:
        """Decode the records, once; raises as RecordReader.read, and may be repeated then."""
        if self._reading is None:
            decoded = None if self._ahead is None else self._ahead.result().decoded
            self._reading = reader.read(self._records, now=now, decoded=decoded)

    def leave_out(self, places: Collection[Place]) -> None:
        """Forget what came from these partitions."""
        self._records = [one for one in self._records if one.place not in places]
        self._ahead = None
        if self._reading is not None:
            events = [(record, event) for record, event in self._reading.events if record.place not in places]
            self._reading = Reading(events, self._reading.unreadable)

    def parts(self, records_max: int) -> Iterator[Batch]:
        """Cut the batch into smaller ones; what was read stays read, and its dead letters go with the first."""
        for start in range(0, len(self._records), records_max):
            part = Batch(self._records[start : start + records_max])
            if self._reading is not None:
                own = {(one.place, one.offset) for one in part._records}
                events = [
                    (record, event) for record, event in self._reading.events if (record.place, record.offset) in own
                ]
                part._reading = Reading(events, () if start else self._reading.unreadable)
            yield part

    @property
    def records(self) -> int:
        """How many records it has."""
        return len(self._records)

    @property
    def events(self) -> Sequence[Event]:
        """The events in the order of their records."""
        return () if self._reading is None else [event for _, event in self._reading.events]

    @property
    def drafted(self) -> Drafted | None:
        """What was made of the events before their turn; None when nothing was, or of others too."""
        return None if self._ahead is None else self._ahead.result().drafted

    @property
    def unreadable(self) -> Sequence[Settlement]:
        """What the outbox rows of dead letters are told."""
        return () if self._reading is None else self._reading.unreadable

    @property
    def positions(self) -> Sequence[StreamPosition]:
        """The next offsets after this batch."""
        offsets: dict[Place, int] = {}
        for one in self._records:
            offsets[one.place] = max(offsets.get(one.place, 0), one.offset + 1)
        return [StreamPosition(topic, partition, offset) for (topic, partition), offset in offsets.items()]


def _look_ahead(records: Sequence[Record], reader: RecordReader, drafting: Drafting) -> _Ahead:
    decoded = [reader.decode(one) for one in records]
    prepared = [prepare(drafting, one) for one in decoded if not isinstance(one, EventError)]
    return _Ahead(decoded, Drafted(drafting, prepared))


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
