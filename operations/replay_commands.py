"""The commands of `emrsync replay`: what a replay would do, doing it, giving it up, and what was done."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
import typer

import consumer.bootstrap
from connectors.outbox import EntityType, TargetSystem
from operations.bootstrap import wired_replay
from operations.config import OperationsSettings
from operations.errors import PlanChangedError, ReplayError, StoppedError
from operations.failures import FOUND, message
from operations.progress import bar
from operations.recovery_ledger import ABORTED, FINISHED, PAUSED, STOPPED, WHY_CHARACTERS_MAX, RecoveryLedger
from operations.replay import COMMAND, Ended, Replay, make_plan
from operations.replay_file import new_file, plan_text, read_plan
from operations.replay_pace import Pace
from operations.replay_plan import FAIL, UNREADABLE, WAIT, Plan
from operations.replay_selection import Selection
from operations.replay_sources import source_named
from operations.replay_view import ended_words, plan_lines, run_words

app = typer.Typer(no_args_is_help=True)

PlanFile = Annotated[Path, typer.Argument(help="The file that `replay plan` has written.")]
Why = Annotated[str, typer.Option("--why", help="Kept with your name for those who come later; no patient data.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ForceRewrite = Annotated[
    bool, typer.Option("--force-rewrite", help="Also write entities again whose rows differ from their newest event.")
]
Time = Annotated[dt.datetime | None, typer.Option(parser=dt.datetime.fromisoformat, metavar="TIME")]


@app.command()
def plan(
    *,
    entity_type: Annotated[list[EntityType] | None, typer.Option(help="Only these (repeatable).")] = None,
    entity_id: Annotated[list[str] | None, typer.Option(help="Only these entities (repeatable).")] = None,
    target: Annotated[TargetSystem | None, typer.Option(help="Only events for this target.")] = None,
    from_time: Time = None,
    to_time: Time = None,
    from_seq: Annotated[int | None, typer.Option(min=0, help="From this seq on.")] = None,
    to_seq: Annotated[int | None, typer.Option(min=0, help="Up to this seq.")] = None,
    partition: Annotated[int | None, typer.Option(min=0, help="Only this partition.")] = None,
    from_offset: Annotated[int | None, typer.Option(min=0, help="From this offset of the partition on.")] = None,
    to_offset: Annotated[int | None, typer.Option(min=0, help="Before this offset of the partition.")] = None,
    force_rewrite: ForceRewrite = False,
    archive: Annotated[str | None, typer.Option(help="Read this archive instead of the topics.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where the plan goes; replay-ID.json when left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a replay would do, and write the plan; nothing is changed. Exit code 1 when some events would fail."""
    selection = Selection(
        entity_types=tuple(entity_type or EntityType),
        entity_ids=tuple(entity_id or ()),
        target=target,
        since=from_time,
        until=to_time,
        seq_from=from_seq,
        seq_to=to_seq,
        partition=partition,
        offset_from=from_offset,
        offset_to=to_offset,
    )
    settings, plan_id = OperationsSettings.read(), str(uuid.uuid4())
    path = output or Path(f"replay-{plan_id}.json")
    with new_file(path) as write, _stoppable("stopped; nothing was changed, and no plan was written") as stop:
        source = source_named(settings, archive)
        with wired_replay() as parts, bar("looking", None, hidden=as_json) as told:
            made = make_plan(
                settings, parts, source, selection, plan_id=plan_id, force_rewrite=force_rewrite, stop=stop, told=told
            )
        write(plan_text(made))
        RecoveryLedger(settings).note(COMMAND, plan_id, "planned", detail=f"{len(made.forecast.ids)} events")
    if as_json:
        typer.echo(json.dumps(_mapping(made, path), indent=2))
    else:
        for line in plan_lines(made):
            typer.echo(line)
        typer.echo(f"plan: {path}; carry it out with `emrsync replay apply {path} --why ...`")
    if any(made.forecast.counts[fate] for fate in (FAIL, WAIT, UNREADABLE)):
        raise typer.Exit(FOUND)


@app.command()
def apply(
    plan_file: PlanFile,
    *,
    why: Why,
    canary: Annotated[bool, typer.Option("--canary", help="First 1, then 10, then 100 events, then the rest.")] = False,
    rate: Annotated[float | None, typer.Option(min=0.1, help="At most so many events a second.")] = None,
    as_json: AsJson = False,
) -> None:
    """Carry a plan out, or go on with it; exit code 1 when it was refused, paused or stopped."""
    reason = _reason(why)
    made = read_plan(plan_file)
    settings = OperationsSettings.read()
    ledger = RecoveryLedger(settings)
    events = len(made.forecast.ids)
    with (
        ledger.alone(made.plan_id) as hold,
        _stoppable("stopped while checking; nothing was changed since the last apply") as stop,
        wired_replay() as replaying,
    ):
        source = source_named(settings, made.source)
        replay = Replay(settings, replaying, source, made, ledger=ledger, hold=hold)
        try:
            with bar("checking", events, hidden=as_json) as told:
                before = replay.check(stop, told)
        except PlanChangedError as error:
            ledger.note(COMMAND, made.plan_id, "refused", why=reason, detail=str(error))
            raise
        ledger.note(COMMAND, made.plan_id, "started" if before is None else "resumed", why=reason)
        with bar("applying", events, hidden=as_json) as told:
            told(0 if before is None else before.done)
            ended = replay.apply(Pace(canary=canary, events_per_s=rate), stop, told)
        _note_end(ledger, made.plan_id, ended, reason)
    if as_json:
        counts = {word: count for word, count in ended.counts.items() if count}
        told_end = {"state": ended.state, "done": ended.done, "counts": counts, "reason": ended.reason}
        typer.echo(json.dumps(told_end, indent=2))
    else:
        typer.echo(ended_words(ended, events, plan_file))
    if ended.state in {PAUSED, STOPPED}:
        raise typer.Exit(FOUND)


