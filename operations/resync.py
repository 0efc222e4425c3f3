"""Lets the connector send outbox rows again, slice by slice, and sees that each row comes once."""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from connectors.outbox import EntityType, sync_outbox, sync_signal
from connectors.outbox_event import in_utc
from connectors.signals import COMPLETED, outbox_name, read_notification, resend
from connectors.topics import entity_topic, notifications_topic
from consumer.ports import Record
from operations.config import OperationsSettings
from operations.errors import ResyncError
from operations.kafka_tail import KafkaTail
from operations.recovery_ledger import FINISHED, PAUSED, RUNNING, STOPPED
from operations.resync_ledger import ResyncLedger, ResyncRun
from operations.resync_selection import ResyncSelection
from operations.resync_throttle import Throttle
from operations.source import connector_place

SLICE_ROWS: Final = 25
"""Rows of one signal: what the connector reads, and the consumers get, at once between live events."""

ANSWER_LIMIT_S: Final = 60.0
"""How long the connector may take for a slice; an idle one is moved on by its heartbeat every 10 s."""

STOP_LIMIT_S: Final = 10.0
"""How long an operator who stops is kept waiting for the slice under way."""

GRACE_S: Final = 5.0
"""How long records may come after the connector has said that there are no more."""

SIGNALS_MAX: Final = 3
_POLL_S: Final = 0.05
_OUTBOX: Final = sync_outbox.c


@dataclasses.dataclass(frozen=True, slots=True)
class Looked:
    """Rows of a selection by type and status; the oldest and newest by created_at, None without rows."""

    counts: Counter[tuple[str, str]]
    oldest: dt.datetime | None
    newest: dt.datetime | None
    seq_last: int

    @property
    def rows(self) -> int:
        """All of them."""
        return self.counts.total()


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: its state, rows that are done in all of its parts, and what an operator should know."""

    state: str
    done: int
    reason: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it came to its end, with nothing left out."""
        return self.state == FINISHED and self.reason is None


def look(engine: sa.Engine, selection: ResyncSelection) -> Looked:
    """Count the rows of a selection; nothing is changed."""
    asked = (
        sa.select(
            _OUTBOX.entity_type, _OUTBOX.status, sa.func.count().label("rows"), sa.func.max(_OUTBOX.seq).label("seq"),
            sa.func.min(_OUTBOX.created_at).label("oldest"), sa.func.max(_OUTBOX.created_at).label("newest"),
        )
        .where(*selection.rows())
        .group_by(_OUTBOX.entity_type, _OUTBOX.status)
    )  # fmt: skip
    with engine.connect() as connection:
        found = connection.execute(asked).all()
    return Looked(
        Counter({(row.entity_type, row.status): row.rows for row in found}),
        min((in_utc(row.oldest) for row in found), default=None),
        max((in_utc(row.newest) for row in found), default=None),
        max((row.seq for row in found), default=0),
    )


def begin(looked: Looked) -> dict[str, Any]:
    """Return the place of a run that has not begun; rows that are written later are not of it."""
    return {"after_seq": -1, "last_seq": looked.seq_last, "slice": None}


@dataclasses.dataclass(slots=True)
class _Slice:
    """Rows under way: their numbers, the signal that asks for them, and from where on their records can be."""

    seqs: list[int]
    signal_id: str
    offsets: dict[tuple[str, int], int]

    def as_place(self) -> Mapping[str, Any]:
        """Give it as the ledger keeps it."""
        offsets = [[*place, offset] for place, offset in sorted(self.offsets.items())]
        return {"seqs": self.seqs, "signal_id": self.signal_id, "offsets": offsets}

    @classmethod
    def of(cls, place: Mapping[str, Any]) -> _Slice:
        """Read what as_place gave."""
        offsets = {(topic, number): offset for topic, number, offset in place["offsets"]}
        return cls(list(place["seqs"]), place["signal_id"], offsets)


