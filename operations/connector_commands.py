"""The commands of `emrsync connector`."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from typing import Annotated, Final

import typer

from connectors.connect_client import APPLY_LIMIT_S, ConnectClient, ConnectorStatus
from connectors.connect_watch import WatchEvent, WatchPolicy, watch
from connectors.connector_config import connector_config
from operations.config import OperationsSettings
from operations.failures import FOUND
from operations.pipeline_metrics import watch_metrics
from operations.source import connector_place

app = typer.Typer(no_args_is_help=True)

RETRY_LIMIT_S: Final = 5.0
"""How long a worker that does not answer is asked again."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command()
def apply(
    limit_s: Annotated[float, typer.Option(help="How long to wait until it runs, in seconds.")] = APPLY_LIMIT_S,
) -> None:
    """Create or change the connector, and wait until it and its task run."""
    settings = OperationsSettings.read()
    config = connector_config(connector_place(settings))
    with _client(settings) as client:
        _print(client.apply(settings.connector_name, config, limit_s=limit_s))


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show the connector and its task; exit code 1 unless both run."""
    settings = OperationsSettings.read()
    with _client(settings) as client:
        seen = client.status(settings.connector_name)
    if as_json:
        typer.echo(json.dumps(as_mapping(seen), indent=2))
    else:
        _print(seen)
    if not seen.running:
        raise typer.Exit(FOUND)


@app.command()
def restart(
    whole: Annotated[
        bool, typer.Option("--all", help="Also what shows RUNNING: helps a task that runs and moves nothing.")
    ] = False,
) -> None:
    """Restart what has failed, and wait until it runs."""
    settings = OperationsSettings.read()
    with _client(settings) as client:
        client.restart(settings.connector_name, only_failed=not whole)
        _print(client.wait_running(settings.connector_name))


@app.command("watch")
def watch_command(
    restarts_max: Annotated[int, typer.Option(help="Give up after this many restarts that did not help.", min=1)] = 20,
    poll_s: Annotated[float, typer.Option(help="Pause between looks, in seconds.", min=0.1)] = 5.0,
) -> None:
    """Restart the connector's task whenever it has failed, until interrupted."""
    settings = OperationsSettings.read()
    with watch_metrics(settings) as metrics, _client(settings) as client:

        def report(event: WatchEvent) -> None:
            _tell(event)
            if metrics is not None:
                metrics.see(event)

        watch(
            client, settings.connector_name, report=report, policy=WatchPolicy(poll_s=poll_s, restarts_max=restarts_max)
        )


def as_mapping(seen: ConnectorStatus) -> dict[str, object]:
    """Return a status for JSON, with the causes of a failure in place of its Java frames."""
    tasks = [{"number": task.number, "state": task.state, "worker": task.worker} for task in seen.tasks]
    return {
        "name": seen.name,
        "running": seen.running,
        "state": seen.state,
        "worker": seen.worker,
        "tasks": tasks,
        "failure": seen.failure,
    }


def _client(settings: OperationsSettings) -> ConnectClient:
    return ConnectClient(settings.text("connect_url"), retry_limit_s=RETRY_LIMIT_S)


def _print(seen: ConnectorStatus) -> None:
    typer.echo(f"{seen.name}: {seen.summary}")
    if seen.failure:
        typer.echo(seen.failure)


def _tell(event: WatchEvent) -> None:
    now = dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds")
    typer.echo(json.dumps({"at": now, **dataclasses.asdict(event)}))
