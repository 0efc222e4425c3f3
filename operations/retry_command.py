"""The commands of `emrsync retry`: the periodic role, and what a person retries after seeing how much and what."""

from __future__ import annotations

import datetime as dt
import json
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import rich.console
import rich.table
import typer

import consumer.bootstrap
from connectors.outbox import EntityType
from consumer.config import RetrySettings
from consumer.outcome import ErrorClass, Failed, Outcome
from consumer.ports import FailedRow
from consumer.retry_failed import Retrier, Tally, retry_chosen, retry_failed_outbox
from operations.config import OperationsSettings
from operations.engines import source
from operations.failed_rows import ROWS_MAX, Choice, Chosen, choose, why_not
from operations.failures import FOUND, WRONG_USE
from operations.progress import bar

ROWS_SHOWN: Final = 20
REASONS_SHOWN: Final = 10

app = typer.Typer(no_args_is_help=True)

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show how many rows and which, and do nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs; needs --yes or --dry-run.")]

Work = Callable[[Retrier, Sequence[uuid.UUID]], Tally]
Reasons = Counter[tuple[str, str]]


@app.command()
def run() -> None:
    """Retry what is due, again and again, until told to stop; any number of these may run."""
    consumer.bootstrap.run_retry()


@app.command()
def due(dry_run: DryRun = False, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Retry what is due now, once, as `retry run` would; exit code 1 when a row failed again."""
    _retry(Choice(due=True), _all_due, yes=True, dry_run=dry_run, as_json=as_json)


@app.command()
def one(
    outbox_id: Annotated[uuid.UUID, typer.Argument(help="The row, as `emrsync where` shows it.")],
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Retry one failed row, also one whose attempts are used up; exit code 1 when it failed again or has not failed."""
    _retry(Choice(outbox_id=outbox_id), retry_chosen, yes=yes, dry_run=dry_run, as_json=as_json)


@app.command()
def select(
    *,
    error_class: Annotated[ErrorClass | None, typer.Option(help="Only rows that failed in this way.")] = None,
    entity_type: Annotated[EntityType | None, typer.Option(help="Only rows of this kind of record.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=ROWS_MAX, help="At most so many, the oldest first.")] = ROWS_MAX,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Retry a group of failed rows, due or not, or all; exit code 1 when a row failed again or was not tried."""
    choice = Choice(error_class=error_class, entity_type=entity_type, limit=limit)
    _retry(choice, retry_chosen, yes=yes, dry_run=dry_run, as_json=as_json)


def _all_due(retrier: Retrier, _shown: Sequence[uuid.UUID]) -> Tally:
    return retry_failed_outbox(retrier)


def _retry(choice: Choice, work: Work, *, yes: bool, dry_run: bool, as_json: bool) -> None:
    settings = RetrySettings.read()
    with source(OperationsSettings.read()).connect() as connection:
        chosen = choose(connection, choice, dt.datetime.now(dt.UTC))
        if choice.outbox_id is not None and not chosen.rows:
            typer.echo(f"error: {why_not(connection, choice.outbox_id)}", err=True)
            raise typer.Exit(FOUND)
    if not as_json:
        _show(chosen)
    tally, reasons = Tally(), Reasons()
    if chosen.rows and not dry_run:
        if not yes:
            _confirm(len(chosen.rows), as_json=as_json)
        ids = [row.outbox_id for row in chosen.rows]
        tally = _with_progress(settings, work, ids, reasons, hidden=as_json)
    if as_json:
        typer.echo(json.dumps(_as_mapping(chosen, tally, reasons, dry_run=dry_run), indent=2, default=str))
    elif chosen.rows and not dry_run:
        _summarize(tally, reasons, settings.retry_storm_failures)
    if tally.failures or tally.left:
        raise typer.Exit(FOUND)


def _confirm(rows: int, *, as_json: bool) -> None:
    if as_json or not _somebody_is_there():
        typer.echo("error: nobody is there to be asked: give --yes to retry these rows, or --dry-run", err=True)
        raise typer.Exit(WRONG_USE)
    if not typer.confirm(f"Retry {_rows(rows)}?"):
        raise typer.Exit


def _somebody_is_there() -> bool:
    return sys.stdin.isatty()


def _with_progress(
    settings: RetrySettings, work: Work, ids: Sequence[uuid.UUID], reasons: Reasons, *, hidden: bool
) -> Tally:
    with bar("retrying", len(ids), hidden=hidden) as advance:

        def told(_row: FailedRow, outcome: Outcome) -> None:
            advance(1)
            if isinstance(outcome, Failed):
                reasons[outcome.error_class.value, outcome.message] += 1

        with consumer.bootstrap.wired_retrier(settings, told) as retrier:
            return work(retrier, ids)


def _console() -> rich.console.Console:
    # Whoever redirects the output wants whole ids.
    return rich.console.Console(width=None if sys.stdout.isatty() else 200)


def _show(chosen: Chosen) -> None:
    console = _console()
    if not chosen.rows:
        console.print("nothing to retry")
        return
    counts = rich.table.Table("entity", "error class", box=None)
    counts.add_column("rows", justify="right")
    for (entity_type, error_class), rows in sorted(chosen.counts.items()):
        counts.add_row(entity_type, error_class, f"{rows:,}")
    console.print(counts)
    listed = rich.table.Table("outbox_id", "entity", "error class", "attempts", "next attempt", box=None)
    for row in chosen.rows[:ROWS_SHOWN]:
        at = "" if row.next_attempt_at is None else row.next_attempt_at.isoformat(timespec="seconds")
        words = (str(row.outbox_id), f"{row.entity_type} {row.entity_id}", row.error_class or "", str(row.retry_count))
        listed.add_row(*words, at)
    console.print(listed)
    if len(chosen.rows) > ROWS_SHOWN:
        console.print(f"and {len(chosen.rows) - ROWS_SHOWN:,} more", highlight=False)
    if chosen.matching > len(chosen.rows):
        console.print(f"{len(chosen.rows):,} of {chosen.matching:,} that match", highlight=False)


def _summarize(tally: Tally, reasons: Reasons, storm_failures: int) -> None:
    console = _console()
    outcomes = ", ".join(f"{word} {rows:,}" for word, rows in sorted(tally.outcomes.items()))
    console.print(f"retried {_rows(tally.rows)}: {outcomes or 'none'}", highlight=False)
    for (error_class, message), rows in reasons.most_common(REASONS_SHOWN):
        console.print(f"failed again: {error_class}: {message} ({_rows(rows)})", highlight=False, markup=False)
    for storm in tally.storms:
        console.print(
            f"! stopped: {storm_failures} rows in a row failed with {storm}; find out what they have in common, "
            "cure it, and repeat",
            highlight=False,
        )
    if tally.left:
        why = "not tried" if tally.storms else "left alone: no longer failed, or in the hands of a retrier"
        console.print(f"{_rows(tally.left)} {why}", highlight=False)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _as_mapping(chosen: Chosen, tally: Tally, reasons: Reasons, *, dry_run: bool) -> dict[str, Any]:
    return {
        "matching": chosen.matching,
        "counts": [
            {"entity_type": entity_type, "error_class": error_class or None, "rows": rows}
            for (entity_type, error_class), rows in sorted(chosen.counts.items())
        ],
        "rows": [
            {
                "outbox_id": str(row.outbox_id),
                "entity_type": row.entity_type,
                "entity_id": row.entity_id,
                "error_class": row.error_class,
                "retry_count": row.retry_count,
                "next_attempt_at": row.next_attempt_at,
            }
            for row in chosen.rows
        ],
        "dry_run": dry_run,
        "outcomes": dict(tally.outcomes),
        "failed_again": [
            {"error_class": error_class, "message": message, "rows": rows}
            for (error_class, message), rows in reasons.most_common()
        ],
        "storms": [storm.value for storm in tally.storms],
        "left": tally.left,
    }
