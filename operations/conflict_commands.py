"""The commands of `emrsync conflict`: charts that clerks have merged or deleted under the synchronisation."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer
from rich.console import Console

from connectors.events import EntityKey
from connectors.outbox import EntityType
from operations import conflicts
from operations.config import OperationsSettings
from operations.conflicts import ConflictRow
from operations.failures import FOUND

app = typer.Typer(no_args_is_help=True)

EntityId = Annotated[str, typer.Argument(help="The application's id, such as P-2025-000001.")]
Type = Annotated[EntityType, typer.Option("--type", help="The kind of record.")]


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False) -> None:
    """Show the records whose events failed as conflicts, and what may be done; exit code 1 when there are any."""
    found = conflicts.list_conflicts(OperationsSettings.read())
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(one) for one in found], indent=2, default=str))
    else:
        _print(found)
    if found:
        raise typer.Exit(FOUND)


@app.command()
def adopt(
    entity_id: EntityId,
    number: Annotated[int, typer.Argument(help="pid, encounter, order or prescription number in OpenEMR.")],
    entity_type: Type = EntityType.PATIENT,
) -> None:
    """Let the record be another row of OpenEMR, such as the chart that it was merged into."""
    _say(conflicts.adopt(OperationsSettings.read(), EntityKey(entity_type, entity_id), number))


@app.command()
def recreate(entity_id: EntityId, entity_type: Type = EntityType.PATIENT) -> None:
    """Let the record's next event make a new row in OpenEMR."""
    _say(conflicts.recreate(OperationsSettings.read(), EntityKey(entity_type, entity_id)))


@app.command()
def drop(entity_id: EntityId, entity_type: Type = EntityType.PATIENT) -> None:
    """Take OpenEMR's side: the record counts as deleted there until the application changes it again."""
    _say(conflicts.drop(OperationsSettings.read(), EntityKey(entity_type, entity_id)))


def _say(due: int) -> None:
    typer.echo(f"settled; failed events that are due again: {due}")


def _print(found: tuple[ConflictRow, ...]) -> None:
    """Print each record with its message, and whole commands to copy."""
    console = Console()
    for one in found:
        console.print(f"{one.entity_type} {one.entity_id}", style="bold", highlight=False, markup=False)
        for line in (f"{one.events} events failed: {one.message}", *_advice(one)):
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def _advice(one: ConflictRow) -> tuple[str, ...]:
    if one.gone is None:
        return ("its row is in OpenEMR: see the message; record the entity's state again, or retry",)
    words = f"emrsync conflict %s --type {one.entity_type} {one.entity_id}"
    adopting = [f"{words % 'adopt'} {number} (its visits are there)" for number in one.gone.candidates]
    return (*adopting, words % "recreate", words % "drop")
