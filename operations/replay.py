"""Carries out a replay's plan: checked again, in stages, resumable, and stopped at the first error nobody foresaw."""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from connectors.events import Event, EventError
from consumer.outcome import Applied, Duplicate, Failed, Outcome, Stale, Waiting
from consumer.ports import Record
from consumer.settle import settle_events
from operations.archive import ArchiveSource
from operations.bootstrap import Replaying
from operations.config import OperationsSettings
from operations.errors import ReplayError
from operations.record_source import Records, Span, TopicSource, merged
from operations.recovery_ledger import ABORTED, FINISHED, PAUSED, RUNNING, STOPPED, Place, RecoveryLedger, Run
from operations.replay_forecast import LOOKED_UP, Forecaster, chunks, decoded, differing, look_up, rewrite_each
from operations.replay_plan import DUPLICATE, REWRITE, UNREADABLE, Forecast, Plan, check_fates, check_set
from operations.replay_selection import Selection, limits_hit, spans

CANARY: Final = (1, 10, 100)
"""Events of the first stages of a careful replay; the rest is the last one."""

SAVE_EVERY_S: Final = 1.0
COMMAND: Final = "replay"

Told = Callable[[int], None]
Source = TopicSource | ArchiveSource


def make_plan(
    settings: OperationsSettings,
    replaying: Replaying,
    source: Source,
    selection: Selection,
    *,
    force_rewrite: bool,
    told: Told,
) -> Plan:
    """Look at what a selection meets now; nothing is changed."""
    kept = source.kept(selection.entity_types)
    found = spans(selection, source, kept)
    started_s = time.monotonic()
    forecast = look(settings, replaying, source, selection, found, force_rewrite=force_rewrite, told=told)
    return Plan(
        plan_id=str(uuid.uuid4()),
        made_at=dt.datetime.now(dt.UTC),
        made_by=settings.operator,
        selection=selection,
        source=source.name,
        spans=found,
        force_rewrite=force_rewrite,
        limits_hit=limits_hit(selection, kept),
        # Applying looks again first, and then does about the same work once more.
        estimate_s=2 * (time.monotonic() - started_s),
        forecast=forecast,
    )


