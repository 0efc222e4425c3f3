"""The commands `emrsync app …`: the clinic application's HTTP API, and imports into it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import rich.console
import rich.progress
import rich.table
import typer
import uvicorn

from connectors.outbox import EntityType
from producer_app import api, bootstrap
from producer_app.config import AppSettings
from producer_app.synthea import Progress, Report, import_folder
from producer_app.synthea_files import SyntheaInputError
from producer_app.targets import TargetChoice

FOUND: Final = 1

FINISH_S: Final = 5
"""How much longer than its lock time-out a request under way may take when the application is told to stop."""

app = typer.Typer(
    name="app", help="The sample clinic application: its HTTP API and bulk imports.", no_args_is_help=True
)
imports = typer.Typer(name="import", help="Bring in many entities at once.", no_args_is_help=True)
app.add_typer(imports)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; else EMRSYNC_APP_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; else EMRSYNC_APP_PORT.")] = None,
) -> None:
    """Serve the HTTP API; /docs describes it, /health tells whether it and its database answer."""
    given = {name: value for name, value in {"app_host": host, "app_port": port}.items() if value is not None}
    settings = AppSettings.read(**given)
    uvicorn.run(
        api.create_app(settings),
        host=settings.app_host,
        port=settings.app_port,
        # An access log repeats query strings, and with them whatever a client puts there.
        access_log=False,
        log_level="info",
        # Requests under way may finish: a change takes one lock time-out at most.
        timeout_graceful_shutdown=settings.app_lock_timeout_seconds + FINISH_S,
    )


@imports.command("synthea")
def import_synthea(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a Synthea CSV export.")],
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first N patients, with all theirs.")
    ] = None,
    target: Annotated[TargetChoice | None, typer.Option(help="Target systems; else EMRSYNC_APP_TARGETS.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and no progress.")] = False,
) -> None:
    """Import patients, encounters, medications, procedures and imaging studies of a Synthea CSV export.

    Importing the same export again writes nothing. Exit code 1 when a row could not be imported; the report says why.
    """
    settings = AppSettings.read()
    targets = None if target is None else target.systems

    def run(progress: Progress) -> Report:
        application = bootstrap.build(settings)
        try:
            return import_folder(
                application.unit_of_work(),
                folder,
                patients_max=limit,
                batch=settings.app_import_batch,
                targets=targets,
                progress=progress,
            )
        finally:
            application.close()

    try:
        report = run(lambda _entity_type, _done, _total: None) if as_json else _with_progress_bar(run)
    except SyntheaInputError as error:
        raise typer.BadParameter(str(error), param_hint="DIR") from error
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(report), indent=2))
    else:
        _print(report)
    if report.refused:
        raise typer.Exit(FOUND)


def _with_progress_bar(run: Callable[[Progress], Report]) -> Report:
    columns = (
        rich.progress.TextColumn("{task.description:<10}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
    )
    # On standard error, so that the table alone can be redirected.
    with rich.progress.Progress(*columns, console=rich.console.Console(stderr=True)) as bars:
        tasks: dict[EntityType, rich.progress.TaskID] = {}

        def show(entity_type: EntityType, done: int, total: int) -> None:
            if entity_type not in tasks:
                tasks[entity_type] = bars.add_task(f"{entity_type}s", total=total)
            bars.update(tasks[entity_type], completed=done)

        return run(show)


def _print(report: Report) -> None:
    console = rich.console.Console()
    table = rich.table.Table("file", title="Synthea import")
    for heading in ("rows", "created", "updated", "unchanged", "joined", "refused"):
        table.add_column(heading, justify="right")
    for file in report.files:
        counts = (file.rows, file.created, file.updated, file.unchanged, file.joined, sum(file.refused.values()))
        table.add_row(file.file, *(f"{count:,}" for count in counts))
    console.print(table)
    for file in report.files:
        for reason, count in file.refused.items():
            console.print(f"refused: {file.file}: {reason} ({count:,} rows)", markup=False)
        for reason, count in file.notes.items():
            console.print(f"note: {file.file}: {reason} ({count:,} values)", markup=False)
    rate = report.entities / max(report.seconds, 0.001)
    console.print(
        f"{report.entities:,} entities in {report.seconds:.1f} s ({rate:,.0f}/s), {report.outbox_rows:,} outbox rows"
    )
