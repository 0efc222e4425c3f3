"""The commands of `emrsync stack`: words around the API, and exit codes 0 fine, 1 found something, 2 wrong use."""

import dataclasses
import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from stack.config import StackSettings
from stack.errors import StackError, UnknownProgramError
from stack.installation import install
from stack.servers import SERVICES, chosen_services
from stack.stack import ProgramStatus, Stack
from stack.synthea.simulator import PATIENTS_MAX, simulate

app = typer.Typer(
    no_args_is_help=True,
    help="Real PostgreSQL, MariaDB, Kafka and Kafka Connect on this machine, without Docker.",
)

Home = Annotated[
    Path | None,
    typer.Option(
        "--home", help="Folder of this stack; EMRSYNC_STACK_HOME or .stack when left out.", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ConnectAuth = Annotated[
    bool, typer.Option("--connect-auth", help="Ask for a user and password at Kafka Connect's REST interface.")
]
Name = Annotated[str, typer.Argument(help="Program, as `status` lists it.")]


def report(line: str) -> None:
    """Print a line of progress, apart from results."""
    typer.echo(line, err=True)


def stack_at(home: Path | None, progress: Callable[[str], None] = report) -> Stack:
    """Return the stack of a home given on the command line or by the environment."""
    return Stack(home or StackSettings().stack_home, progress)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn errors of the stack into their message and exit code."""
    try:
        yield
    except UnknownProgramError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    except StackError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


@app.command()
def up(
    home: Home = None,
    service: Annotated[list[str] | None, typer.Option(help="Only this service (repeatable).")] = None,
    workers: Annotated[int, typer.Option(help="Kafka Connect workers.")] = 1,
    connect_auth: ConnectAuth = False,
) -> None:
    """Start what is down and wait until everything answers."""
    with exit_codes():
        stack = stack_at(home)
        stack.up(services=tuple(service or SERVICES), workers=workers, connect_auth=connect_auth)
        print_status(stack.status())


@app.command(name="install")
def install_packages(
    service: Annotated[list[str] | None, typer.Option(help="Only for this service (repeatable).")] = None,
) -> None:
    """Install the packages and jars that the servers need, and start nothing."""
    with exit_codes():
        install(chosen_services(service or SERVICES, workers=1), report)


@app.command()
def down(
    home: Home = None,
    purge: Annotated[bool, typer.Option("--purge", help="Remove the data, ports and passwords too.")] = False,
) -> None:
    """Stop everything that runs in the home."""
    with exit_codes():
        stack_at(home).down(purge=purge)


@app.command()
def status(home: Home = None, as_json: AsJson = False) -> None:
    """Show every program; exit code 1 when one does not run or answer."""
    with exit_codes():
        programs = stack_at(home).status()
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(program) for program in programs], indent=2))
    else:
        print_status(programs)
    if any(program.problem for program in programs):
        raise typer.Exit(1)


@app.command()
def env(home: Home = None, as_json: AsJson = False) -> None:
    """Print the variables that point the other commands at this stack, as `export` lines."""
    with exit_codes():
        variables = stack_at(home).env()
    if as_json:
        typer.echo(json.dumps(dict(variables), indent=2))
        return
    for name, value in variables.items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@app.command()
def logs(
    name: Name,
    home: Home = None,
    lines: Annotated[int, typer.Option(help="How many of the last lines.", min=1)] = 50,
    as_json: AsJson = False,
) -> None:
    """Print the last lines of a program's log."""
    with exit_codes():
        text = stack_at(home).logs(name, lines)
    typer.echo(json.dumps({"name": name, "lines": text.splitlines()}, indent=2) if as_json else text)


@app.command()
def start(name: Name, home: Home = None) -> None:
    """Start a program and wait until it answers."""
    with exit_codes():
        stack_at(home).start(name)


@app.command()
def stop(name: Name, home: Home = None) -> None:
    """Stop a program; it stays down until started."""
    with exit_codes():
        stack_at(home).stop(name)


@app.command()
def kill(name: Name, home: Home = None) -> None:
    """Kill a program with SIGKILL, as a crash would; it stays down until started."""
    with exit_codes():
        stack_at(home).kill(name)


@app.command()
def synthea(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; the CSV files go to DIR/csv.")],
    patients: Annotated[int, typer.Option(min=1, max=PATIENTS_MAX, help="Living patients to simulate.")] = 20,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 1,
) -> None:
    """Simulate patients with Synthea, as input for `emrsync app import synthea`."""
    with exit_codes():
        typer.echo(str(simulate(folder, patients=patients, seed=seed, report=report)))


def print_status(programs: tuple[ProgramStatus, ...]) -> None:
    """Print programs as a table."""
    table = Table(box=None)
    for heading in ("program", "state", "pid", "port", "up", "problem"):
        table.add_column(heading)
    for program in programs:
        table.add_row(
            program.name,
            program.state,
            str(program.pid or ""),
            str(program.port or ""),
            f"{program.up_s} s",
            program.problem or "",
        )
    Console().print(table)
