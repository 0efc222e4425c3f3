"""Which events a replay is about, and where in the topics they can be."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from connectors.outbox import EntityType, TargetSystem
from consumer.ports import Record
from operations.archive import ArchiveSource
from operations.errors import ReplayError
from operations.record_source import Gap, Kept, Span, TopicSource


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a person asks for; what is empty or None is not asked for.

    since and until are times of records in their topics, until not included; offsets are of the one partition named;
    seqs are included.
    """

    entity_types: tuple[EntityType, ...] = tuple(EntityType)
    entity_ids: tuple[str, ...] = ()
    target: TargetSystem | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    seq_from: int | None = None
    seq_to: int | None = None
    partition: int | None = None
    offset_from: int | None = None
    offset_to: int | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if (self.offset_from is not None or self.offset_to is not None) and (
            self.partition is None or len(self.entity_types) != 1
        ):
            raise ReplayError("--from-offset and --to-offset belong to one --entity-type and one --partition")
        for name, value in (("--from-time", self.since), ("--to-time", self.until)):
            if value is not None and value.tzinfo is None:
                raise ReplayError(f"{name}: give an offset from UTC, such as 2025-03-01T12:00:00+00:00")

    @property
    def is_whole(self) -> bool:
        """Tell whether every event of the spans is meant."""
        return not self.entity_ids and self.target is None and self.seq_from is None and self.seq_to is None

    def matches(self, record: Record) -> bool:
        """Tell whether a record of the spans is meant; one that cannot be read is, so that it is told about."""
        if self.entity_ids and (record.key or b"").decode("utf-8", "replace") not in self.entity_ids:
            return False
        if self.target is None and self.seq_from is None and self.seq_to is None:
            return True
        headers = dict(record.headers)
        if self.target is not None and headers.get("target_system") != self.target.value.encode():
            return False
        seq = headers.get("seq") or b""
        if not seq.isdigit():
            return True
        return (self.seq_from or 0) <= int(seq) and (self.seq_to is None or int(seq) <= self.seq_to)

    def as_mapping(self) -> dict[str, Any]:
        """Give what is asked for as JSON holds it."""
        return dataclasses.asdict(self) | {
            "since": None if self.since is None else self.since.isoformat(),
            "until": None if self.until is None else self.until.isoformat(),
        }

    @classmethod
    def of(cls, mapping: Mapping[str, Any]) -> Selection:
        """Read what as_mapping gives."""
        known = dict(mapping)
        for name in ("since", "until"):
            known[name] = None if known[name] is None else dt.datetime.fromisoformat(known[name])
        known["entity_types"] = tuple(EntityType(one) for one in known["entity_types"])
        known["entity_ids"] = tuple(known["entity_ids"])
        known["target"] = None if known["target"] is None else TargetSystem(known["target"])
        return cls(**known)


def spans(selection: Selection, source: TopicSource | ArchiveSource, kept: Sequence[Kept]) -> tuple[Span, ...]:
    """Return where the events can be, in what the source holds now."""
    found = []
    for one in kept:
        span = one.span
        if selection.partition is not None and span.partition != selection.partition:
            continue
        start, end = span.start, span.end
        if selection.since is not None:
            start = max(start, source.offset_at(span, _ms(selection.since)))
        if selection.until is not None:
            end = min(end, source.offset_at(span, _ms(selection.until)))
        start = max(start, selection.offset_from or 0)
        end = end if selection.offset_to is None else min(end, selection.offset_to)
        found.append(Span(span.topic, span.partition, start, max(start, end)))
    return tuple(found)


def limits_hit(selection: Selection, kept: Sequence[Kept]) -> tuple[str, ...]:
    """Say where the source no longer holds all that is asked for."""
    found = []
    for one in kept:
        if selection.partition is not None and one.span.partition != selection.partition:
            continue
        place = f"{one.span.topic} partition {one.span.partition}"
        if not one.complete and _wants_before(selection, one):
            oldest = "nothing" if one.oldest_ms is None else f"{_time(one.oldest_ms)} and later"
            found.append(f"{place}: keeps {oldest}, from offset {one.span.start}; what was before is gone")
        found += [
            f"{place}: offsets {gap.start} to {gap.end - 1} are missing{_between(gap)}"
            for gap in one.gaps
            if _wants(selection, gap)
        ]
    return tuple(found)


def _wants_before(selection: Selection, kept: Kept) -> bool:
    asked_ms = None if selection.since is None else _ms(selection.since)
    if asked_ms is not None and kept.oldest_ms is not None and kept.oldest_ms <= asked_ms:
        return False
    return selection.offset_from is None or selection.offset_from < kept.span.start


def _wants(selection: Selection, gap: Gap) -> bool:
    """Tell whether what is asked for may be in a gap."""
    if selection.since is not None and gap.before_ms is not None and gap.before_ms <= _ms(selection.since):
        return False
    if selection.until is not None and gap.after_ms is not None and gap.after_ms >= _ms(selection.until):
        return False
    if selection.offset_from is not None and selection.offset_from >= gap.end:
        return False
    return selection.offset_to is None or selection.offset_to > gap.start


def _between(gap: Gap) -> str:
    times = [
        f"{word} {_time(at_ms)}"
        for word, at_ms in (("from after", gap.after_ms), ("to before", gap.before_ms))
        if at_ms is not None
    ]
    return f", {' '.join(times)}" if times else ""


def _ms(instant: dt.datetime) -> int:
    return int(instant.timestamp() * 1000)


def _time(instant_ms: int) -> str:
    return dt.datetime.fromtimestamp(instant_ms / 1000, dt.UTC).isoformat(timespec="seconds")
