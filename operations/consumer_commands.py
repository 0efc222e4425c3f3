"""The commands of `emrsync consumer`."""

from __future__ import annotations

import typer

import consumer.bootstrap

app = typer.Typer(no_args_is_help=True)


@app.callback()
def section() -> None:
    """Keep `run` a word of its own while it is the only command."""


@app.command()
def run() -> None:
    """Run one member of the consumer group until it is told to stop."""
    consumer.bootstrap.run()
