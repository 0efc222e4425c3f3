"""The command `emrsync demo`."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from consumer.openemr.installation import DEFAULT_VERSION
from operations.demo import DemoChoices, run
from operations.demo_result import DemoResult
from operations.demo_view import Screen, print_result
from operations.failures import FOUND
from operations.interruption import interrupted_by
from operations.where_command import as_json_mapping, print_way
from producer_app.targets import TargetChoice
from stack import processes

HOME: Final = Path(".stack-demo")


def command(
    *,
    home: Annotated[Path, typer.Option(help="Folder of the demo's own servers; emptied first.")] = HOME,
    patients: Annotated[int, typer.Option(min=1, max=10_000, help="How many living patients to simulate.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the simulation: the same seed gives the same patients.")] = 1,
    target: Annotated[TargetChoice, typer.Option(help="One event per change, or one per target system.")] = (
        TargetChoice.BOTH
    ),
    consumers: Annotated[int, typer.Option(min=1, max=6, help="Members of the consumer group.")] = 2,
    changes: Annotated[int, typer.Option(min=1, max=100_000, help="Single changes after the import.")] = 300,
    rate: Annotated[float, typer.Option(min=0.1, max=1_000, help="Single changes per second.")] = 20.0,
    settle_limit_s: Annotated[float, typer.Option(min=1, help="Longest wait for the last rows, in seconds.")] = 120.0,
    openemr_version: Annotated[str, typer.Option(help="Shape of the OpenEMR database.")] = DEFAULT_VERSION,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running at the end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Show the whole job: real servers, simulated patients, two consumers, and a table of what arrived.

    Installs what is missing, starts servers on ports that are free, and stops them at the end. Exit code 0 only if
    every row arrived.
    """
    choices = DemoChoices(
        home=home,
        patients=patients,
        seed=seed,
        target=target,
        consumers=consumers,
        changes=changes,
        rate_per_s=rate,
        settle_limit_s=settle_limit_s,
        openemr_version=openemr_version,
        keep=keep,
    )
    screen = Screen()
    with interrupted_by(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, first=_end_children):
        result = run(choices, say=screen.say, watch=screen.watch)
    if as_json:
        typer.echo(json.dumps(as_mapping(result), indent=2, default=str))
    else:
        print_way(result.way)
        print_result(result)
    if result.problems:
        screen.say(f"logs and data of this run are in {home}; the next demo removes them")
        raise typer.Exit(FOUND)
    if keep:
        screen.say(f'still running: eval "$(emrsync stack env --home {home})"; emrsync status')
        screen.say(f"to stop it: emrsync stack down --purge --home {home}")


def as_mapping(result: DemoResult) -> dict[str, Any]:
    """Return a result as JSON shows it."""
    shown = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return {
        "arrived": not result.problems,
        "problems": list(result.problems),
        **{name: value for name, value in shown.items() if name not in {"imported", "kinds", "backlog", "single"}},
        "imported": dataclasses.asdict(result.imported),
        "kinds": [dataclasses.asdict(kind) for kind in result.kinds],
        "backlog": dataclasses.asdict(result.backlog) if result.backlog else None,
        "single": dataclasses.asdict(result.single) if result.single else None,
        "way": as_json_mapping(result.way),
    }


def _end_children() -> None:
    """End what is a child of ours, as a download or simulation under way: its end would be waited for."""
    processes.send(processes.family(os.getpid())[1:], signal.SIGTERM)