class OutboxResync:
    """One run, or one part of it; engine is on the source by an account that may write signals."""

    def __init__(
        self,
        settings: OperationsSettings,
        ledger: ResyncLedger,
        engine: sa.Engine,
        run: ResyncRun,
        throttle: Throttle,
        *,
        slice_rows: int = SLICE_ROWS,
    ) -> None:
        place = connector_place(settings)
        self._outbox = outbox_name(place.engine, place.database)
        self._servers = settings.text("kafka_bootstrap_servers")
        self._notifications = notifications_topic(settings.topic_prefix)
        self._topics = [entity_topic(one, settings.topic_prefix) for one in EntityType]
        self._ledger = ledger
        self._engine = engine
        self._run = run
        self._throttle = throttle
        self._slice_rows = slice_rows

    def carry_out(self, stop: Callable[[], bool], told: Callable[[int], None]) -> Ended:
        """Go on until all rows have come, or a stop is asked for; a slice that is under way is finished first."""
        under_way = None if self._run.place.get("slice") is None else _Slice.of(self._run.place["slice"])
        start = None if under_way is None else under_way.offsets
        with KafkaTail(self._servers, [*self._topics, self._notifications], start) as tail:
            try:
                while under_way is not None or not stop():
                    if under_way is None and (under_way := self._next(tail)) is None:
                        return self._ended(FINISHED)
                    count = len(under_way.seqs)
                    self._send(under_way, tail, stop)
                    self._save(RUNNING, under_way.seqs[-1], None, done=self._run.done + count)
                    forget_signals(self._engine)
                    under_way = None
                    told(count)
                    self._throttle.wait(count)
            except ResyncError as error:
                return self._ended(PAUSED if stop() else STOPPED, str(error))
            return self._ended(PAUSED)

    def _next(self, tail: KafkaTail) -> _Slice | None:
        place = self._run.place
        asked = (
            sa.select(_OUTBOX.seq)
            .where(*self._run.selection.rows(), _OUTBOX.seq > place["after_seq"], _OUTBOX.seq <= place["last_seq"])
            .order_by(_OUTBOX.seq)
            .limit(self._slice_rows)
        )
        with self._engine.connect() as connection:
            seqs = list(connection.scalars(asked))
        if not seqs:
            return None
        found = _Slice(seqs, str(uuid.uuid4()), dict(tail.positions))
        # Before the signal: whoever goes on after a kill sees by the signal's row whether it was sent.
        self._save(RUNNING, place["after_seq"], found, done=self._run.done)
        return found

    def _send(self, one: _Slice, tail: KafkaTail, stop: Callable[[], bool]) -> None:
        """Ask for a slice until each of its rows has come, or is not in the outbox any more.

        Raises:
            ResyncError: the connector does not answer, or leaves rows out again and again.
        """
        missing = set(one.seqs)
        # Of a slice that was under way when an earlier part ended some rows, or all, may have come since.
        deadline_s = time.monotonic() + ANSWER_LIMIT_S
        while tail.is_behind and not stop():
            for record in tail.read(_POLL_S):
                self._came(record, missing)
            if time.monotonic() > deadline_s:
                raise ResyncError(f"Kafka does not give what has come in {ANSWER_LIMIT_S:.0f} s")
        for _ in range(SIGNALS_MAX):
            missing &= self._still_there(missing)
            if not missing:
                return
            self._signal(one.signal_id, sorted(missing))
            self._await(one.signal_id, missing, tail, stop)
            if missing:
                forget_signals(self._engine)
                one.signal_id = str(uuid.uuid4())
                self._save(RUNNING, self._run.place["after_seq"], one, done=self._run.done)
        if missing:
            raise ResyncError(
                f"the connector has left {len(missing)} rows out {SIGNALS_MAX} times, seq {min(missing)} the first"
            )

    def _signal(self, signal_id: str, seqs: Sequence[int]) -> None:
        signal = resend(signal_id, self._outbox, seqs)
        with self._engine.begin() as connection:
            sent = sa.select(sync_signal.c.id).where(sync_signal.c.id == signal_id)
            if connection.execute(sent).one_or_none() is None:
                connection.execute(sa.insert(sync_signal), dataclasses.asdict(signal))

    def _await(self, signal_id: str, missing: set[int], tail: KafkaTail, stop: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + ANSWER_LIMIT_S
        completed = stopped = False
        while not completed or missing:
            for record in tail.read(_POLL_S):
                said = self._came(record, missing)
                if said == (signal_id, COMPLETED) and not completed:
                    completed = True
                    deadline_s = time.monotonic() + GRACE_S
            if not stopped and stop():
                stopped = True
                deadline_s = min(deadline_s, time.monotonic() + STOP_LIMIT_S)
            if time.monotonic() < deadline_s:
                continue
            if completed:
                return
            if not stopped:
                # The next part asks again, for what has not come by then.
                forget_signals(self._engine)
            raise ResyncError(
                f"the connector has not finished a slice of the rows up to seq {max(missing, default=0)}, of which"
                f" {len(missing)} have not come: see `emrsync connector status`"
            )

    def _came(self, record: Record, missing: set[int]) -> tuple[str, str] | None:
        """Strike a row out, or return id of signal and type of a notification."""
        if record.topic != self._notifications:
            missing.discard(_seq(record))
            return None
        said = read_notification(record.value)
        return None if said is None else (said.signal_id, said.type)

    def _still_there(self, seqs: set[int]) -> set[int]:
        with self._engine.connect() as connection:
            return set(connection.scalars(sa.select(_OUTBOX.seq).where(_OUTBOX.seq.in_(seqs))))

    def _save(self, state: str, after_seq: int, under_way: _Slice | None, *, done: int) -> None:
        place = {
            "after_seq": after_seq,
            "last_seq": self._run.place["last_seq"],
            "slice": None if under_way is None else under_way.as_place(),
        }
        self._run = dataclasses.replace(self._run, state=state, done=done, place=place)
        self._ledger.save(self._run)

    def _ended(self, state: str, reason: str | None = None) -> Ended:
        self._run = dataclasses.replace(self._run, state=state)
        self._ledger.save(self._run)
        return Ended(state, self._run.done, reason)


def forget_signals(engine: sa.Engine) -> None:
    """Remove all of them: an earlier part may have been killed before it came to this."""
    with engine.begin() as connection:
        connection.execute(sa.delete(sync_signal))


def _seq(record: Record) -> int:
    seq = dict(record.headers).get("seq") or b""
    return int(seq) if seq.isdigit() else -1
