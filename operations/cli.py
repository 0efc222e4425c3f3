"""The root of `emrsync`: which command lives where; a command's module is loaded when it is called."""

from __future__ import annotations

import dataclasses
import importlib
import signal
import sys
from collections.abc import Sequence
from typing import Final

import typer


@dataclasses.dataclass(frozen=True, slots=True)
class Section:
    """One word after `emrsync`: a group (attribute `app` of the module) or a single command (attribute `command`)."""

    name: str
    module: str
    help: str
    group: bool = True


SECTIONS: Final = (
    Section("stack", "operations.stack_commands", "Real servers on this machine, without Docker."),
    Section(
        "provision", "operations.provision_command", "Make schemas, accounts, topics and the connector.", group=False
    ),
    Section("connector", "operations.connector_commands", "The Debezium connector of the outbox."),
    Section("consumer", "operations.consumer_commands", "The consumer group that writes into OpenEMR."),
    Section(
        "group", "operations.group_commands", "The members of the group: how far behind, more of them, more partitions."
    ),
    Section("dead-letter", "operations.dead_letter_commands", "Records that were no events."),
    Section("retry", "operations.retry_command", "Failed rows, tried again: what is due, or what you choose."),
    Section("replay", "operations.replay_commands", "Events applied again: first a plan, then its apply."),
    Section("archive", "operations.archive_commands", "Topics in files that outlive them."),
    Section("resume", "operations.resume_command", "After OpenEMR was restored, or is a new one.", group=False),
    Section("resync", "operations.resync_command", "Rows or entities, sent again.", group=False),
    Section("sweep", "operations.sweep_command", "Rows that got lost on the way.", group=False),
    Section("purge", "operations.purge_command", "Old rows that are done and kept elsewhere.", group=False),
    Section("app", "operations.app_commands", "The sample clinic application."),
    Section("status", "operations.status_command", "How much is where, and how far behind.", group=False),
    Section("where", "operations.where_command", "The whole way of one record.", group=False),
    Section("verify", "operations.verify_command", "Whether OpenEMR shows what was synced.", group=False),
    Section("conflict", "operations.conflict_commands", "Records about which the ledger and OpenEMR do not agree."),
    Section("openemr", "operations.openemr_commands", "What an upgrade of OpenEMR has changed."),
    Section("maintenance", "operations.maintenance_commands", "A pause while somebody works on OpenEMR."),
    Section("demo", "operations.demo_command", "All of it, on real servers and simulated patients.", group=False),
)

INTERRUPTED: Final = 128 + signal.SIGINT

_HELP: Final = """Clinical records from an application's outbox into OpenEMR.

Exit code 0: fine. 1: something was found or failed. 2: wrong use or a setting is missing. 130: interrupted.
Settings are EMRSYNC_… variables or a .env file."""


def build(arguments: Sequence[str]) -> typer.Typer:
    """Return the root with the section that the arguments name; the others are names with a line of help."""
    root = typer.Typer(
        name="emrsync", help=_HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
    # A root of one command would be that command itself.
    root.callback()(_root)
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    for section in SECTIONS:
        if section.name != called:
            root.command(section.name, help=section.help)(_not_loaded)
            continue
        module = importlib.import_module(section.module)
        if section.group:
            root.add_typer(module.app, name=section.name, help=section.help)
        else:
            root.command(section.name)(module.command)
    return root


def main() -> None:
    """Run a command; what may go wrong on any day ends in one message on standard error, not in a traceback."""
    # As Ctrl-C, so that what is held is let go; a command that finishes what is in hand has handlers of its own.
    # And the kernel gives the first process of a container only the signals that it catches.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        build(sys.argv[1:])()
    except KeyboardInterrupt:
        sys.exit(_interrupted())
    except SystemExit as ended:
        # The end of every command; the errors below need not be loaded for it.
        if ended.code == INTERRUPTED:
            _interrupted()
        raise
    except importlib.import_module("operations.failures").KNOWN as error:
        failures = importlib.import_module("operations.failures")
        typer.echo(f"error: {failures.message(error)}", err=True)
        sys.exit(failures.exit_code(error))
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupted() -> int:
    typer.echo("interrupted; what was done until then stays done, and the same command may be run again", err=True)
    return INTERRUPTED


def _root() -> None:
    """Hold the sections together."""


def _not_loaded() -> None:
    raise typer.Exit(2)
