"""The command `emrsync connector resume`: a connector that somebody, or an interrupted command, has stopped."""

from __future__ import annotations

import typer

from operations.config import OperationsSettings
from operations.connect import connect_client

RETRY_LIMIT_S = 30.0
"""How long a worker that does not answer is asked again: what stopped the connector may have stopped it too."""


def resume() -> None:
    """Let a connector that was stopped or paused go on where it was, and wait until it runs."""
    settings = OperationsSettings.read()
    with connect_client(settings, retry_limit_s=RETRY_LIMIT_S) as client:
        client.resume(settings.connector_name)
        seen = client.wait_running(settings.connector_name)
    typer.echo(f"{seen.name}: {seen.summary}")
