"""The commands of `emrsync archive`: topics into files, and whether these are whole."""

from __future__ import annotations

import json
from typing import Annotated

import typer

import consumer.bootstrap
from connectors.topics import entity_topics
from operations.archive import Archiving, Verification
from operations.archive_store import ArchiveStore
from operations.config import OperationsSettings
from operations.deeds import STOPPED, Deed, remembered
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
    archiving = Archiving(kafka, ArchiveStore(place))
    with consumer.bootstrap.stop_signal() as stop, ledger.alone("archive"):
        deed = Deed(stop.is_set, "archived")
        # The end of a long place tells more than its beginning.
        with remembered(ledger, "archive", place[-100:], deed), bar("archiving", None, hidden=as_json) as told:
            for count in archiving.portions(entity_topics(settings.topic_prefix)):
                told(count)
                deed.detail = f"{archiving.records} records in {archiving.files} files"
                if deed.is_stopped():
                    break
            if archiving.lost:
                deed.detail += f", lost before: {', '.join(archiving.lost)}"
    stopped, lost = deed.ended == STOPPED, archiving.lost
    if as_json:
        found = {"records": archiving.records, "files": archiving.files, "lost": lost, "stopped": stopped}
        typer.echo(json.dumps(found, indent=2))
    else:
        typer.echo(f"{archiving.records:,} records archived in {archiving.files} files")
        for one in lost:
            typer.echo(f"! {one} were gone before they were archived; archive more often than the topics drop records")
        if stopped:
            typer.echo("stopped; these records are in the archive, and the same command goes on with the others")
    if lost or stopped:
        raise typer.Exit(FOUND)


@app.command("verify")
def check(place: Place, *, as_json: AsJson = False) -> None:
    """Read the whole archive, and say what is wrong with it; exit code 1 when something is."""
    checked = Verification(ArchiveStore(place))
    stopped = False
    with consumer.bootstrap.stop_signal() as stop, bar("verifying", None, hidden=as_json) as told:
        for count in checked.portions():
            told(count)
            if stopped := stop.is_set():
                break
    if as_json:
        typer.echo(json.dumps({"records": checked.records, "faults": checked.faults, "stopped": stopped}, indent=2))
    else:
        typer.echo(f"{checked.records:,} records read, {len(checked.faults)} faults")
        for fault in checked.faults:
            typer.echo(f"! {fault}")
        if stopped:
            typer.echo("stopped before the end; a check changes nothing, and the same command begins again")
    if checked.faults or stopped or not checked.records:
        raise typer.Exit(FOUND)
