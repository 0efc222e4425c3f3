"""The command `emrsync verify`: whether OpenEMR's screens and FHIR searches show what was synced."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from connectors.outbox import EntityType
from consumer.openemr.verification import Verification, verify
from operations.config import OperationsSettings
from operations.engines import LONG_STATEMENT_LIMIT_S, reading_engine
from operations.failures import FOUND


def command(
    entity: Annotated[
        list[str] | None, typer.Option("--entity", help="The application's id, such as P-2025-000001 (repeatable).")
    ] = None,
    entity_type: Annotated[EntityType | None, typer.Option("--type", help="Only this kind of record.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every record that the ledger maps.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show in which of OpenEMR's screens and FHIR searches records are seen; exit code 1 when one is not as it should.

    Each live record is expected once, a deleted one nowhere; what this version of OpenEMR cannot show is said.
    """
    if bool(entity) == every:
        raise typer.BadParameter("give --entity ID, or --all")
    settings = OperationsSettings.read()
    found = verify(
        reading_engine(settings.database_url("openemr_url"), statement_limit_s=LONG_STATEMENT_LIMIT_S),
        ledger_schema=settings.ledger_schema,
        entity_ids=None if every else entity,
        entity_types=tuple(EntityType) if entity_type is None else (entity_type,),
    )
    if as_json:
        typer.echo(json.dumps({"fine": found.fine, **dataclasses.asdict(found)}, indent=2))
    else:
        print_verification(found)
    if not found.fine:
        raise typer.Exit(FOUND)


def print_verification(found: Verification) -> None:
    """Print the places, and what is not as it should be."""
    console = Console()
    console.print(f"OpenEMR {found.version}: {found.live} live rows, {found.deleted} deleted", highlight=False)
    table = Table(box=None)
    for heading in ("place", "kind", "due", "shown once", ""):
        table.add_column(heading, overflow="fold")
    for one in found.surfaces:
        numbers = ("", "") if one.absent else (str(one.due), str(one.shown))
        table.add_row(one.surface, one.kind, *numbers, one.absent or "")
    console.print(table)
    for finding in found.findings:
        line = f"{finding.entity_type} {finding.entity_id}: {finding.surface}: {finding.reason}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if found.findings_count > len(found.findings):
        console.print(f"and {found.findings_count - len(found.findings)} more", highlight=False)
    for entity_id in found.unknown:
        console.print(f"{entity_id}: the ledger maps it to no row of OpenEMR", highlight=False, markup=False)
