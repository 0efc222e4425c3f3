"""Records that are no events: when they are parked, when there are too many, and what a dead letter carries."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import deque
from collections.abc import Sequence
from typing import Final

import structlog

from connectors import events
from connectors.events import EntityKey, Event, EventError
from connectors.outbox import EntityType, Operation, TargetSystem
from consumer.crash_points import Point, reached
from consumer.outcome import ErrorClass, Failed
from consumer.ports import EventStream, MisconfiguredError, Place, Record, Settlement

REASON: Final = "emrsync.reason"
TOPIC: Final = "emrsync.topic"
PARTITION: Final = "emrsync.partition"
OFFSET: Final = "emrsync.offset"
TIMESTAMP: Final = "emrsync.timestamp"
ADDED: Final = (REASON, TOPIC, PARTITION, OFFSET, TIMESTAMP)
"""The headers a dead letter has behind its own; the timestamp is the record's, in milliseconds since 1970."""

_log = structlog.get_logger()


class TooManyDeadLettersError(MisconfiguredError):
    """The topic holds something else than outbox events, or the consumer does not understand them any more."""


class NoDeadLetterError(ValueError):
    """A record of the dead-letter topic does not tell where it came from; the message names the header."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterLimits:
    """What is parked and when parking ends.

    value_bytes_max: a larger value is parked, so that one record cannot take the memory of all members in turn.
    window_records: the share is taken of so many records, the newest ones; what has not been read yet counts as good,
        so that a few bad ones at the start are no reason to end.
    share_max: beyond it a producer or the consumer itself is wrong, and parking the rest would only hide that; one
        bad record in five is far above what any mishap brings. 1 parks whatever comes, 0 parks nothing.
    """

    value_bytes_max: int = events.RECORD_BYTES_MAX
    window_records: int = 1_000
    share_max: float = 0.2

    def __post_init__(self) -> None:
        """Refuse limits that make no sense."""
        if self.value_bytes_max < 1:
            raise ValueError("value_bytes_max: must be above 0")
        if self.window_records < 1:
            raise ValueError("window_records: must be above 0")
        if not 0 <= self.share_max <= 1:
            raise ValueError("share_max: must be from 0 to 1")

    @property
    def bad_max(self) -> int:
        """The most bad records that a window may hold."""
        return int(self.share_max * self.window_records)


LIMITS_DEFAULT: Final = DeadLetterLimits()


class DeadLetterWindow:
    """Counts the bad ones among the newest records; no clock and no input or output."""

    def __init__(self, limits: DeadLetterLimits) -> None:
        self._limits = limits
        self._bad: deque[bool] = deque(maxlen=limits.window_records)
        self._count = 0

    @property
    def bad(self) -> int:
        """How many of the newest records were bad."""
        return self._count

    def count(self, *, good: bool) -> bool:
        """Take a record in; return False when with it the window holds more bad ones than it may."""
        if len(self._bad) == self._limits.window_records:
            self._count -= self._bad[0]
        self._bad.append(not good)
        self._count += not good
        return good or self._count <= self._limits.bad_max

    def count_good(self, records: int) -> None:
        """Take so many records in that are no dead letters."""
        if self._count == 0:
            self._bad.extend([False] * records)
            return
        for _ in range(records):
            self.count(good=True)

    def fill(self) -> None:
        """Count as bad as many as may be, so that the next bad one is too many; good ones make room again."""
        for _ in range(self._limits.bad_max):
            self.count(good=False)

    def copy(self) -> DeadLetterWindow:
        """Return a window that counts on from here by itself."""
        other = DeadLetterWindow(self._limits)
        other._bad.extend(self._bad)
        other._count = self._count
        return other


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """What a batch of records holds, in their order, each event with the record that it came from.

    unreadable are the settlements of dead letters whose outbox row is known.
    """

    events: Sequence[tuple[Record, Event]]
    unreadable: Sequence[Settlement]


class RecordReader:
    """Reads the records of one member, and parks what is no event."""

    def __init__(self, stream: EventStream, limits: DeadLetterLimits) -> None:
        self._stream = stream
        self._limits = limits
        self._window = DeadLetterWindow(limits)
        self._seen: set[Place] = set()
        self._parked: set[tuple[str, int, int]] = set()

    def decode(self, record: Record) -> Event | EventError:
        """Give the event that a record is, or why it is none; any thread may ask."""
        try:
            return events.decode_record(
                record.topic, record.key, record.value, record.headers, value_bytes_max=self._limits.value_bytes_max
            )
        except EventError as error:
            return error

    def read(
        self, records: Sequence[Record], *, now: dt.datetime, decoded: Sequence[Event | EventError] | None = None
    ) -> Reading:
        """Decode records, or take what decode gave; those that are no events are parked durably on return.

        Safe to repeat with the same records after an error: what was parked is not parked again by this member.

        Raises:
            TooManyDeadLettersError: nothing of these records was parked, and their partition is marked as given up.
            TransientError, MisconfiguredError: from the stream; the records' offsets must stay.
        """
        found: list[tuple[Record, Event]] = []
        bad: list[tuple[Record, str]] = []
        for record, one in zip(records, decoded or map(self.decode, records), strict=True):
            if isinstance(one, EventError):
                bad.append((record, str(one)))
            else:
                found.append((record, one))
        # Counted before any is parked: a batch of rubbish comes again at every start, and would be parked each time.
        window = self._counted(records, bad)
        for record, reason in bad:
            self._park(record, reason)
        self._window = window
        self._parked.clear()
        return Reading(found, [row for record, reason in bad if (row := failed_row(record, reason, now)) is not None])

    def _counted(self, records: Sequence[Record], bad: Sequence[tuple[Record, str]]) -> DeadLetterWindow:
        window = self._window.copy()
        if self._limits.share_max == 1:
            return window
        suspects = {record.place for record, _ in bad} | ({record.place for record in records} - self._seen)
        if suspects and self._stream.halted(suspects):
            window.fill()
        self._seen |= suspects
        if not bad:
            window.count_good(len(records))
            return window
        reasons = {_position(record): reason for record, reason in bad}
        for record in records:
            reason = reasons.get(_position(record))
            if not window.count(good=reason is None):
                self._stream.halt(record.topic, record.partition)
                message = _too_many(window.bad, self._limits, record, str(reason))
                _log.error("too many dead letters", action="halted", topic=record.topic, partition=record.partition)
                raise TooManyDeadLettersError(message)
        return window

    def _park(self, record: Record, reason: str) -> None:
        if _position(record) in self._parked:
            return
        reached(Point.BEFORE_DEAD_LETTER)
        self._stream.park(record, reason)
        reached(Point.AFTER_DEAD_LETTER)
        self._parked.add(_position(record))
        _log.warning(
            "record parked",
            action="dead_letter",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=reason,
        )


def failed_row(record: Record, reason: str, now: dt.datetime) -> Settlement | None:
    """Return the settlement that makes the outbox row of a dead letter say so; None when the row is not known.

    Its event stands in for the one that could not be read: nothing but outbox_id is true, which is all that a
    failure's mark needs. It counts as old: a young event's row is waited for, and a record that somebody else put
    there with an id of his own would hold up the partition.
    """
    outbox_id = events.readable_id(record.headers)
    if outbox_id is None:
        return None
    event = Event(
        outbox_id=outbox_id,
        key=EntityKey(EntityType.PATIENT, ""),
        operation=Operation.UPDATE,
        target_system=TargetSystem.OPENEMR,
        seq=0,
        payload_version=0,
        created_at=dt.datetime.fromtimestamp(0, dt.UTC),
        payload=b"",
    )
    message = f"its record in Kafka was no event ({reason}); `emrsync dead-letter list` has it"
    return Settlement(event, Failed(ErrorClass.INVALID_PAYLOAD, message), now)


def added_headers(record: Record, reason: str) -> Sequence[tuple[str, bytes | None]]:
    """Return what a dead letter carries behind the record's own headers."""
    values = {
        REASON: reason,
        TOPIC: record.topic,
        PARTITION: str(record.partition),
        OFFSET: str(record.offset),
        TIMESTAMP: None if record.timestamp_ms is None else str(record.timestamp_ms),
    }
    return [(name, None if value is None else value.encode()) for name, value in values.items()]


