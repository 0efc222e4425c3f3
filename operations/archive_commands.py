"""The commands of `emrsync archive`: topics into files, and whether these are whole."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from connectors.topics import entity_topics
from operations.archive import archive_topics, verify
from operations.archive_store import ArchiveStore
from operations.config import OperationsSettings
from operations.failures import FOUND
from operations.kafka import KafkaAdmin
from operations.progress import bar
from operations.recovery_ledger import RecoveryLedger

app = typer.Typer(no_args_is_help=True)

Place = Annotated[str, typer.Argument(help="A folder, or a URL that fsspec knows, such as s3://bucket/emrsync.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command()
def run(place: Place, *, as_json: AsJson = False) -> None:
    """Add what the topics hold beyond the archive's end; exit code 1 when records were gone before."""
    settings = OperationsSettings.read()
    kafka = KafkaAdmin(settings.text("kafka_bootstrap_servers"))
    ledger = RecoveryLedger(settings)
    with ledger.alone("archive"), bar("archiving", None, hidden=as_json) as told:
        done = archive_topics(kafka, ArchiveStore(place), entity_topics(settings.topic_prefix), told)
        # The end of a long place tells more than its beginning.
        lost = f", lost before: {', '.join(done.lost)}" if done.lost else ""
        ledger.note("archive", place[-100:], "archived", detail=f"{done.records} records in {done.files} files{lost}")
    if as_json:
        typer.echo(json.dumps({"records": done.records, "files": done.files, "lost": list(done.lost)}, indent=2))
    else:
        typer.echo(f"{done.records:,} records archived in {done.files} files")
        for one in done.lost:
            typer.echo(f"! {one} were gone before they were archived; archive more often than the topics drop records")
    if done.lost:
        raise typer.Exit(FOUND)


@app.command("verify")
def check(place: Place, *, as_json: AsJson = False) -> None:
    """Read the whole archive, and say what is wrong with it; exit code 1 when something is."""
    with bar("verifying", None, hidden=as_json) as told:
        records, faults = verify(ArchiveStore(place), told)
    if as_json:
        typer.echo(json.dumps({"records": records, "faults": list(faults)}, indent=2))
    else:
        typer.echo(f"{records:,} records read, {len(faults)} faults")
        for fault in faults:
            typer.echo(f"! {fault}")
    if faults or not records:
        raise typer.Exit(FOUND)
