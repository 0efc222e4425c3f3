"""The command `emrsync resume`: after OpenEMR was restored from a backup, or is a new one."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Annotated, Final

import typer

import consumer.bootstrap
from operations.archive import ArchiveSource
from operations.archive_store import ArchiveStore
from operations.bootstrap import wired_replay
from operations.config import OperationsSettings
from operations.deeds import Deed, remembered
from operations.errors import ResumeError, ResumeStoppedError
from operations.failures import FOUND, WRONG_USE
from operations.progress import bar
from operations.recovery_ledger import RecoveryLedger
from operations.resume import Missing, Resume, Told

COMMAND: Final = "resume"


def command(
    *,
    from_ledger: Annotated[bool, typer.Option("--from-ledger", help="Go by what the ledger beside OpenEMR says.")],
    why: Annotated[str, typer.Option("--why", help="Kept with your name for those who come later.")] = "",
    archive: Annotated[str | None, typer.Option(help="Where to take what the topics keep no more.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is missing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs; needs --yes or --dry-run.")] = False,
) -> None:
    """Let the consumers bring again what a restored or new OpenEMR lacks; exit code 1 when something is lost."""
    if not from_ledger:
        raise typer.BadParameter("--from-ledger is the one way there is")
    settings = OperationsSettings.read()
    ledger = RecoveryLedger(settings)
    with ledger.alone(COMMAND), wired_replay() as parts:
        held = None if archive is None else ArchiveSource(ArchiveStore(archive), settings.topic_prefix)
        resume = Resume(settings, parts, held)
        with consumer.bootstrap.stop_signal() as stop, bar("looking", None, hidden=as_json) as told:
            missing = resume.look(_until(stop.is_set, told))
        if not as_json:
            for line in lines(missing):
                typer.echo(line)
        done: Counter[str] = Counter()
        if not dry_run and not missing.is_nothing:
            if not why.strip():
                raise ResumeError("--why: say why, for those who come later")
            resume.check_stopped()
            if not yes:
                _confirm(as_json=as_json)
            with (
                consumer.bootstrap.stop_signal() as stop,
                remembered(
                    ledger,
                    COMMAND,
                    settings.consumer_group,
                    Deed(stop.is_set, "rewound", "; ".join(lines(missing))),
                    why=why.strip(),
                ),
                bar("applying", None, hidden=as_json) as told,
            ):
                done = resume.carry_out(missing, stop.is_set, told)
            if not as_json:
                typer.echo(f"applied directly: {_counts(done) or 'nothing'}; the group is rewound: start the consumers")
    if as_json:
        typer.echo(json.dumps(_mapping(missing, done, dry_run=dry_run), indent=2))
    if missing.lost or (dry_run and not missing.is_nothing):
        raise typer.Exit(FOUND)


def lines(missing: Missing) -> Iterator[str]:
    """Say what is missing, in words."""
    if missing.is_nothing:
        yield "nothing is missing: the ledger is where the group is, or further"
        return
    until = "is empty" if missing.until is None else f"ends at {missing.until:%Y-%m-%d %H:%M:%S} UTC"
    yield f"the ledger beside OpenEMR {until}"
    per_topic: Counter[str] = Counter()
    for one in missing.behind:
        per_topic[one.topic] += one.missing
    gone = missing.gone
    if per_topic:
        total = sum(per_topic.values())
        yield f"{total:,} records that the consumers have settled since are missing: {_counts(per_topic)}"
        kept = "the topics still hold all of them" if not gone else f"the topics hold {total - gone:,} of them"
        yield f"{kept}, and the group is rewound to where the ledger ends"
    if gone:
        yield f"{gone:,} are in the topics no more; {missing.archived:,} of them are applied from the archive"
    if missing.beside:
        yield f"{sum(missing.beside.values()):,} more are applied from the outbox itself: {_counts(missing.beside)}"
    if missing.lost:
        yield f"! {missing.lost:,} are neither in the topics, nor in the outbox, nor in an archive given"


def _until(stop: Callable[[], bool], told: Told) -> Told:
    def checked(count: int) -> None:
        if stop():
            raise ResumeStoppedError("stopped while looking; nothing was changed")
        told(count)

    return checked


def _confirm(*, as_json: bool) -> None:
    if as_json or not sys.stdin.isatty():
        typer.echo("error: nobody is there to be asked: give --yes, or --dry-run", err=True)
        raise typer.Exit(WRONG_USE)
    if not typer.confirm("Bring them again?"):
        raise typer.Exit


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()) if count)


def _mapping(missing: Missing, done: Counter[str], *, dry_run: bool) -> dict[str, object]:
    return {
        "ledger_until": None if missing.until is None else missing.until.isoformat(),
        "behind": [{**dataclasses.asdict(one), "missing": one.missing, "gone": one.gone} for one in missing.behind],
        "from_archive": missing.archived,
        "from_outbox": dict(missing.beside),
        "lost": missing.lost,
        "dry_run": dry_run,
        "applied_directly": dict(done),
    }
