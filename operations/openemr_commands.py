"""The commands of `emrsync openemr`: what an upgrade has changed, and that we may go on."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from operations import openemr_site
from operations.config import OperationsSettings
from operations.failures import FOUND
from operations.openemr_site import SiteReport

app = typer.Typer(no_args_is_help=True)


@app.command()
def check(as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False) -> None:
    """Show how OpenEMR's tables differ from those that were accepted; exit code 1 when they do."""
    report = openemr_site.read_report(OperationsSettings.read())
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(report), indent=2, default=str))
    else:
        for line in _lines(report):
            typer.echo(line)
    if report.differences:
        raise typer.Exit(FOUND)


@app.command()
def accept() -> None:
    """Let consumers write into OpenEMR's tables as they are now."""
    changed = openemr_site.accept(OperationsSettings.read())
    for line in changed:
        typer.echo(line)
    typer.echo(f"accepted (differences: {len(changed)})")


def _lines(report: SiteReport) -> tuple[str, ...]:
    if report.accepted_at is None:
        return ("no tables were accepted yet: the first consumer that starts accepts what it finds",)
    accepted = f"accepted by {report.accepted_by} at {report.accepted_at.isoformat(timespec='seconds')}"
    if not report.differences:
        return (f"OpenEMR's tables are as {accepted}",)
    return (
        f"OpenEMR's tables differ from those {accepted}, and nothing is written:",
        *(f"  {one}" for one in report.differences),
        "emrsync openemr accept goes on with the tables as they are",
    )
