"""The commands of `emrsync stack`: those of the stack, of which `up` also provisions what it has started."""

from __future__ import annotations

from typing import Annotated

import typer

import stack.cli
from consumer.openemr.installation import DEFAULT_VERSION
from operations.config import OperationsSettings
from operations.provision import Choices, provision
from operations.provision_command import OpenemrVersion, say
from stack.servers import SERVICES

app = typer.Typer(no_args_is_help=True)


@app.command()
def up(
    *,
    home: stack.cli.Home = None,
    service: Annotated[list[str] | None, typer.Option(help="Only this service (repeatable).")] = None,
    workers: Annotated[int, typer.Option(help="Kafka Connect workers.")] = 1,
    connect_auth: stack.cli.ConnectAuth = False,
    servers_only: Annotated[bool, typer.Option("--servers-only", help="Start servers, provision nothing.")] = False,
    openemr_version: OpenemrVersion = DEFAULT_VERSION,
) -> None:
    """Start what is down, wait until everything answers, and make it ready for the pipeline."""
    with stack.cli.exit_codes():
        here = stack.cli.stack_at(home)
        here.up(services=tuple(service or SERVICES), workers=workers, connect_auth=connect_auth)
        variables = here.env()
        programs = here.status()
    if not servers_only:
        if service and set(service) != set(SERVICES):
            say("provisioning is left out, as it needs all services")
        else:
            provision(OperationsSettings.of(variables), Choices(openemr_version=openemr_version), report=say)
    stack.cli.print_status(programs)


# Every other command is the stack's own.
for _command in stack.cli.app.registered_commands:
    if _command.callback is not stack.cli.up:
        app.registered_commands.append(_command)
