"""A server as a value: how to prepare it, what to run, and how to tell that it answers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stack.accounts import Accounts
from stack.jmx.agent import JmxAgent
from stack.layout import Layout
from stack.programs import Program
from stack.state import State

PROBE_LIMIT_S = 2.0


@dataclass(frozen=True)
class Site:
    """Everything that a server's configuration is made from; `services` is free of symbolic links."""

    layout: Layout
    state: State
    accounts: Accounts
    services: Path
    kafka_jars: Path
    plugin_folders: tuple[Path, ...]
    jmx: JmxAgent | None = None

    def port(self, name: str) -> int:
        """Return the port chosen for a service."""
        return self.state.ports[name]

    def password(self, account: str) -> str:
        """Return the password made for an account."""
        return self.state.passwords[account]


def nothing() -> None:
    """Do nothing: for a service that needs no step."""


@dataclass(frozen=True)
class Service:
    """A server of the stack.

    `prepare` makes data and configuration and may be repeated; `probe` returns why the server does not answer yet,
    None when it does; `finish` is run after the first answer of a start and may be repeated.
    """

    program: Program
    port: int
    ready_limit_s: float
    prepare: Callable[[], None]
    probe: Callable[[], str | None]
    finish: Callable[[], None] = nothing

    @property
    def name(self) -> str:
        """The program's name."""
        return self.program.name
