"""The commands of `emrsync connector`."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Annotated, Any, Final

import typer

from connectors.connect_client import APPLY_LIMIT_S, ConnectClient, ConnectorStatus
from connectors.connect_watch import STEADY_S, WatchPolicy
from operations.config import OperationsSettings
from operations.connect import connect_client
from operations.connector_health import read_health
from operations.connector_plan import check_identity, read_plan
from operations.connector_removal import remove, reset_offsets, words_of_removal, words_of_reset
from operations.connector_resume import resume
from operations.connector_words import health_lines, health_mapping, plan_lines, plan_mapping
from operations.failures import FOUND, WRONG_USE
from operations.watching import watch_until_stopped

app = typer.Typer(no_args_is_help=True)

RETRY_LIMIT_S: Final = 5.0
"""How long a worker that does not answer is asked again."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command()
def plan(as_json: AsJson = False) -> None:
    """Show what apply would change, what the connector says to it, and how topics differ; 1 when there is anything."""
    settings = _planned()
    with _client(settings) as client:
        seen = read_plan(settings, client)
    typer.echo(json.dumps(plan_mapping(seen), indent=2) if as_json else "\n".join(plan_lines(seen)))
    if not seen.nothing_to_do:
        raise typer.Exit(FOUND)


@app.command()
def diff(as_json: AsJson = False) -> None:
    """Show only how the live configuration differs from the wanted one; exit code 1 when it does."""
    settings = _planned()
    with _client(settings) as client:
        seen = read_plan(settings, client, topics=False, objections=False)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(one) for one in seen.changes], indent=2))
    else:
        for one in seen.changes:
            typer.echo(str(one))
    if seen.changes:
        raise typer.Exit(FOUND)


@app.command()
def apply(
    limit_s: Annotated[float, typer.Option(help="How long to wait until it runs, in seconds.")] = APPLY_LIMIT_S,
    new_identity: Annotated[
        bool, typer.Option("--new-identity", help="Also change what makes another stream of it, such as the slot.")
    ] = False,
) -> None:
    """Create or change the connector, and wait until it and its task run."""
    settings = _planned()
    with _client(settings) as client:
        seen = read_plan(settings, client, topics=False, objections=False)
        check_identity(seen, allowed=new_identity)
        if seen.exists:
            for one in seen.changes:
                typer.echo(str(one))
        _print(client.apply(settings.connector_name, seen.wanted, limit_s=limit_s))


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show states, flow, what the source keeps, and what differs; exit code 1 when something needs a person."""
    settings = OperationsSettings.read()
    with _client(settings) as client:
        seen = read_health(settings, client)
    typer.echo(json.dumps(health_mapping(seen), indent=2) if as_json else "\n".join(health_lines(seen)))
    if seen.findings:
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


app.command()(resume)


@app.command()
def offsets(as_json: AsJson = False) -> None:
    """Show the positions in the source's log, as Connect keeps them."""
    settings = OperationsSettings.read()
    with _client(settings) as client:
        seen: list[dict[str, Any]] = client.offsets(settings.connector_name)
    if as_json:
        typer.echo(json.dumps(seen, indent=2))
        return
    if not seen:
        typer.echo("no position yet: at its next start the connector sends every row that is not done")
    for one in seen:
        typer.echo(f"{_flat(one['partition'])}: {_flat(one['offset'] or {})}")


@app.command("reset-offsets")
def reset_offsets_command(yes: Yes = False) -> None:
    """Forget the positions, so that every row that is not done is sent again; says so, and asks."""
    settings = OperationsSettings.read()
    _confirm(words_of_reset(settings), yes=yes)
    with _client(settings) as client:
        _print(reset_offsets(settings, client, report=typer.echo))


@app.command("remove")
def remove_command(yes: Yes = False) -> None:
    """Remove connector, positions and replication slot, so that nothing fills the source's disk; says so, and asks."""
    settings = OperationsSettings.read()
    _confirm(words_of_removal(settings), yes=yes)
    with _client(settings) as client:
        remove(settings, client, report=typer.echo)


@app.command("watch")
def watch_command(
    restarts_max: Annotated[int, typer.Option(help="Give up after this many restarts that did not help.", min=1)] = 20,
    poll_s: Annotated[float, typer.Option(help="Pause between looks, in seconds.", min=0.1)] = 5.0,
    stall_s: Annotated[float, typer.Option(help="Restart what runs and moves nothing for this long.", min=5.0)] = 30.0,
    exits: Annotated[
        bool, typer.Option("--exit", help="End with exit code 1 when giving up, instead of looking on.")
    ] = False,
) -> None:
    """Restart the connector when it has failed, or runs and moves nothing, until interrupted; 1 if it had given up."""
    settings = OperationsSettings.read()
    settings.check("source_url", "kafka_bootstrap_servers")
    # A stall must show before steady running makes the restarts before it forgotten.
    steady_s = max(STEADY_S, 2 * stall_s)
    policy = WatchPolicy(poll_s=poll_s, restarts_max=restarts_max, stall_s=stall_s, steady_s=steady_s, exits=exits)
    with _client(settings) as client:
        gave_up = watch_until_stopped(settings, client, policy)
    if gave_up:
        raise typer.Exit(FOUND)


def _planned() -> OperationsSettings:
    """Read the settings, and name all at once that a configuration cannot be made without."""
    settings = OperationsSettings.read()
    settings.database_url("source_url")
    settings.check("connect_url", "cdc_user", "kafka_bootstrap_servers")
    return settings


def _client(settings: OperationsSettings) -> ConnectClient:
    return connect_client(settings, retry_limit_s=RETRY_LIMIT_S)


def _confirm(words: str, *, yes: bool) -> None:
    typer.echo(words)
    if yes:
        return
    if not sys.stdin.isatty():
        typer.echo("error: nobody is there to be asked: give --yes", err=True)
        raise typer.Exit(WRONG_USE)
    if not typer.confirm("Do it?"):
        raise typer.Exit


def _flat(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _print(seen: ConnectorStatus) -> None:
    typer.echo(f"{seen.name}: {seen.summary}")
    if seen.failure:
        typer.echo(seen.failure)
