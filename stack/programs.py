"""A supervised program as a value, and how it is written for supervisor."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stack.processes import MARK_VARIABLE, mark

_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")
_QUOTES = "\"'"
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Program:
    """What supervisor keeps running; `user` None means as ourselves."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path = Path("/")
    user: str | None = None
    stop_signal: str = "TERM"
    stop_limit_s: int = 30

    def __post_init__(self) -> None:
        """Refuse what supervisor's configuration format cannot carry.

        Raises:
            ValueError: a name or a value would be misread.
        """
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"program name {self.name!r} must be lower case letters, digits and dashes")
        if not self.argv:
            raise ValueError(f"program {self.name} has no command")
        for value in (*self.argv, *self.environment.values(), str(self.directory)):
            if "\n" in value or "\0" in value:
                raise ValueError(f"program {self.name}: a line break or NUL in an argument or variable")
            if re.search(r"\s[;#]", value):
                raise ValueError(f"program {self.name}: ' ;' or ' #' starts a comment in supervisor's configuration")
        for name, value in self.environment.items():
            if not _ENVIRONMENT_NAME.fullmatch(name):
                raise ValueError(f"program {self.name}: variable {name} has a bad name")
            # Its reader knows both quotes and no way to write one within itself, and strips both at either end.
            if set(_QUOTES) <= set(value) or value.strip(_QUOTES) != value:
                raise ValueError(f"program {self.name}: variable {name} begins or ends with a quote, or has both kinds")

    def render(self, *, log: Path, home_id: str) -> str:
        """Return the [program] section."""
        variables = {**self.environment, MARK_VARIABLE: mark(home_id, self.name)}
        environment = ",".join(f"{name}={_quoted(value)}" for name, value in sorted(variables.items()))
        lines = [
            f"[program:{self.name}]",
            f"command={_literal(shlex.join(self.argv))}",
            f"directory={_literal(str(self.directory))}",
            f"environment={_literal(environment)}",
            # Started by name, so that a start waits for what it needs and says what failed.
            "autostart=false",
            # A crash is repaired; a program that was stopped or killed by our command stays down.
            "autorestart=unexpected",
            "startsecs=1",
            # Retries back off by 1 s, 2 s: PostgreSQL needs one when the children of a killed server linger.
            "startretries=2",
            f"stopsignal={self.stop_signal}",
            f"stopwaitsecs={self.stop_limit_s}",
            # A shell or wrapper must not outlive, or be outlived by, what it runs.
            "stopasgroup=true",
            "killasgroup=true",
            "redirect_stderr=true",
            f"stdout_logfile={_literal(str(log))}",
            "stdout_logfile_maxbytes=50MB",
            "stdout_logfile_backups=1",
        ]
        if self.user is not None:
            lines.append(f"user={self.user}")
        return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    return f"'{value}'" if '"' in value else f'"{value}"'


def _literal(value: str) -> str:
    return value.replace("%", "%%")
