"""The event on the wire: key, value and headers of one outbox row, and how to read them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from connectors.outbox import ENTITY_ID_CHARACTERS_MAX, PAYLOAD_BYTES_MAX, EntityType, Operation, TargetSystem

HEADERS: Final = ("id", "entity_type", "operation", "target_system", "seq", "payload_version", "created_at")
"""The headers of every event, all plain text."""

CAUSE_HEADER: Final = "cause"
"""Why the event was written, if not because the entity changed; absent, or without a value, in all others."""

UNREADABLE_HEADERS: Final = "emrsync.unreadable-headers"
"""Stands for all headers of a record whose client could not give them."""

SEQ_MAX: Final = 2**63 - 1

RECORD_BYTES_MAX: Final = 2 * PAYLOAD_BYTES_MAX
"""Largest value of a record that is applied, unless a setting says otherwise.

Above the largest payload, since PostgreSQL gives JSONB back with blanks that the application did not write.
"""

_Member = TypeVar("_Member", EntityType, Operation, TargetSystem)

_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f]")
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_DIGITS: Final = re.compile(r"[0-9]{1,19}")


class EventError(ValueError):
    """A record or row is no event: the message names the part and the reason, never a value."""


@dataclasses.dataclass(frozen=True, slots=True)
class EntityKey:
    """What an event is about, and what its order is kept for."""

    entity_type: EntityType
    entity_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One outbox row on its way; payload is the JSON text, unchanged, and cause None for a change of the entity."""

    outbox_id: uuid.UUID
    key: EntityKey
    operation: Operation
    target_system: TargetSystem
    seq: int
    payload_version: int
    created_at: dt.datetime
    payload: bytes
    cause: str | None = None


def check_entity_id(entity_id: str) -> str:
    """Return the id; raise EventError when it is empty, too long, padded with blanks or not printable."""
    if not entity_id:
        raise EventError("entity_id: is empty")
    if len(entity_id) > ENTITY_ID_CHARACTERS_MAX:
        raise EventError(f"entity_id: has {len(entity_id)} characters, at most {ENTITY_ID_CHARACTERS_MAX} are allowed")
    if entity_id != entity_id.strip():
        raise EventError("entity_id: begins or ends with white space")
    if _UNPRINTABLE.search(entity_id):
        raise EventError("entity_id: holds a control character")
    return entity_id


def decode_record(
    topic: str,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
    *,
    value_bytes_max: int = RECORD_BYTES_MAX,
) -> Event:
    """Read one record as it was polled from an entity topic.

    Raises:
        EventError: it is none that can be applied: as decode, or a header of ours comes twice, or the topic is that
            of another entity type.
    """
    names = [name for name, _ in headers]
    if UNREADABLE_HEADERS in names:
        raise EventError("headers: a name is not UTF-8, and none of them can be read")
    for name in (*HEADERS, CAUSE_HEADER):
        if names.count(name) > 1:
            raise EventError(f"header {name}: comes more than once")
    event = decode(key, value, dict(headers), value_bytes_max=value_bytes_max)
    # Each entity's events keep their order because they share one partition of one topic.
    if topic.rpartition(".")[2] != event.key.entity_type:
        raise EventError("header entity_type: is not the one of this topic")
    return event


def decode(
    key: bytes | None,
    value: bytes | None,
    headers: Mapping[str, bytes | None],
    *,
    value_bytes_max: int = RECORD_BYTES_MAX,
) -> Event:
    """Read key, value (at most value_bytes_max bytes) and headers; raise EventError when they are no event."""
    if value is None:
        raise EventError("value: is absent (a tombstone)")
    if len(value) > value_bytes_max:
        raise EventError(f"value: has {len(value)} bytes, at most {value_bytes_max} are allowed")
    if key is None:
        raise EventError("key: is absent; it must be the entity_id")
    return Event(
        outbox_id=_uuid(_text(headers, "id")),
        key=EntityKey(_member(EntityType, headers, "entity_type"), check_entity_id(_utf8(key, "key"))),
        operation=_member(Operation, headers, "operation"),
        target_system=_member(TargetSystem, headers, "target_system"),
        seq=_number(headers, "seq", SEQ_MAX),
        payload_version=_number(headers, "payload_version", 32_767),
        created_at=_instant(_text(headers, "created_at")),
        payload=value,
        cause=None if headers.get(CAUSE_HEADER) is None else _text(headers, CAUSE_HEADER),
    )


def readable_id(headers: Sequence[tuple[str, bytes | None]]) -> uuid.UUID | None:
    """Return the outbox id of a record that is no event otherwise, or None when that cannot be told either."""
    found = [raw for name, raw in headers if name == "id"]
    try:
        return _uuid(_text({"id": found[0]}, "id")) if len(found) == 1 else None
    except EventError:
        return None


def _utf8(raw: bytes, name: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        # The cause would carry the bytes.
        raise EventError(f"{name}: is not UTF-8") from None


def _text(headers: Mapping[str, bytes | None], name: str) -> str:
    raw = headers.get(name)
    if raw is None:
        raise EventError(f"header {name}: is absent")
    return _utf8(raw, f"header {name}")


def _member(members: type[_Member], headers: Mapping[str, bytes | None], name: str) -> _Member:
    text = _text(headers, name)
    try:
        return members(text)
    except ValueError:
        raise EventError(f"header {name}: is none of {', '.join(members)}") from None


def _number(headers: Mapping[str, bytes | None], name: str, limit: int) -> int:
    text = _text(headers, name)
    if not _DIGITS.fullmatch(text) or int(text) > limit:
        raise EventError(f"header {name}: is no whole number from 0 to {limit}")
    return int(text)


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise EventError("header id: is no UUID") from None


def _instant(text: str) -> dt.datetime:
    """Read ISO text (timestamptz of PostgreSQL) or epoch microseconds (DATETIME(6) of MySQL and MariaDB)."""
    try:
        if _DIGITS.fullmatch(text):
            return _EPOCH + dt.timedelta(microseconds=int(text))
        instant = dt.datetime.fromisoformat(text)
        if instant.tzinfo is None:
            raise EventError("header created_at: has no offset from UTC")
        return instant.astimezone(dt.UTC)
    except OverflowError:
        raise EventError("header created_at: is outside the calendar") from None
    except ValueError as error:
        if isinstance(error, EventError):
            raise
        raise EventError("header created_at: is neither ISO 8601 nor epoch microseconds") from None