def look(
    settings: OperationsSettings,
    replaying: Replaying,
    source: Source,
    selection: Selection,
    found: Sequence[Span],
    *,
    force_rewrite: bool,
    told: Told,
) -> Forecast:
    """Rehearse the events of spans."""
    forecaster = Forecaster(replaying.rehearsal, force_rewrite=force_rewrite, value_bytes_max=settings.record_bytes_max)
    for chunk in chunks(_selected(source.records, selection, found), LOOKED_UP):
        forecaster.add(chunk)
        told(len(chunk))
    return forecaster.result()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How an apply goes on: stages of so many events that are not done yet, and at most so many events a second."""

    canary: bool = False
    events_per_s: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """How an apply ended: its state, what became of the events of all its runs so far, and why it stopped."""

    state: str
    done: int
    counts: Counter[str]
    reason: str | None


class Replay:
    """One run of an apply."""

    def __init__(
        self,
        settings: OperationsSettings,
        replaying: Replaying,
        source: Source,
        plan: Plan,
        ledger: RecoveryLedger,
    ) -> None:
        self._settings = settings
        self._replaying = replaying
        self._source = source
        self._plan = plan
        self._ledger = ledger
        self._positions: dict[Place, int] = {(one.topic, one.partition): one.start for one in plan.spans}
        self._counts: Counter[str] = Counter()
        self._done = 0
        self._foreseen = {error_class for error_class, _ in plan.forecast.failures}
        self._unforeseen: str | None = None

    def check(self, told: Told) -> Run | None:
        """Look again before anything is changed; return how far an earlier run came.

        Raises:
            PlanChangedError: what the plan says is so no more.
            ReplayError: the plan was applied, or given up.
        """
        before = self._ledger.run(self._plan.plan_id)
        if before is not None and before.state in {FINISHED, ABORTED}:
            raise ReplayError(f"this plan is {before.state}; plan again")
        plan = self._plan
        now = look(
            self._settings, self._replaying, self._source, plan.selection, plan.spans,
            force_rewrite=plan.force_rewrite and before is None, told=told,
        )  # fmt: skip
        check_set(plan, now)
        if before is None:
            check_fates(plan, now)
        else:
            self._positions.update(before.positions)
            self._counts, self._done = Counter(before.counts), before.done
        return before

    def apply(self, pace: Pace, stop: Callable[[], bool], told: Told) -> Ended:
        """Apply what is left, until it is done, a stop is asked for, or an error comes that was not foreseen."""
        self._save(RUNNING)
        saved_s = started_s = time.monotonic()
        done_before = self._done
        for chunk in _staged(self._left(), pace):
            self._settle(chunk)
            told(len(chunk))
            if self._unforeseen is not None:
                return self._ended(STOPPED, self._unforeseen)
            if stop():
                return self._ended(PAUSED, None)
            if time.monotonic() - saved_s >= SAVE_EVERY_S:
                self._save(RUNNING)
                saved_s = time.monotonic()
            if pace.events_per_s is not None:
                ahead_s = (self._done - done_before) / pace.events_per_s - (time.monotonic() - started_s)
                time.sleep(max(0.0, ahead_s))
        return self._ended(FINISHED, None)

    def _left(self) -> Iterator[Record]:
        left = [
            dataclasses.replace(one, start=self._positions.get((one.topic, one.partition), one.start))
            for one in self._plan.spans
        ]
        return _selected(self._source.records, self._plan.selection, left)

    def _settle(self, chunk: Sequence[Record]) -> None:
        looked = look_up(self._replaying.target.known, chunk)
        self._counts[DUPLICATE] += sum(one.is_known for one in looked)
        fresh: list[Event] = []
        settled: list[Event] = []
        for one in looked:
            if one.is_known and not self._plan.force_rewrite:
                continue
            try:
                (settled if one.is_known else fresh).append(decoded(one.record, self._settings.record_bytes_max))
            except EventError:
                self._counts[UNREADABLE] += not one.is_known
        if fresh:
            clock = lambda: dt.datetime.now(dt.UTC)  # noqa: E731 - a value like the others
            parts = self._replaying
            for settlement in settle_events(parts.target, parts.marker, fresh, (), clock=clock):
                self._counted(settlement.outcome)
        if settled:
            repairs = differing(self._replaying.rehearsal, settled)
            wanted = [one for one in settled if one.key in repairs.differences and repairs.seqs[one.key] == one.seq]
            for outcome in rewrite_each(self._replaying.target, wanted).values():
                self._counts[DUPLICATE] -= 1
                self._counted(outcome, applied=REWRITE)
        for record in chunk:
            self._positions[record.topic, record.partition] = record.offset + 1
        self._done += len(chunk)

    def _counted(self, outcome: Outcome, applied: str = "applied") -> None:
        words = {Applied: applied, Duplicate: DUPLICATE, Stale: "stale", Waiting: "waiting", Failed: "failed"}
        self._counts[words[type(outcome)]] += 1
        if isinstance(outcome, Failed) and outcome.error_class.value not in self._foreseen and not self._unforeseen:
            self._unforeseen = f"{outcome.error_class.value}: {outcome.message}"

    def _ended(self, state: str, reason: str | None) -> Ended:
        self._save(state)
        return Ended(state, self._done, self._counts, reason)

    def _save(self, state: str) -> None:
        self._ledger.save(
            self._plan.plan_id,
            digest=self._plan.forecast.digest,
            state=state,
            events=len(self._plan.forecast.ids),
            done=self._done,
            positions=self._positions,
            counts=self._counts,
        )


def _selected(read: Records, selection: Selection, found: Sequence[Span]) -> Iterator[Record]:
    records = merged(read, found)
    if not selection.entity_ids and selection.is_whole:
        return records
    return (record for record in records if selection.matches(record))


def _staged(records: Iterator[Record], pace: Pace) -> Iterator[Sequence[Record]]:
    size = LOOKED_UP if pace.events_per_s is None else max(1, min(LOOKED_UP, int(pace.events_per_s)))
    for stage in CANARY if pace.canary else ():
        # Never more than one chunk: each stage is over before the next one begins.
        if first := next(chunks(records, stage), None):
            yield first
    yield from chunks(records, size)
