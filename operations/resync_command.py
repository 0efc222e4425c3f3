"""The command `emrsync resync`: what the outbox or the application's tables hold is sent again."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

import sqlalchemy as sa
import typer

import consumer.bootstrap
from connectors.outbox import EntityType, Status
from operations import resync_tables
from operations.config import OperationsSettings
from operations.errors import ResyncError
from operations.failures import FOUND
from operations.progress import bar
from operations.recovery_ledger import ABORTED, FINISHED, PAUSED, RUNNING, STOPPED, WHY_CHARACTERS_MAX, RecoveryLedger
from operations.resync import SLICE_ROWS, Ended, OutboxResync, look
from operations.resync_checks import check_connector, check_group
from operations.resync_ledger import ResyncLedger, ResyncRun, Way
from operations.resync_selection import ResyncSelection
from operations.resync_throttle import Throttle
from operations.resync_view import ended_words, open_words, outbox_lines, tables_lines
from producer_app.bootstrap import build
from producer_app.config import AppSettings

COMMAND = "resync"

EVENTS_PER_S = 400.0

Time = Annotated[dt.datetime | None, typer.Option(parser=dt.datetime.fromisoformat, metavar="TIME")]


def command(
    *,
    entity_type: Annotated[list[EntityType] | None, typer.Option(help="Only these (repeatable).")] = None,
    entity_id: Annotated[list[str] | None, typer.Option(help="Only these entities (repeatable).")] = None,
    status: Annotated[list[Status] | None, typer.Option(help="Only rows that say so now (repeatable).")] = None,
    from_time: Time = None,
    to_time: Time = None,
    from_seq: Annotated[int | None, typer.Option(min=0, help="Only rows from this seq on.")] = None,
    to_seq: Annotated[int | None, typer.Option(min=0, help="Only rows up to this seq.")] = None,
    from_tables: Annotated[
        bool, typer.Option("--from-tables", help="Entities without a row in the outbox, from the application's tables.")
    ] = False,
    every: Annotated[bool, typer.Option("--every", help="From the tables: also entities with a row.")] = False,
    rate: Annotated[float, typer.Option(min=1, help="At most so many events a second.")] = EVENTS_PER_S,
    slice_rows: Annotated[
        int, typer.Option("--slice", min=1, max=1_000, help="Rows at once: fewer, and live events wait less.")
    ] = SLICE_ROWS,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; else only say what would be done.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the resync that has not ended.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="Give that resync up.")] = False,
    why: Annotated[str, typer.Option("--why", help="Kept with your name for those who come later.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say what a resync would send again, and with --apply do it; exit code 1 when one has not come to its end."""
    _check(from_tables=from_tables, every=every, of_rows=bool(status) or from_seq is not None or to_seq is not None)
    _check_deed(apply + resume + abort, why.strip())
    selection = ResyncSelection(
        entity_types=tuple(entity_type or ()),
        entity_ids=tuple(entity_id or ()),
        statuses=tuple(status or ()),
        since=from_time,
        until=to_time,
        seq_from=from_seq,
        seq_to=to_seq,
        every=every,
    )
    operator = _Operator(OperationsSettings.read(), rate, slice_rows, why.strip(), as_json=as_json)
    begun = operator.runs.open_run()
    if abort or resume:
        if begun is None:
            raise ResyncError("no resync has begun that has not ended")
        operator.abort(begun) if abort else operator.go(begun, "resumed")
        return
    if begun is not None:
        operator.say(open_words(begun), {"run": _mapping(begun)})
        if apply:
            raise ResyncError("go on with that one, or give it up, before another begins")
        raise typer.Exit(FOUND)
    run = operator.planned(Way.TABLES if from_tables else Way.OUTBOX, selection, is_answer=not apply)
    if apply and run.events:
        operator.go(run, "started")


