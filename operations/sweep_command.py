"""The command `emrsync sweep`: rows that got lost on the way."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from typing import Annotated

import typer

from operations.bootstrap import wired_replay
from operations.config import OperationsSettings
from operations.errors import SweepError
from operations.failures import FOUND
from operations.progress import bar
from operations.recovery_ledger import RecoveryLedger
from operations.sweep import EXPLAINED, LOST, UNMARKED, Sweep


def command(
    *,
    older_than: Annotated[float, typer.Option(min=0, help="Only rows that are pending for so many minutes.")] = 60.0,
    apply: Annotated[bool, typer.Option("--apply", help="Settle what is lost or was never marked.")] = False,
    unread_too: Annotated[
        bool, typer.Option("--unread-too", help="Also what the connector has not sent, such as after a lost slot.")
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
        if apply and swept.ids:
            with bar("settling", len(swept.ids), hidden=as_json) as told:
                outcomes = sweep.settle(swept, told)
            ledger.note("sweep", settings.consumer_group, "settled", why=why.strip(), detail=_words(outcomes))
    if as_json:
        found = {"counts": dict(swept.counts), "settled": dict(outcomes)}
        typer.echo(json.dumps(found, indent=2))
    else:
        for what, explained in EXPLAINED.items():
            if swept.counts[what]:
                typer.echo(f"{swept.counts[what]:>9,} {what:<8} {explained}")
        if not swept.counts:
            typer.echo(f"no row is pending for more than {older_than:g} minutes")
        elif outcomes:
            typer.echo(f"settled: {_words(outcomes)}")
        elif swept.ids:
            typer.echo(f"to be settled by `emrsync sweep --apply --why ...`: {_words(swept.by_entity)}")
    if (swept.counts[LOST] or swept.counts[UNMARKED]) and (not apply or outcomes["failed"]):
        raise typer.Exit(FOUND)


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()) if count)
