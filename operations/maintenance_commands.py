"""The commands of `emrsync maintenance`: a pause in which nothing is written, lost or failed."""

from __future__ import annotations

import typer

from operations import openemr_site
from operations.config import OperationsSettings
from operations.failures import FOUND

app = typer.Typer(no_args_is_help=True)


@app.command()
def on() -> None:
    """Pause all consumers and retriers; returns when no batch is open any more."""
    typer.echo(f"{openemr_site.maintenance_on(OperationsSettings.read())}: nothing is written until it is off")


@app.command()
def off() -> None:
    """Let consumers and retriers go on; exit code 1 when an upgrade has changed the tables meanwhile."""
    settings = OperationsSettings.read()
    before = openemr_site.maintenance_off(settings)
    typer.echo("there was no maintenance" if before is None else f"ended: {before}")
    findings = openemr_site.read_report(settings).findings
    for finding in findings:
        typer.echo(f"! OpenEMR: {finding}")
    if findings:
        raise typer.Exit(FOUND)