def original(letter: Record) -> tuple[Record, str]:
    """Return the record that a dead letter holds, as it was polled, and the reason why it was parked.

    Raises:
        NoDeadLetterError: the headers at its end are not those that parking adds.
    """
    count = len(letter.headers) - len(ADDED)
    own, added = letter.headers[: max(0, count)], letter.headers[max(0, count) :]
    if tuple(name for name, _ in added) != ADDED:
        raise NoDeadLetterError(f"its last headers are not {', '.join(ADDED)}: it was not put there by a consumer")
    texts = {name: (value or b"").decode("utf-8", "replace") for name, value in added}
    try:
        record = Record(
            topic=texts[TOPIC],
            partition=int(texts[PARTITION]),
            offset=int(texts[OFFSET]),
            key=letter.key,
            value=letter.value,
            headers=own,
            timestamp_ms=int(texts[TIMESTAMP]) if texts[TIMESTAMP] else None,
        )
    except ValueError:
        raise NoDeadLetterError("a header of its source position is no number") from None
    return record, texts[REASON]


def _too_many(bad: int, limits: DeadLetterLimits, record: Record, reason: str) -> str:
    return (
        f"{bad} of the newest {limits.window_records} records are no events, at most {limits.bad_max} are parked; the"
        f" last one is {record.topic} partition {record.partition} offset {record.offset}: {reason}. Its offset stays."
        " Look at `emrsync dead-letter list`, then mend what writes the topic, or upgrade the consumers; to park all"
        " the rest and go on: EMRSYNC_DEAD_LETTER_SHARE_MAX=1 emrsync consumer run"
    )


def _position(record: Record) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset
