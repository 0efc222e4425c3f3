"""Dead letters as an operator sees and decides them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import re
from collections.abc import Iterator
from typing import Final

from connectors import events
from connectors.topics import dead_letter_topic, entity_topics
from consumer.dead_letters import NoDeadLetterError, original
from consumer.ports import Record
from operations.config import OperationsSettings
from operations.dead_letter_actions import WHY_CHARACTERS_MAX, Action, Actions, DeadLetterActions, Kind
from operations.engines import reading_engine
from operations.errors import DeadLetterError
from operations.kafka import KafkaAdmin, KeptRecords

_CHUNK_RECORDS: Final = 500
_ID: Final = re.compile(r"([0-9]{1,9})-([0-9]{1,18})")


class State(enum.StrEnum):
    """What became of a dead letter."""

    UNDECIDED = "undecided"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


@dataclasses.dataclass(frozen=True, slots=True)
class DeadLetter:
    """One record of the dead-letter topic.

    Attributes:
        letter_id: partition and offset in the dead-letter topic, such as 0-17.
        parked_at: when the consumer put it there; None if Kafka does not know.
        record: as it was polled from its own topic, or as it is in the dead-letter topic if that cannot be told.
        reason: why it is no event, or what is wrong with the dead letter itself.
        from_consumer: whether a consumer parked it, so that it can be replayed.
        action: the newest decision on it.
    """

    letter_id: str
    parked_at: dt.datetime | None
    record: Record
    reason: str
    from_consumer: bool
    action: Action | None

    @property
    def state(self) -> State:
        """What was decided last."""
        return State.UNDECIDED if self.action is None else State(self.action.kind.value)


@dataclasses.dataclass(frozen=True, slots=True)
class Replay:
    """What came of the wish to replay a letter; refusal is None when it was (or, in a dry run, would be) replayed."""

    letter: DeadLetter
    refusal: str | None


class DeadLetterBox:
    """The dead-letter topic with the decisions on it; methods may raise OperationError, SettingsError, DBAPIError."""

    def __init__(self, settings: OperationsSettings) -> None:
        settings.check("kafka_bootstrap_servers", "openemr_url")
        self._kafka = KafkaAdmin(settings.text("kafka_bootstrap_servers"))
        self._topic = dead_letter_topic(settings.topic_prefix)
        self._targets = frozenset(entity_topics(settings.topic_prefix))
        self._value_bytes_max = settings.record_bytes_max
        self._kept: KeptRecords = self._kafka.kept(self._topic)
        engine = reading_engine(settings.database_url("openemr_url"))
        self._actions = DeadLetterActions(engine, settings, self._kept.topic_id)

    def newest(self, *, limit: int, state: State | None, scan_max: int) -> tuple[tuple[DeadLetter, ...], bool]:
        """Return letters of this state (None for all), newest first, and whether all that are kept were looked at.

        At most `limit` letters; at most scan_max records of each partition are read. Their values are left out.
        """
        actions = self._actions.newest()
        found: list[DeadLetter] = []
        complete = True
        for partition, (first, end) in enumerate(self._kept.offsets):
            of_partition, seen_all = self._backwards(
                partition, (max(first, end - scan_max), end), actions, state, limit
            )
            found += of_partition
            complete = complete and seen_all and first >= end - scan_max
        found.sort(key=lambda one: (one.parked_at or _EPOCH, *_place(one.letter_id)), reverse=True)
        return tuple(found[:limit]), complete and len(found) <= limit

    def _backwards(
        self, partition: int, bounds: tuple[int, int], actions: Actions, state: State | None, limit: int
    ) -> tuple[list[DeadLetter], bool]:
        found: list[DeadLetter] = []
        first, end = bounds
        while first < end:
            if len(found) >= limit:
                return found, False
            start = max(first, end - _CHUNK_RECORDS)
            records = self._kafka.records(self._topic, partition, start, end)
            # A value may have megabytes, and there may be hundreds.
            chunk = [_letter(dataclasses.replace(one, value=None), actions) for one in records]
            found += [one for one in reversed(chunk) if state in {None, one.state}]
            end = start
        return found, True

    def letter(self, letter_id: str) -> DeadLetter:
        """Return one letter, with its value.

        Raises:
            DeadLetterError: the id is none, or the letter is not kept any more.
        """
        partition, offset = _place(letter_id)
        if partition < len(self._kept.offsets):
            first, end = self._kept.offsets[partition]
            if first <= offset < end:
                for record in self._kafka.records(self._topic, partition, offset, offset + 1):
                    return _letter(record, self._actions.newest())
        raise DeadLetterError(f"{letter_id}: there is no such dead letter, or it is kept no more")

    def replay(self, letter: DeadLetter, *, again: bool = False, dry_run: bool = False) -> Replay:
        """Put a letter's record back into its own topic, unless the current code cannot read it either."""
        refusal = self._refusal(letter, again=again)
        if refusal is None and not dry_run:
            self._actions.take(
                _place(letter.letter_id),
                Kind.REPLAYED,
                before=letter.action,
                act=lambda: self._kafka.send(letter.record),
            )
        return Replay(letter, refusal)

    def replay_undecided(self, *, dry_run: bool = False) -> Iterator[Replay]:
        """Replay every undecided letter, oldest first, so that an entity's events keep their order."""
        actions = self._actions.newest()
        for partition, (first, end) in enumerate(self._kept.offsets):
            for record in self._kafka.records(self._topic, partition, first, end):
                letter = _letter(record, actions)
                if letter.state is State.UNDECIDED:
                    yield self.replay(letter, dry_run=dry_run)

    def discard(self, letter: DeadLetter, why: str) -> None:
        """Remember that nothing will be done about a letter, and why; it stays where it is.

        Raises:
            DeadLetterError: no reason is given, or something was decided before.
        """
        reason = why.strip()
        if not reason or len(reason) > WHY_CHARACTERS_MAX:
            raise DeadLetterError(f"--why: takes 1 to {WHY_CHARACTERS_MAX} characters")
        if letter.action is not None:
            raise DeadLetterError(f"{letter.letter_id}: was {letter.action}")
        self._actions.take(_place(letter.letter_id), Kind.DISCARDED, before=None, why=reason)

    def _refusal(self, letter: DeadLetter, *, again: bool) -> str | None:
        if letter.action is not None and not again:
            return f"was {letter.action}; --again replays it all the same"
        if not letter.from_consumer:
            return letter.reason
        record = letter.record
        if record.topic not in self._targets:
            return "came from a topic that is none of ours (see EMRSYNC_TOPIC_PREFIX)"
        try:
            events.decode_record(
                record.topic, record.key, record.value, record.headers, value_bytes_max=self._value_bytes_max
            )
        except events.EventError as error:
            return f"is still no event: {error}"
        return None


_EPOCH: Final = dt.datetime.fromtimestamp(0, dt.UTC)


def _letter(kept: Record, actions: Actions) -> DeadLetter:
    try:
        record, reason = original(kept)
        from_consumer = True
    except NoDeadLetterError as error:
        record, reason, from_consumer = kept, str(error), False
    parked_at = None if kept.timestamp_ms is None else _EPOCH + dt.timedelta(milliseconds=kept.timestamp_ms)
    action = actions.get((kept.partition, kept.offset))
    return DeadLetter(f"{kept.partition}-{kept.offset}", parked_at, record, reason, from_consumer, action)


def _place(letter_id: str) -> tuple[int, int]:
    found = _ID.fullmatch(letter_id)
    if found is None:
        raise DeadLetterError("a dead letter's id is its partition and offset, such as 0-17; `list` shows them")
    return int(found[1]), int(found[2])
