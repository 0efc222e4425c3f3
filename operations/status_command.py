"""The command `emrsync status`: every stage as tables or JSON."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from connectors.connect_client import ConnectorStatus
from operations.config import OperationsSettings
from operations.connector_words import as_mapping
from operations.failures import FOUND
from operations.parts import Unavailable
from operations.status import OutboxState, PipelineStatus, read_status


def command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False) -> None:
    """Show rows by status, lag per topic, connector and slot; exit code 1 when something needs a person."""
    seen = read_status(OperationsSettings.read())
    if as_json:
        typer.echo(json.dumps(as_json_mapping(seen), indent=2))
    else:
        _print(seen)
    if seen.findings:
        raise typer.Exit(FOUND)


def as_json_mapping(seen: PipelineStatus) -> dict[str, Any]:
    """Return a status as JSON shows it; an unavailable stage is {"unavailable": reason}."""
    lag = seen.lag
    return {
        "outbox": _mapping(seen.outbox),
        "slot": _mapping(seen.slot),
        "connector": as_mapping(seen.connector)
        if isinstance(seen.connector, ConnectorStatus)
        else _mapping(seen.connector),
        "lag": _mapping(lag) if isinstance(lag, Unavailable) else [dataclasses.asdict(one) for one in lag],
        "dead_letters": seen.dead_letters if isinstance(seen.dead_letters, int) else _mapping(seen.dead_letters),
        "undecided_dead_letters": seen.undecided if isinstance(seen.undecided, int) else _mapping(seen.undecided),
        "openemr": _mapping(seen.openemr),
        "ledger_behind": seen.behind if isinstance(seen.behind, int) else _mapping(seen.behind),
        "replayable": _replayable(seen),
        "findings": list(seen.findings),
    }


def _mapping(value: Any) -> dict[str, Any] | None:
    if isinstance(value, Unavailable):
        return {"unavailable": value.reason}
    return None if value is None else dataclasses.asdict(value)


def _print(seen: PipelineStatus) -> None:
    console = Console()
    if isinstance(seen.outbox, OutboxState):
        console.print(_counts(seen.outbox))
        age = seen.outbox.oldest_unfinished_s
        oldest = "" if age is None else f", the oldest for {age:.1f} s"
        console.print(f"unfinished: {seen.outbox.unfinished}{oldest}")
    if not isinstance(seen.lag, Unavailable):
        console.print(_lags(seen))
    if isinstance(seen.dead_letters, int) and isinstance(seen.undecided, int):
        console.print(f"dead letters: {seen.dead_letters}, undecided: {seen.undecided}", highlight=False)
    for topic, since in _replayable(seen).items():
        told = "all that ever came" if since is None else f"everything since {since}"
        console.print(f"replayable from {topic}: {told}", highlight=False)
    if isinstance(seen.connector, ConnectorStatus):
        console.print(f"connector {seen.connector.name}: {seen.connector.summary}", highlight=False)
    if seen.slot is not None and not isinstance(seen.slot, Unavailable):
        state = "read" if seen.slot.active else "not read"
        kept = f"{seen.slot.retained_bytes} bytes kept, {seen.slot.time_left}"
        console.print(f"slot {seen.slot.name}: {state}, {kept}", highlight=False)
    for finding in seen.findings:
        console.print(f"! {finding}", highlight=False, markup=False)


def _replayable(seen: PipelineStatus) -> dict[str, str | None]:
    if isinstance(seen.replayable, Unavailable):
        return {}
    return {
        topic: None
        if instant_ms is None
        else dt.datetime.fromtimestamp(instant_ms / 1000, dt.UTC).isoformat(timespec="seconds")
        for topic, instant_ms in seen.replayable.items()
    }


def _counts(outbox: OutboxState) -> Table:
    table = Table(box=None)
    for heading in ("entity", "status", "outcome", "error class"):
        table.add_column(heading)
    table.add_column("rows", justify="right")
    for one in outbox.counts:
        table.add_row(one.entity_type, one.status, one.outcome or "", one.error_class or "", str(one.rows))
    return table


def _lags(seen: PipelineStatus) -> Table:
    table = Table(box=None)
    table.add_column("topic")
    table.add_column("partitions", justify="right")
    table.add_column("lag", justify="right")
    partitions = () if isinstance(seen.lag, Unavailable) else seen.lag
    for topic in dict.fromkeys(one.topic for one in partitions):
        of_topic = [one.lag for one in partitions if one.topic == topic]
        table.add_row(topic, str(len(of_topic)), str(sum(of_topic)))
    return table
