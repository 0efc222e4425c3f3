"""Somebody who sends events again at the command line, with what is remembered of it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

import typer

import consumer.bootstrap
from operations import resync_tables
from operations.config import OperationsSettings
from operations.deeds import Deed, remembered
from operations.engines import opened
from operations.errors import ResyncError
from operations.failures import FOUND
from operations.progress import bar
from operations.recovery_ledger import ABORTED, RUNNING, Hold, RecoveryLedger
from operations.resync import SLICE_ROWS, Ended, OutboxResync, begin, forget_signals, look
from operations.resync_checks import check_connector, check_group
from operations.resync_ledger import ResyncLedger, ResyncRun, Way
from operations.resync_selection import ResyncSelection
from operations.resync_throttle import Throttle
from operations.resync_view import ended_words, outbox_lines, tables_lines
from producer_app.bootstrap import build
from producer_app.config import AppSettings

COMMAND: Final = "resync"

EVENTS_PER_S: Final = 50.0


class Operator:
    """Somebody at the command line; everything that is done is remembered with name and reason."""

    def __init__(
        self,
        settings: OperationsSettings,
        rate: float = EVENTS_PER_S,
        slice_rows: int = SLICE_ROWS,
        *,
        why: str,
        as_json: bool,
    ) -> None:
        self._settings = settings
        self._slice_rows = slice_rows
        self._rate = rate
        self._why = why
        self._as_json = as_json
        self._actions = RecoveryLedger(settings)
        self.runs = ResyncLedger(settings)

    def say(self, words: str, mapping: dict[str, Any]) -> None:
        """Print for people, or for programs."""
        typer.echo(json.dumps(mapping, indent=2) if self._as_json else words)

    def is_under_way(self) -> bool:
        """Tell whether somebody is sending again right now."""
        return self._actions.is_held(COMMAND)

    def planned(
        self, way: Way, selection: ResyncSelection, *, is_answer: bool = False, is_part: bool = False
    ) -> ResyncRun:
        """Look, say what would be done, which may be the whole answer, and return a run that has not begun.

        Nothing is said when it is part of another command's work, which has its own answer.
        """
        counts: Counter[Any]
        place: dict[str, Any]
        if way is Way.OUTBOX:
            with opened(self._settings, "source_url") as engine:
                looked = look(engine, selection)
            counts, place = looked.counts, begin(looked)
            lines = "\n".join(outbox_lines(looked, self._rate))
        else:
            with opened(self._settings, "app_url") as engine:
                counts = resync_tables.look(engine, selection)
            place = {"entity_type": None, "after_id": ""}
            lines = "\n".join(tables_lines(counts, self._rate))
        run = ResyncRun(str(uuid.uuid4()), way, selection, RUNNING, counts.total(), 0, place, dt.datetime.now(dt.UTC))
        found = [{"what": key if isinstance(key, str) else list(key), "events": n} for key, n in sorted(counts.items())]
        if is_part:
            return run
        if is_answer or not run.events:
            self.say(lines, {"counts": found, "events": run.events, "seconds": round(run.events / self._rate, 1)})
        elif not self._as_json:
            typer.echo(lines)
        return run

    def go(self, run: ResyncRun, action: str) -> None:
        """Carry a run out, and say how it ended."""
        ended = self.carry_out(run, action)
        self.say(ended_words(ended, run), {**dataclasses.asdict(ended), "run_id": run.run_id, "events": run.events})
        if not ended.is_whole:
            raise typer.Exit(FOUND)

    def carry_out(self, run: ResyncRun, action: str) -> Ended:
        """Go on from where a run is, until it ends or somebody stops it.

        Raises:
            ResyncError: it could not even begin; nothing was changed.
        """
        self.check(run.way)
        with self._actions.alone(COMMAND) as hold, consumer.bootstrap.stop_signal() as stop:
            deed = Deed(stop.is_set, detail=f"{run.events} events: {run.way}")
            throttle = Throttle.of(self._settings, self._rate, stop.is_set)
            with (
                remembered(self._actions, COMMAND, run.run_id, deed, begun=action, why=self._why),
                bar("sending again", run.events, hidden=self._as_json) as told,
                self._way(run, throttle) as way,
            ):
                told(run.done)
                ended: Ended = way.carry_out(stop.is_set, _while_held(hold, told))
                deed.ended, deed.detail = ended.state, ended.reason or f"{ended.done} events"
        return ended

    def check(self, way: Way) -> None:
        """Raise ResyncError if a run of this way could not even begin."""
        check_group(self._settings)
        if way is Way.OUTBOX:
            check_connector(self._settings)

    def end(self, begun: ResyncRun | None, *, abort: bool) -> None:
        """Go on with the run that has begun, or give it up."""
        if begun is None:
            raise ResyncError("no resync has begun that has not ended")
        if abort:
            self._abort(begun)
        else:
            self.go(begun, "resumed")

    def _abort(self, run: ResyncRun) -> None:
        with self._actions.alone(COMMAND):
            if run.way is Way.OUTBOX:
                # The connector may have taken the signal up already; what it then sends is a duplicate.
                with opened(self._settings, "source_url") as engine:
                    forget_signals(engine)
            self.runs.save(dataclasses.replace(run, state=ABORTED))
            detail = f"{run.done} of {run.events} events"
            self._actions.note(COMMAND, run.run_id, ABORTED, why=self._why, detail=detail)
        self.say(f"given up; {detail} were sent, which does no harm", {"run": {**run_mapping(run), "state": ABORTED}})

    @contextlib.contextmanager
    def _way(self, run: ResyncRun, throttle: Throttle) -> Iterator[OutboxResync | resync_tables.TablesResync]:
        if run.way is Way.OUTBOX:
            with opened(self._settings, "source_url") as engine:
                yield OutboxResync(self._settings, self.runs, engine, run, throttle, slice_rows=self._slice_rows)
            return
        application = build(AppSettings.read())
        try:
            yield resync_tables.TablesResync(application, self.runs, run, throttle, portion=self._slice_rows)
        finally:
            application.close()


def _while_held(hold: Hold, told: Callable[[int], None]) -> Callable[[int], None]:
    def told_while_held(count: int) -> None:
        told(count)
        if not hold.is_held():
            raise ResyncError("the connection to OpenEMR's server that kept others from a resync was lost")

    return told_while_held


def run_mapping(run: ResyncRun) -> dict[str, Any]:
    """Return a run as JSON shows it."""
    return {
        "run_id": run.run_id,
        "way": run.way.value,
        "state": run.state,
        "events": run.events,
        "done": run.done,
        "selection": json.loads(run.selection.to_json()),
        "updated_at": run.updated_at.isoformat(),
    }
