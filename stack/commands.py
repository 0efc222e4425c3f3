"""Running the short programs that prepare a server, with their output kept for the error."""

import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from stack.errors import CommandFailedError

TAIL_LINES = 15


def tail(text: str, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a text."""
    return "\n".join(text.rstrip().splitlines()[-lines:])


def tail_of_file(path: Path, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a file, or nothing when there is no such file; reads at most its last 256 KiB."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 256 * 1024))
        return tail(file.read().decode("utf-8", errors="replace"), lines)


def plain_environment(**extra: str) -> dict[str, str]:
    """Return an environment that owes nothing to the caller's shell: PATH, HOME, a UTF-8 locale, and `extra`."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "HOME": str(Path.home()), "LANG": "C.UTF-8", **extra}


def run(
    argv: Sequence[str],
    *,
    limit_s: float,
    user: str | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Path = Path("/"),
    text_in: str | None = None,
) -> str:
    """Run a program to its end, as `user` when given (needs root), and return what it printed.

    Raises:
        CommandFailedError: it is not installed, failed, or took longer than `limit_s` seconds.
    """
    try:
        done = subprocess.run(
            argv,
            user=user,
            group=None if user is None else _group_of(user),
            extra_groups=None if user is None else [],
            env=plain_environment() if environment is None else dict(environment),
            cwd=directory,
            input=text_in,
            stdin=subprocess.DEVNULL if text_in is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise CommandFailedError(f"{argv[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise CommandFailedError(f"{argv[0]} did not end within {limit_s:.0f} s") from error
    if done.returncode != 0:
        raise CommandFailedError(f"{' '.join(argv[:3])} … failed with code {done.returncode}:\n{tail(done.stdout)}")
    return done.stdout


def _group_of(user: str) -> int:
    return pwd.getpwnam(user).pw_gid


def is_root() -> bool:
    """Say whether this process may act as other users."""
    return os.geteuid() == 0
