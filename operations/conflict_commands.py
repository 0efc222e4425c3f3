"""The commands of `emrsync conflict`: records about which the ledger and OpenEMR do not agree."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, assert_never

import typer
from rich.console import Console

from connectors.events import EntityKey
from connectors.outbox import EntityType
from consumer.openemr.conflicts import State
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
    """Let the record be a row of OpenEMR: the chart that it was merged into, or the one that bears its uuid."""
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
    if one.conflict is None:
        return ("its row is not in question: see the message; record the entity's state again, or retry",)
    words = f"emrsync conflict %s --type {one.entity_type} {one.entity_id}"
    numbers = one.conflict.candidates
    match one.conflict.state:
        case State.GONE:
            adopting = [f"{words % 'adopt'} {number} (its visits are there)" for number in numbers]
            return (*adopting, words % "recreate", words % "drop")
        case State.UNMAPPED:
            adopting = [f"{words % 'adopt'} {number} (it bears the record's uuid)" for number in numbers]
            return (*(adopting or [words % "recreate"]), words % "drop")
        case State.DELETED:
            return ("if it is another record, record it under an id of its own, and then:", words % "drop")
        case _ as never:
            assert_never(never)
