"""The command `emrsync where`: the whole way of one record as tables or JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from connectors.connect_client import ConnectorStatus
from connectors.outbox import EntityType
from operations.config import OperationsSettings
from operations.connector_words import as_mapping
from operations.failures import FOUND
from operations.parts import Unavailable
from operations.where import Ledger, Source, Way, read_way
from operations.where_words import in_words


def command(
    entity_id: Annotated[str, typer.Argument(help="The application's id, such as P-2025-000001.")],
    entity_type: Annotated[EntityType | None, typer.Option("--type", help="Only this kind of record.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show where a record is, with every event of it; exit code 1 when it is unknown or a system does not answer."""
    way = read_way(OperationsSettings.read(), entity_id, entity_type)
    if as_json:
        typer.echo(json.dumps(as_json_mapping(way), indent=2, default=str))
    else:
        print_way(way)
    if not (way.known and way.complete):
        raise typer.Exit(FOUND)


def as_json_mapping(way: Way) -> dict[str, Any]:
    """Return a way as JSON shows it; a system that did not answer is {"unavailable": reason}."""
    connector = way.connector
    return {
        "entity_id": way.entity_id,
        "known": way.known,
        "now": list(in_words(way)),
        "source": _mapping(way.source),
        "ledger": _mapping(way.ledger),
        "connector": as_mapping(connector) if isinstance(connector, ConnectorStatus) else _mapping(connector),
    }


def _mapping(value: Source | Ledger | Unavailable | None) -> dict[str, Any] | None:
    if isinstance(value, Unavailable):
        return {"unavailable": value.reason}
    return None if value is None else dataclasses.asdict(value)


def print_way(way: Way) -> None:
    """Print where a record is, and its events, as tables."""
    console = Console()
    console.print(way.entity_id, style="bold", highlight=False, markup=False)
    for line in in_words(way):
        console.print(f"  {line}", highlight=False, markup=False)
    if isinstance(way.source, Source):
        synced = [(row.table, _text(row.last_synced_at) or "never") for row in way.source.business]
        _table(console, "the application's row", ("table", "last synced"), synced)
        events = [
            (
                row.seq,
                row.operation,
                row.cause,
                row.target_system,
                row.status,
                row.outcome,
                row.error_class,
                row.created_at,
                row.processed_at,
            )
            for row in way.source.outbox
        ]
        headings = ("seq", "operation", "cause", "target", "status", "outcome", "error class", "created", "processed")
        _table(console, "events in the outbox", headings, events)
    if isinstance(way.ledger, Ledger):
        applied = [
            (one.seq, one.operation, one.target_system, one.outcome, one.detail, one.applied_at)
            for one in way.ledger.applied
        ]
        written = [(one.action, one.changed, one.author, one.account, one.written_at) for one in way.ledger.trail]
        _table(console, "written into OpenEMR", ("action", "columns changed", "author", "account", "written"), written)
        _table(console, "events in the ledger", ("seq", "operation", "target", "outcome", "detail", "applied"), applied)


def _table(console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    if not rows:
        return
    table = Table(title=title, box=None, title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(_text(value) for value in row))
    console.print(table)


def _text(value: object) -> str:
    return "" if value is None else str(value)