class _Operator:
    """Somebody at the command line; everything that is done is remembered with name and reason."""

    def __init__(self, settings: OperationsSettings, rate: float, slice_rows: int, why: str, *, as_json: bool) -> None:
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

    def planned(self, way: Way, selection: ResyncSelection, *, is_answer: bool) -> ResyncRun:
        """Look, say what would be done, which may be the whole answer, and return a run that has not begun."""
        counts: Counter[Any]
        place: dict[str, Any]
        if way is Way.OUTBOX:
            with _engine(self._settings, "source_url") as engine:
                looked = look(engine, selection)
            counts, place = looked.counts, {"after_seq": -1, "last_seq": looked.seq_last, "slice": None}
            lines = "\n".join(outbox_lines(looked, self._rate))
        else:
            with _engine(self._settings, "app_url") as engine:
                counts = resync_tables.look(engine, selection)
            place = {"entity_type": None, "after_id": ""}
            lines = "\n".join(tables_lines(counts, self._rate))
        run = ResyncRun(str(uuid.uuid4()), way, selection, RUNNING, counts.total(), 0, place, dt.datetime.now(dt.UTC))
        found = [{"what": key if isinstance(key, str) else list(key), "events": n} for key, n in sorted(counts.items())]
        if is_answer or not run.events:
            self.say(lines, {"counts": found, "events": run.events, "seconds": round(run.events / self._rate, 1)})
        elif not self._as_json:
            typer.echo(lines)
        return run

    def go(self, run: ResyncRun, action: str) -> None:
        """Carry a run out, from where it is, until it ends or somebody stops it."""
        check_group(self._settings)
        if run.way is Way.OUTBOX:
            check_connector(self._settings)
        with self._actions.alone(COMMAND), consumer.bootstrap.stop_signal() as stop:
            self._actions.note(COMMAND, run.run_id, action, why=self._why, detail=f"{run.events} events: {run.way}")
            throttle = Throttle.of(self._settings, self._rate, stop.is_set)
            with bar("sending again", run.events, hidden=self._as_json) as told, self._way(run, throttle) as way:
                told(run.done)
                ended: Ended = way.carry_out(stop.is_set, told)
            detail = ended.reason or f"{ended.done} events"
            self._actions.note(COMMAND, run.run_id, ended.state, why=self._why, detail=detail)
        told_end = {**dataclasses.asdict(ended), "run_id": run.run_id, "events": run.events}
        self.say(ended_words(ended, run), told_end)
        if ended.state in {PAUSED, STOPPED} or (ended.state == FINISHED and ended.reason):
            raise typer.Exit(FOUND)

    def abort(self, run: ResyncRun) -> None:
        """Give a run up; what it has sent stays sent."""
        with self._actions.alone(COMMAND):
            self.runs.save(dataclasses.replace(run, state=ABORTED))
            detail = f"{run.done} of {run.events} events"
            self._actions.note(COMMAND, run.run_id, ABORTED, why=self._why, detail=detail)
        self.say(f"given up; {detail} were sent, which does no harm", {"run": {**_mapping(run), "state": ABORTED}})

    @contextlib.contextmanager
    def _way(self, run: ResyncRun, throttle: Throttle) -> Iterator[OutboxResync | resync_tables.TablesResync]:
        if run.way is Way.OUTBOX:
            with _engine(self._settings, "source_url") as engine:
                yield OutboxResync(self._settings, self.runs, engine, run, throttle, slice_rows=self._slice_rows)
            return
        application = build(AppSettings.read())
        try:
            yield resync_tables.TablesResync(application, self.runs, run, throttle, portion=self._slice_rows)
        finally:
            application.close()


def _check(*, from_tables: bool, every: bool, of_rows: bool) -> None:
    if every and not from_tables:
        raise ResyncError("--every: goes with --from-tables")
    if from_tables and of_rows:
        raise ResyncError("--status, --from-seq and --to-seq are about rows of the outbox, not about tables")


def _check_deed(deeds: int, why: str) -> None:
    if deeds > 1:
        raise ResyncError("--apply, --resume and --abort exclude each other")
    if deeds and not 0 < len(why) <= WHY_CHARACTERS_MAX:
        raise ResyncError(f"--why: say why, in 1 to {WHY_CHARACTERS_MAX} characters")


@contextlib.contextmanager
def _engine(settings: OperationsSettings, name: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(settings.database_url(name), hide_parameters=True, pool_pre_ping=True)
    try:
        yield engine
    finally:
        engine.dispose()


def _mapping(run: ResyncRun) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "way": run.way.value,
        "state": run.state,
        "events": run.events,
        "done": run.done,
        "selection": json.loads(run.selection.to_json()),
        "updated_at": run.updated_at.isoformat(),
    }
