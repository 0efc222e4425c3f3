"""The command `emrsync purge`: what is done, confirmed and kept elsewhere leaves the outbox, and then the ledger."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from typing import Annotated

import typer

from operations.bootstrap import wired_replay
from operations.config import OperationsSettings
from operations.engines import opened
from operations.errors import PurgeError
from operations.progress import bar
from operations.purge import OutboxPurge, purge_ledger
from operations.recovery_ledger import RecoveryLedger
from operations.replay_sources import source_named


def command(
    *,
    older_than: Annotated[int, typer.Option(min=0, help="Rows that are done for so many days.")] = 30,
    archive: Annotated[str | None, typer.Option(help="What must hold them; the topics when left out.")] = None,
    ledger_older_than: Annotated[
        int | None, typer.Option(min=0, help="Also settled events of the ledger, after so many days.")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Remove them; else only count.")] = False,
    why: Annotated[str, typer.Option("--why", help="Kept with your name for those who come later.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Count, or with --apply remove, outbox rows that are done, confirmed by the ledger and held elsewhere."""
    if apply and not why.strip():
        raise PurgeError("--why: say why, for those who come later")
    if ledger_older_than is not None and ledger_older_than < older_than:
        raise PurgeError("--ledger-older-than: the ledger must know events at least as long as the outbox does")
    settings = OperationsSettings.read()
    names = ["source_admin_url", *(["openemr_admin_url"] if ledger_older_than is not None else [])]
    settings.check(*names)
    ledger, now = RecoveryLedger(settings), dt.datetime.now(dt.UTC)
    ledger_rows = None
    with (
        contextlib.ExitStack() as held,
        ledger.alone("purge"),
        wired_replay() as parts,
    ):
        engine = held.enter_context(opened(settings, "source_admin_url"))
        purge = OutboxPurge(
            settings, parts.target, engine, source_named(settings, archive), before=now - dt.timedelta(days=older_than)
        )
        with bar("purging", None, hidden=as_json) as told:
            purged = purge.carry_out(dry_run=not apply, told=told)
            if ledger_older_than is not None:
                admin = held.enter_context(opened(settings, "openemr_admin_url"))
                before = now - dt.timedelta(days=ledger_older_than)
                ledger_rows = purge_ledger(admin, settings, before, dry_run=not apply, told=told)
        if apply:
            detail = f"{purged.rows} rows, {ledger_rows or 0} of the ledger"
            ledger.note("purge", settings.consumer_group, "removed", why=why.strip(), detail=detail)
    if as_json:
        found = {"removed": apply, "rows": purged.rows, "kept": purged.kept, "ledger_rows": ledger_rows}
        typer.echo(json.dumps(found, indent=2))
        return
    done = "removed" if apply else "would be removed (--apply does it)"
    typer.echo(
        f"{purged.rows:,} outbox rows {done}; {purged.kept:,} old ones stay: not confirmed, or not held elsewhere"
    )
    if ledger_rows is not None:
        typer.echo(f"{ledger_rows:,} settled events of the ledger {done}")
