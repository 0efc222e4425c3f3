"""The watch of the connector as a process: told as lines, shown as metrics, ended by a signal."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
import signal
from collections.abc import Callable

import typer

from connectors.connect_client import ConnectClient
from connectors.connect_watch import Look, WatchAction, WatchEvent, WatchPolicy, watch
from operations.config import OperationsSettings
from operations.connector_health import FlowLook, Told
from operations.interruption import interrupted_by
from operations.pipeline_metrics import watch_metrics

MakeLook = Callable[[OperationsSettings, ConnectClient, Told | None], Callable[[], Look]]


def watch_until_stopped(
    settings: OperationsSettings, client: ConnectClient, policy: WatchPolicy, *, make_look: MakeLook = FlowLook
) -> bool:
    """Watch the connector until SIGTERM or SIGINT, and tell whether it had given up by then.

    Raises:
        MisconfiguredError: the port of the metrics cannot be had.
        ConnectError: as the watch does.
    """
    gave_up = False
    # Nothing is in hand that had to be finished; a look at servers that do not answer would take a minute.
    with interrupted_by(signal.SIGTERM, signal.SIGINT), watch_metrics(settings) as metrics:

        def report(event: WatchEvent) -> None:
            nonlocal gave_up
            if event.action in {WatchAction.GAVE_UP, WatchAction.RESUMED}:
                gave_up = event.action is WatchAction.GAVE_UP
            _tell(event)
            if metrics is not None:
                metrics.see(event)

        look = make_look(settings, client, None if metrics is None else metrics.look)
        with contextlib.suppress(KeyboardInterrupt):
            watch(client, settings.connector_name, report=report, look=look, policy=policy)
    return gave_up


def _tell(event: WatchEvent) -> None:
    now = dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds")
    typer.echo(json.dumps({"at": now, **dataclasses.asdict(event)}))
    if event.action is WatchAction.GAVE_UP:
        typer.echo(f"error: {event.text}", err=True)
