"""The command `emrsync purge`: what is done, confirmed and kept elsewhere leaves the outbox, and then the ledger."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
from typing import Annotated, Final

import typer

import consumer.bootstrap
from operations.bootstrap import wired_replay
from operations.config import OperationsSettings
from operations.deeds import STOPPED, Deed, remembered
from operations.engines import opened
from operations.errors import PurgeError
from operations.failures import FOUND
from operations.progress import bar
from operations.purge import OutboxPurge, ledger_portions
from operations.record_source import TopicSource
from operations.recovery_ledger import RecoveryLedger
from operations.replay_sources import source_named

COMMAND: Final = "purge"


@dataclasses.dataclass(frozen=True, slots=True)
class _Wanted:
    """What is asked for; ages in days."""

    older_than: int
    archive: str | None
    ledger_older_than: int | None
    apply: bool
    why: str
    as_json: bool


@dataclasses.dataclass(slots=True)
class _Purged:
    """How many rows were, or in a dry run would be, removed so far; kept: old done ones that stay, None if stopped."""

    rows: int = 0
    kept: int | None = None
    ledger_rows: int | None = None


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
    if archive == TopicSource.name:
        raise PurgeError(f"--archive: takes a place; leave it out to go by the topics, or say ./{archive} for a folder")
    if ledger_older_than is not None and ledger_older_than < older_than:
        raise PurgeError("--ledger-older-than: the ledger must know events at least as long as the outbox does")
    settings = OperationsSettings.read()
    settings.check("source_admin_url", *(["openemr_admin_url"] if ledger_older_than is not None else []))
    wanted = _Wanted(older_than, archive, ledger_older_than, apply, why.strip(), as_json)
    ledger = RecoveryLedger(settings)
    purged = _Purged()
    with consumer.bootstrap.stop_signal() as stop, ledger.alone(COMMAND):
        deed = Deed(stop.is_set, "removed", f"done for {older_than} days, held by {archive or 'the topics'}")
        _carry_out(settings, wanted, purged, deed, ledger)
    _tell(wanted, purged, stopped=deed.ended == STOPPED)


def _carry_out(
    settings: OperationsSettings, wanted: _Wanted, purged: _Purged, deed: Deed, ledger: RecoveryLedger
) -> None:
    now, dry_run = dt.datetime.now(dt.UTC), not wanted.apply
    with contextlib.ExitStack() as held:
        parts = held.enter_context(wired_replay())
        engine = held.enter_context(opened(settings, "source_admin_url"))
        source = source_named(settings, wanted.archive)
        before = now - dt.timedelta(days=wanted.older_than)
        purge = OutboxPurge(settings, parts.target, engine, source, before=before)
        if wanted.apply:
            held.enter_context(remembered(ledger, COMMAND, settings.consumer_group, deed, why=wanted.why))
        deed.detail = _detail(purged)
        told = held.enter_context(bar("purging", None, hidden=wanted.as_json))
        for one in purge.portions(dry_run=dry_run):
            told(one.read)
            purged.rows += one.removed
            deed.detail = _detail(purged)
            if deed.is_stopped():
                return
        old = purge.old_rows()
        purged.kept = old - purged.rows if dry_run else old
        if wanted.ledger_older_than is None:
            return
        admin = held.enter_context(opened(settings, "openemr_admin_url"))
        purged.ledger_rows = 0
        before = now - dt.timedelta(days=wanted.ledger_older_than)
        for one in ledger_portions(admin, settings, before, dry_run=dry_run):
            told(one.read)
            purged.ledger_rows += one.removed
            deed.detail = _detail(purged)
            if deed.is_stopped():
                return


def _detail(purged: _Purged) -> str:
    return f"{purged.rows} rows, {purged.ledger_rows or 0} of the ledger"


def _tell(wanted: _Wanted, purged: _Purged, *, stopped: bool) -> None:
    if wanted.as_json:
        typer.echo(json.dumps({"removed": wanted.apply, **dataclasses.asdict(purged), "stopped": stopped}, indent=2))
    else:
        done = "removed" if wanted.apply else "would be removed (--apply does it)"
        stay = "" if purged.kept is None else f"; {purged.kept:,} old ones stay: not confirmed, or not held elsewhere"
        typer.echo(f"{purged.rows:,} outbox rows {done}{stay}")
        if purged.ledger_rows is not None:
            typer.echo(f"{purged.ledger_rows:,} settled events of the ledger {done}")
        if stopped:
            typer.echo("stopped before the end; the same command goes on with what is left")
    if stopped:
        raise typer.Exit(FOUND)
