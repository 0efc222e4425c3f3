"""Carries out a replay's plan: checked again, in stages, resumable, and stopped at the first error nobody foresaw."""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import sqlalchemy as sa

from connectors.events import Event, EventError
from consumer.outcome import Applied, Duplicate, Failed, Outcome, Stale, Waiting
from consumer.ports import Record
from consumer.settle import settle_events
from operations.archive import ArchiveSource
from operations.bootstrap import Replaying
from operations.config import OperationsSettings
from operations.errors import ReplayError, StoppedError
from operations.failures import KNOWN, message
from operations.record_source import Span, TopicSource, merged
from operations.recovery_ledger import ABORTED, FINISHED, PAUSED, RUNNING, STOPPED, Hold, Place, RecoveryLedger, Run
from operations.replay_forecast import (
    LOOKED_UP,
    REHEARSED,
    Forecaster,
    chunks,
    decoded,
    differing,
    look_up,
    raw_id,
    rewrite_each,
)
from operations.replay_pace import Brake, Pace, staged, until
from operations.replay_plan import DUPLICATE, REWRITE, UNREADABLE, Forecast, Plan, check_fates, check_set
from operations.replay_selection import Selection, limits_hit, spans

SAVE_EVERY_S: Final = 0.5
"""Less than a chunk takes at any rate below 500 a second, so that what is shown is at most one chunk behind."""

_LOST: Final = "the connection to OpenEMR's server that kept others from this plan was lost"

COMMAND: Final = "replay"

Told = Callable[[int], None]
Stop = Callable[[], bool]
Source = TopicSource | ArchiveSource


def make_plan(
    settings: OperationsSettings,
    replaying: Replaying,
    source: Source,
    selection: Selection,
    *,
    plan_id: str,
    force_rewrite: bool,
    stop: Stop,
    told: Told,
) -> Plan:
    """Look at what a selection meets now; nothing is changed.

    Raises:
        StoppedError: a stop was asked for.
    """
    kept = source.kept(selection.entity_types)
    found = spans(selection, source, kept)
    started_s = time.monotonic()
    records = _selected(source, selection, found, stop)
    forecast = look(settings, replaying, records, force_rewrite=force_rewrite, told=told)
    return Plan(
        plan_id=plan_id,
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
    settings: OperationsSettings, replaying: Replaying, records: Iterator[Record], *, force_rewrite: bool, told: Told
) -> Forecast:
    """Rehearse events."""
    forecaster = Forecaster(replaying.rehearsal, force_rewrite=force_rewrite, value_bytes_max=settings.record_bytes_max)
    for chunk in chunks(records, LOOKED_UP):
        forecaster.add(chunk)
        told(len(chunk))
    return forecaster.result()


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """How an apply ended: its state, what became of the events of all its runs so far, and why it stopped."""

    state: str
    done: int
    counts: Counter[str]
    reason: str | None