@app.command()
def abort(plan_file: PlanFile, *, why: Why) -> None:
    """Give a plan up: it cannot be applied any more; what it has applied stays."""
    reason = _reason(why)
    made = read_plan(plan_file)
    ledger = RecoveryLedger(OperationsSettings.read())
    with ledger.alone(made.plan_id):
        before = ledger.run(made.plan_id)
        if before is not None and before.state in {FINISHED, ABORTED}:
            raise ReplayError(f"this plan is {before.state} already")
        done = 0 if before is None else before.done
        ledger.save(
            made.plan_id,
            digest=made.forecast.digest,
            state=ABORTED,
            events=len(made.forecast.ids),
            done=done,
            positions={} if before is None else before.positions,
            counts={} if before is None else before.counts,
        )
        ledger.note(COMMAND, made.plan_id, ABORTED, why=reason, detail=f"{done} events")
    typer.echo(f"given up; {done:,} of {len(made.forecast.ids):,} events were done, and stay so")


@app.command()
def show(plan_file: PlanFile, *, as_json: AsJson = False) -> None:
    """Say what a plan holds, how far it has come, and who did what, when and why."""
    made = read_plan(plan_file)
    ledger = RecoveryLedger(OperationsSettings.read())
    run, actions = ledger.run(made.plan_id), ledger.actions(COMMAND, made.plan_id, 100)
    under_way = ledger.is_held(made.plan_id)
    if as_json:
        counts = {} if run is None else dict(run.counts)
        state = None if run is None else {"state": run.state, "done": run.done, "counts": counts}
        history = [
            {"action": one.action, "operator": one.operator, "why": one.why, "detail": one.detail,
             "taken_at": one.taken_at.isoformat()}
            for one in actions
        ]  # fmt: skip
        shown = {**_mapping(made, plan_file), "run": state, "under_way": under_way, "actions": history}
        typer.echo(json.dumps(shown, indent=2))
        return
    for line in (*plan_lines(made), run_words(run, plan_file, under_way=under_way)):
        typer.echo(line)
    for one in reversed(actions):
        words = [f"{one.taken_at:%Y-%m-%d %H:%M:%S} {one.action} by {one.operator}", one.why or "", one.detail or ""]
        typer.echo(": ".join(word for word in words if word))


@contextlib.contextmanager
def _stoppable(words: str) -> Iterator[Callable[[], bool]]:
    """Give what tells whether a signal has come; a look that one stops ends with these words."""
    with consumer.bootstrap.stop_signal() as stop:
        try:
            yield stop.is_set
        except StoppedError:
            raise ReplayError(words) from None


def _note_end(ledger: RecoveryLedger, plan_id: str, ended: Ended, why: str) -> None:
    try:
        ledger.note(COMMAND, plan_id, ended.state, why=why, detail=ended.reason or f"{ended.done} events")
    except sa.exc.DBAPIError as error:
        # How it ended is still to be told, and mostly just this is why.
        typer.echo(f"! the end could not be noted in the ledger: {message(error)}", err=True)


def _reason(why: str) -> str:
    reason = why.strip()
    if not reason or len(reason) > WHY_CHARACTERS_MAX:
        raise ReplayError(f"--why: takes 1 to {WHY_CHARACTERS_MAX} characters")
    return reason


def _mapping(made: Plan, path: Path) -> dict[str, Any]:
    return {
        "plan": str(path),
        "plan_id": made.plan_id,
        "events": len(made.forecast.ids),
        "digest": made.forecast.digest,
        "counts": {fate: count for fate, count in made.forecast.counts.items() if count},
        "failures": [
            {"error_class": error_class, "message": message, "events": count}
            for (error_class, message), count in made.forecast.failures.most_common()
        ],
        "sample": [
            {"entity_type": entity_type, "entity_id": entity_id, "new": columns is None, "columns": columns or ()}
            for (entity_type, entity_id), columns in made.forecast.sample.items()
        ],
        "limits_hit": list(made.limits_hit),
        "estimate_s": round(made.estimate_s, 1),
    }
