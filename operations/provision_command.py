"""The command `emrsync provision`."""

from __future__ import annotations

from typing import Annotated

import typer

from operations.config import OperationsSettings
from operations.provision import Choices, provision

OpenemrVersion = Annotated[
    str | None,
    typer.Option(
        "--openemr-version",
        help="Create an OpenEMR-shaped database of this version, such as 7.0.3, where there are no tables yet.",
        show_default=False,
    ),
]


def command(
    openemr_version: OpenemrVersion = None,
    connector_limit_s: Annotated[float, typer.Option(help="How long to wait for the connector, in seconds.")] = 60.0,
) -> None:
    """Make the servers ready: schemas, accounts, topics, connector. Safe to run again; needs administrator URLs."""
    choices = Choices(openemr_version=openemr_version, connector_limit_s=connector_limit_s)
    provision(OperationsSettings.read(), choices, report=say)


def say(line: str) -> None:
    """Print a line of progress, apart from results."""
    typer.echo(line, err=True)