class Replay:
    """One run of an apply; hold keeps others from the same plan."""

    def __init__(
        self,
        settings: OperationsSettings,
        replaying: Replaying,
        source: Source,
        plan: Plan,
        *,
        ledger: RecoveryLedger,
        hold: Hold,
    ) -> None:
        self._settings = settings
        self._replaying = replaying
        self._source = source
        self._plan = plan
        self._ledger = ledger
        self._hold = hold
        self._positions: dict[Place, int] = {(one.topic, one.partition): one.start for one in plan.spans}
        self._counts: Counter[str] = Counter()
        self._done = 0
        self._doing = frozenset(plan.forecast.fates)
        self._foreseen = {error_class for error_class, _ in plan.forecast.failures}
        self._unforeseen: str | None = None

    def check(self, stop: Stop, told: Told) -> Run | None:
        """Look again at what is left before anything is changed; return how far an earlier run came.

        Raises:
            PlanChangedError: what the plan says is so no more.
            StoppedError: a stop was asked for.
            ReplayError: the plan was applied, or given up.
        """
        before = self._ledger.run(self._plan.plan_id)
        if before is not None and before.state in {FINISHED, ABORTED}:
            raise ReplayError(f"this plan is {before.state}; plan again")
        if before is not None:
            self._positions.update(before.positions)
            self._counts, self._done = Counter(before.counts), before.done
        plan = self._plan
        now = look(self._settings, self._replaying, self._left(stop), force_rewrite=plan.force_rewrite, told=told)
        check_set(plan, now, done=self._done)
        check_fates(plan, now, done=self._done, begun=before is not None)
        self._doing = frozenset(now.fates)
        return before

    def apply(self, pace: Pace, stop: Stop, told: Told) -> Ended:
        """Apply what is left, until it is done, a stop is asked for, or an error comes that was not foreseen.

        A system that is away, or refuses, ends it as paused, with the reason.
        """
        try:
            try:
                return self._carry_out(pace, stop, told)
            except StoppedError:
                return self._ended(PAUSED, None)
        except KNOWN as error:
            return self._interrupted(message(error))

    def _carry_out(self, pace: Pace, stop: Stop, told: Told) -> Ended:
        self._save(RUNNING)
        if not self._doing:
            return self._passed_over(told)
        saved_s = seen_s = time.monotonic()
        brake = Brake(pace.events_per_s, stop)
        for chunk in staged(self._left(stop), pace, lambda record: self._plan.writes(raw_id(record))):
            brake.wait(len(chunk))
            if stop():
                return self._ended(PAUSED, None)
            if time.monotonic() - seen_s >= SAVE_EVERY_S:
                if not self._hold.is_held():
                    return self._interrupted(_LOST)
                seen_s = time.monotonic()
            self._settle(chunk)
            told(len(chunk))
            if self._unforeseen is not None:
                return self._ended(STOPPED, self._unforeseen)
            if time.monotonic() - saved_s >= SAVE_EVERY_S:
                self._save(RUNNING)
                saved_s = time.monotonic()
        return self._ended(FINISHED, None)

    def _passed_over(self, told: Told) -> Ended:
        """End at once where the check has found every event settled: what is settled stays so."""
        left = len(self._plan.forecast.ids) - self._done
        self._positions.update({(one.topic, one.partition): one.end for one in self._plan.spans})
        self._counts[DUPLICATE] += left
        self._done += left
        told(left)
        return self._ended(FINISHED, None)

    def _left(self, stop: Stop) -> Iterator[Record]:
        left = [
            dataclasses.replace(one, start=self._positions.get((one.topic, one.partition), one.start))
            for one in self._plan.spans
        ]
        return _selected(self._source, self._plan.selection, left, stop)

    def _settle(self, chunk: Sequence[Record]) -> None:
        doing = [record for record in chunk if raw_id(record) in self._doing]
        looked = look_up(self._replaying.target.known, doing)
        # Of a chunk that is interrupted nothing counts: it comes again, and what it has settled is duplicate then.
        counts = Counter({DUPLICATE: len(chunk) - len(doing) + sum(one.is_known for one in looked)})
        fresh: list[Event] = []
        settled: list[Event] = []
        for one in looked:
            if one.is_known and not self._plan.force_rewrite:
                continue
            try:
                (settled if one.is_known else fresh).append(decoded(one.record, self._settings.record_bytes_max))
            except EventError:
                counts[UNREADABLE] += not one.is_known
        if fresh:
            clock = lambda: dt.datetime.now(dt.UTC)  # noqa: E731 - a value like the others
            parts = self._replaying
            for settlement in settle_events(parts.target, parts.marker, fresh, (), clock=clock):
                self._count(counts, settlement.outcome)
        for start in range(0, len(settled), REHEARSED):
            self._repair(settled[start : start + REHEARSED], counts)
        self._counts.update(counts)
        for record in chunk:
            self._positions[record.topic, record.partition] = record.offset + 1
        self._done += len(chunk)

    def _repair(self, settled: Sequence[Event], counts: Counter[str]) -> None:
        repairs = differing(self._replaying.rehearsal, settled)
        wanted = [one for one in settled if one.key in repairs.differences and repairs.seqs[one.key] == one.seq]
        for outcome in rewrite_each(self._replaying.target, wanted).values():
            counts[DUPLICATE] -= 1
            self._count(counts, outcome, applied=REWRITE)

    def _count(self, counts: Counter[str], outcome: Outcome, applied: str = "applied") -> None:
        words = {Applied: applied, Duplicate: DUPLICATE, Stale: "stale", Waiting: "waiting", Failed: "failed"}
        counts[words[type(outcome)]] += 1
        if isinstance(outcome, Failed) and outcome.error_class.value not in self._foreseen and not self._unforeseen:
            self._unforeseen = f"{outcome.error_class.value}: {outcome.message}"

    def _interrupted(self, reason: str) -> Ended:
        """End as paused, as far as the ledger still takes it: it may be what is away."""
        try:
            # Somebody else may be at the plan by now, and further.
            if self._hold.is_held():
                self._save(PAUSED)
        except sa.exc.DBAPIError as error:
            reason = f"{reason} (and the end is not noted: {message(error)})"
        return Ended(PAUSED, self._done, self._counts, reason)

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


def _selected(source: Source, selection: Selection, found: Sequence[Span], stop: Stop) -> Iterator[Record]:
    records = until(stop, merged(source.records, found))
    if not selection.entity_ids and selection.is_whole:
        return records
    return (record for record in records if selection.matches(record))
