"""The command `emrsync sweep`: rows that got lost on the way."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Iterator
from typing import Annotated

import typer

from operations.bootstrap import wired_replay
from operations.config import OperationsSettings
from operations.errors import SweepError
from operations.failures import FOUND
from operations.progress import bar
from operations.recovery_ledger import RecoveryLedger
from operations.resync import Ended
from operations.resync_ledger import Way
from operations.resync_operator import Operator
from operations.resync_selection import ResyncSelection
from operations.resync_view import ended_words, open_words
from operations.sweep import EXPLAINED, LOST, UNMARKED, Sweep, Swept

SENT_AGAIN_MAX = 20_000
"""Their numbers stand in one statement, and in one row of the ledger."""


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
    """Say what old pending rows are, and with --apply settle the lost ones; exit code 1 when some are (left) lost."""
    if apply and not why.strip():
        raise SweepError("--why: say why, for those who come later")
    settings = OperationsSettings.read()
    ledger = RecoveryLedger(settings)
    outcomes: Counter[str] = Counter()
    with ledger.alone("sweep"), wired_replay() as parts:
        sweep = Sweep(settings, parts)
        swept = sweep.look(dt.timedelta(minutes=older_than), unread_too=unread_too)
        ids = swept.unmarked if through_connector else swept.ids
        if apply and ids:
            with bar("settling", len(ids), hidden=as_json) as told:
                outcomes = sweep.settle(ids, told)
            ledger.note("sweep", settings.consumer_group, "settled", why=why.strip(), detail=_words(outcomes))
    sent = _sent_again(settings, swept, why.strip(), as_json=as_json) if apply and through_connector else None
    if as_json:
        found = {"counts": dict(swept.counts), "settled": dict(outcomes)}
        typer.echo(json.dumps(found if sent is None else {**found, "sent_again": sent.done}, indent=2))
    else:
        for line in _lines(swept, outcomes, older_than, is_done=apply):
            typer.echo(line)
    if sent is not None and not sent.is_whole:
        raise typer.Exit(FOUND)
    if (swept.counts[LOST] or swept.counts[UNMARKED]) and (not apply or outcomes["failed"]):
        raise typer.Exit(FOUND)


def _sent_again(settings: OperationsSettings, swept: Swept, why: str, *, as_json: bool) -> Ended | None:
    if not swept.lost_seqs:
        return None
    if len(swept.lost_seqs) > SENT_AGAIN_MAX:
        raise SweepError(f"more than {SENT_AGAIN_MAX} rows are lost: leave --through-connector out")
    operator = Operator(settings, why=why, as_json=as_json)
    if (begun := operator.runs.open_run()) is not None:
        raise SweepError(open_words(begun))
    run = operator.planned(Way.OUTBOX, ResyncSelection(seqs=swept.lost_seqs), is_answer=False)
    ended = operator.carry_out(run, "started")
    if not as_json:
        typer.echo(ended_words(ended, run))
    return ended


def _lines(swept: Swept, outcomes: Counter[str], older_than: float, *, is_done: bool) -> Iterator[str]:
    for what, explained in EXPLAINED.items():
        if swept.counts[what]:
            yield f"{swept.counts[what]:>9,} {what:<8} {explained}"
    if not swept.counts:
        yield f"no row is pending for more than {older_than:g} minutes"
    elif outcomes:
        yield f"settled: {_words(outcomes)}"
    elif swept.ids and not is_done:
        yield f"to be settled by `emrsync sweep --apply --why ...`: {_words(swept.by_entity)}"


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()) if count)
