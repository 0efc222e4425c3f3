"""The commands of `emrsync group`."""

from __future__ import annotations

import dataclasses
import json
import signal
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

import consumer.bootstrap
import stack.cli
from connectors.topics import entity_topics
from operations import members as programs
from operations import repartition as procedure
from operations.config import OperationsSettings
from operations.connect import connect_client
from operations.failures import FOUND
from operations.group import SAMPLE_S, GroupState, read_group
from operations.kafka_group import GroupAdmin, members_max
from operations.provision_command import say

app = typer.Typer()

CONNECT_LIMIT_S: Final = 15.0
"""How long a worker that does not answer is asked again, while the connector is stopped."""


@app.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    sample_s: Annotated[float, typer.Option(help="Seconds between two looks, for the rates.", min=0.1)] = SAMPLE_S,
) -> None:
    """Show members, partitions, lag in records and seconds, rate and time to drain; exit code 1 with a warning."""
    if context.invoked_subcommand is not None:
        return
    seen = read_group(OperationsSettings.read(), sample_s=sample_s)
    if as_json:
        typer.echo(json.dumps(as_mapping(seen), indent=2))
    else:
        _print(seen)
    if seen.warnings:
        raise typer.Exit(FOUND)


@app.command()
def scale(
    members: Annotated[int, typer.Argument(help="How many members shall run.", min=0, max=programs.MEMBERS_MAX)],
    home: stack.cli.Home = None,
) -> None:
    """Make so many members run as programs of the native stack; those too many finish their batch and leave."""
    with stack.cli.exit_codes():
        here = stack.cli.stack_at(home)
        settings = OperationsSettings.of(here.env())
        kafka = GroupAdmin(settings.text("kafka_bootstrap_servers"))
        programs.scale(here, settings, members, kafka=kafka, say=say)
    counts = kafka.partition_counts(entity_topics(settings.topic_prefix))
    if members > members_max(counts, settings.group_assignor):
        say(f"! {members} members share {sum(counts.values())} partitions: the others have nothing to do")


@app.command()
def restart(home: stack.cli.Home = None) -> None:
    """Restart the members of the native stack one after the other, each when the one before has its share again."""
    with stack.cli.exit_codes():
        here = stack.cli.stack_at(home)
        settings = OperationsSettings.of(here.env())
        kafka = GroupAdmin(settings.text("kafka_bootstrap_servers"))
        programs.restart(here, settings, kafka=kafka, say=say)


@app.command()
def partitions(
    wanted: Annotated[int, typer.Argument(help="Partitions of each entity topic.", min=1, max=1_000)],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this only what would be done is told.")] = False,
    drain_limit_s: Annotated[
        float, typer.Option(help="Give up, with nothing changed, when the group has not settled all by then.", min=1)
    ] = procedure.DRAIN_LIMIT_S,
) -> None:
    """Give the entity topics more partitions: stop the connector, drain, alter, and let it go on."""
    settings = OperationsSettings.read()
    topics = entity_topics(settings.topic_prefix)
    kafka = GroupAdmin(settings.text("kafka_bootstrap_servers"))
    if not procedure.check(kafka, settings.consumer_group, topics, wanted):
        say(f"each topic has {wanted} partitions already")
        return
    if not yes:
        say(
            f"would stop connector {settings.connector_name}, wait until the group has settled everything, give"
            f" {', '.join(topics)} {wanted} partitions each, and let the connector go on; --yes does it"
        )
        return
    with connect_client(settings, retry_limit_s=CONNECT_LIMIT_S) as connect:
        # A terminal that goes away in the middle must not leave the connector stopped either.
        with consumer.bootstrap.stop_signal(signal.SIGHUP) as stop:
            procedure.repartition(
                kafka, connect, connector=settings.connector_name, group=settings.consumer_group, topics=topics,
                wanted=wanted, say=say, stopped=stop.is_set, drain_limit_s=drain_limit_s,
            )  # fmt: skip
        connect.wait_running(settings.connector_name)
    say(f"connector {settings.connector_name}: runs")


def as_mapping(seen: GroupState) -> dict[str, Any]:
    """Return a group as JSON shows it."""
    return {
        **dataclasses.asdict(seen),
        "lag": seen.lag,
        "idle_members": seen.idle_members,
        "hint": seen.hint,
        "drain_s": seen.drain_s,
        "warnings": list(seen.warnings),
    }


def _print(seen: GroupState) -> None:
    console = Console()
    table = Table(box=None)
    table.add_column("member")
    table.add_column("host")
    table.add_column("partitions", justify="right")
    table.add_column("lag", justify="right")
    lag = {(one.topic, one.partition): one.lag for one in seen.partitions}
    for one in seen.members:
        behind = sum(lag.get(place, 0) for place in one.partitions)
        table.add_row(one.client_id, one.host, str(len(one.partitions)), f"{behind:,}")
    console.print(table)
    age = "unknown" if seen.lag_s is None else f"{seen.lag_s:.1f} s"
    drain = "not at this rate" if seen.drain_s is None else f"{seen.drain_s:,.0f} s"
    console.print(
        f"group {seen.group}: {len(seen.members)} members, {len(seen.partitions)} partitions; lag {seen.lag:,} records,"
        f" {age}; settles {seen.settled_per_s:,.0f}/s, arriving {seen.arriving_per_s:,.0f}/s; time to drain: {drain}",
        highlight=False,
        soft_wrap=True,
    )
    if seen.hint:
        console.print(seen.hint, highlight=False, markup=False, soft_wrap=True)
    for warning in seen.warnings:
        console.print(f"! {warning}", highlight=False, markup=False, soft_wrap=True)
