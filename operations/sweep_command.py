"""The command `emrsync sweep`: rows that got lost on the way."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

import consumer.bootstrap
from operations.bootstrap import wired_replay
from operations.config import OperationsSettings
from operations.deeds import STOPPED, Deed, remembered
from operations.errors import SweepError
from operations.failures import FOUND
from operations.progress import bar
from operations.recovery_ledger import PAUSED, RecoveryLedger
from operations.resync import Ended
from operations.resync_ledger import ResyncRun, Way
from operations.resync_operator import Operator
from operations.resync_selection import ResyncSelection
from operations.resync_view import ended_words, open_words
from operations.sweep import EXPLAINED, LOST, UNMARKED, UNREAD, Sweep, Swept

COMMAND: Final = "sweep"

SENT_AGAIN_MAX: Final = 20_000
"""Their numbers stand in one statement, and in one row of the ledger."""

TOLD_MAX: Final = 10
"""Rows that people are told one by one; JSON has all of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Wanted:
    """What is asked for."""

    older_than: dt.timedelta
    apply: bool
    unread_too: bool
    through_connector: bool
    why: str
    as_json: bool


@dataclasses.dataclass(slots=True)
class _Done:
    """What has become of the rows; run and ended are of the resync that sends lost ones again, None without one."""

    outcomes: Counter[str] = dataclasses.field(default_factory=Counter)
    run: ResyncRun | None = None
    ended: Ended | None = None


def command(
    *,
    older_than: Annotated[float, typer.Option(min=0, help="Only rows that are pending for so many minutes.")] = 60.0,
    apply: Annotated[bool, typer.Option("--apply", help="Settle what is lost or was never marked.")] = False,
    unread_too: Annotated[
        bool, typer.Option("--unread-too", help="Also what the connector has not sent, such as after a lost slot.")
    ] = False,
    through_connector: Annotated[
        bool, typer.Option("--through-connector", help="Let the connector send what is lost again.")
    ] = False,
    why: Annotated[str, typer.Option("--why", help="Kept with your name for those who come later.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say what old pending rows are, and with --apply settle the lost ones; exit code 1 when some are (left) over."""
    if apply and not why.strip():
        raise SweepError("--why: say why, for those who come later")
    if through_connector and not apply:
        raise SweepError("--through-connector: goes with --apply, which it carries out in another way")
    settings = OperationsSettings.read()
    wanted = _Wanted(dt.timedelta(minutes=older_than), apply, unread_too, through_connector, why.strip(), as_json)
    ledger = RecoveryLedger(settings)
    done = _Done()
    with consumer.bootstrap.stop_signal() as stop, ledger.alone(COMMAND), wired_replay() as parts:
        deed = Deed(stop.is_set, "settled")
        sweep = Sweep(settings, parts, stop.is_set)
        swept = sweep.look(wanted.older_than, unread_too=unread_too, rows_max=None if as_json else TOLD_MAX)
        if apply and swept.ids:
            _carry_out(settings, wanted, done, sweep=sweep, swept=swept, deed=deed, ledger=ledger)
    stopped = deed.ended == STOPPED
    if as_json:
        typer.echo(json.dumps(_mapping(swept, done, stopped=stopped), indent=2))
    else:
        for line in _lines(wanted, swept, done, stopped=stopped):
            typer.echo(line)
    left = swept.counts[UNREAD] and not (apply and unread_too)
    unsettled = (swept.counts[LOST] or swept.counts[UNMARKED]) and not apply
    unsent = done.ended is not None and not done.ended.is_whole
    if left or unsettled or unsent or stopped or done.outcomes["failed"]:
        raise typer.Exit(FOUND)


def _carry_out(
    settings: OperationsSettings,
    wanted: _Wanted,
    done: _Done,
    *,
    sweep: Sweep,
    swept: Swept,
    deed: Deed,
    ledger: RecoveryLedger,
) -> None:
    operator = _operator(settings, wanted, swept) if wanted.through_connector and swept.lost_seqs else None
    ids = swept.unmarked if wanted.through_connector else swept.ids
    deed.detail = f"{len(ids)} rows to settle, {len(swept.ids) - len(ids)} to send again"
    with remembered(ledger, COMMAND, settings.consumer_group, deed, why=wanted.why):
        with bar("settling", len(ids), hidden=wanted.as_json) as told:
            for count, outcomes in sweep.settle(ids):
                told(count)
                done.outcomes.update(outcomes)
                deed.detail = _words(done.outcomes)
                if deed.is_stopped():
                    return
        if operator is not None and not deed.is_stopped():
            done.run = operator.planned(Way.OUTBOX, ResyncSelection(seqs=swept.lost_seqs), is_part=True)
            done.ended = operator.carry_out(done.run, "started")
            if done.ended.state == PAUSED:
                deed.ended = STOPPED
            sent = f"{done.ended.done} sent again by resync {done.run.run_id}"
            deed.detail = f"{deed.detail}; {sent}" if deed.detail else sent


def _operator(settings: OperationsSettings, wanted: _Wanted, swept: Swept) -> Operator:
    """Make sure that the connector can send rows again before anything is changed."""
    if len(swept.lost_seqs) > SENT_AGAIN_MAX:
        raise SweepError(f"more than {SENT_AGAIN_MAX} rows are lost: leave --through-connector out")
    operator = Operator(settings, why=wanted.why, as_json=wanted.as_json)
    if (begun := operator.runs.open_run()) is not None:
        raise SweepError(open_words(begun))
    operator.check(Way.OUTBOX)
    return operator


def _mapping(swept: Swept, done: _Done, *, stopped: bool) -> dict[str, Any]:
    rows = [
        {
            "outbox_id": str(one.outbox_id),
            "entity_type": one.entity_type,
            "entity_id": one.entity_id,
            "created_at": one.created_at.isoformat(),
            "cause": one.cause,
        }
        for one in swept.rows
    ]
    found = {"counts": dict(swept.counts), "settled": dict(done.outcomes), "stopped": stopped, "rows": rows}
    return found if done.ended is None else {**found, "sent_again": done.ended.done}


def _lines(wanted: _Wanted, swept: Swept, done: _Done, *, stopped: bool) -> Iterator[str]:
    if not swept.counts:
        yield f"no row is pending for more than {wanted.older_than.total_seconds() / 60:g} minutes"
    for what, explained in EXPLAINED.items():
        if swept.counts[what]:
            yield f"{swept.counts[what]:>9,} {what:<8} {explained}"
    now = dt.datetime.now(dt.UTC)
    for one in swept.rows:
        minutes = (now - one.created_at).total_seconds() / 60
        yield f"  {one.outbox_id} {one.entity_type} {one.entity_id}: {one.cause}, pending for {minutes:,.0f} minutes"
    others = sum(swept.counts[what] for what in (LOST, UNMARKED, UNREAD)) - len(swept.rows)
    if others > 0:
        yield f"  and {others:,} more; --json names them all"
    if done.outcomes:
        yield f"settled: {_words(done.outcomes)}"
    elif swept.ids and not wanted.apply:
        yield f"to be settled by `emrsync sweep --apply --why ...`: {_words(swept.by_entity)}"
    if done.ended is not None and done.run is not None:
        yield ended_words(done.ended, done.run)
    elif stopped:
        yield "stopped before the end; the same command goes on with what is left"


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()) if count)
