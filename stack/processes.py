"""Which processes belong to a home: told by what they are, never by a remembered pid alone."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

MARK_VARIABLE = "EMRSYNC_STACK_PROGRAM"
_PROC = Path("/proc")
_POLL_S = 0.05


def mark(home_id: str, program: str) -> str:
    """Return the value of MARK_VARIABLE in the environment of a supervised program."""
    return f"{home_id}/{program}"


def command_line(pid: int) -> tuple[str, ...]:
    """Return the arguments of a process, empty when there is no such process."""
    return tuple(part.decode(errors="replace") for part in _read(pid, "cmdline").split(b"\0") if part)


def is_supervisor_of(pid: int, conf: Path) -> bool:
    """Say whether `pid` is the supervisord that was started with this configuration: a pid alone may be reused."""
    arguments = command_line(pid)
    return str(conf) in arguments and any("supervisord" in argument for argument in arguments)


def find_supervisor(conf: Path) -> int | None:
    """Return the pid of the supervisord of this configuration, also when its pid file is stale or gone."""
    return next((pid for pid in _pids() if is_supervisor_of(pid, conf)), None)


def marked_processes(home_id: str) -> tuple[int, ...]:
    """Return the processes that carry the mark of this home in the environment they were started with."""
    wanted = f"{MARK_VARIABLE}={home_id}/".encode()
    return tuple(
        pid
        for pid in _pids()
        if pid != os.getpid() and any(part.startswith(wanted) for part in _read(pid, "environ").split(b"\0"))
    )


def family(pid: int) -> tuple[int, ...]:
    """Return the process and all its descendants."""
    children: dict[int, list[int]] = {}
    for candidate in _pids():
        children.setdefault(_parent(candidate), []).append(candidate)
    found = [pid]
    for member in found:
        found.extend(children.get(member, ()))
    return tuple(found)


def alive(pid: int) -> bool:
    """Say whether the process runs; a zombie does not."""
    status = _read(pid, "stat")
    return bool(status) and status.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Signal each process that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def wait_gone(pids: Iterable[int], limit_s: float) -> tuple[int, ...]:
    """Wait until the processes have ended; return those that have not within the limit."""
    deadline_s = time.monotonic() + limit_s
    left = tuple(pid for pid in pids if alive(pid))
    while left and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
        left = tuple(pid for pid in left if alive(pid))
    return left


def end(pids: Iterable[int], *, term_limit_s: float) -> tuple[int, ...]:
    """End the processes: SIGTERM, and SIGKILL to those that stay past the limit; return the killed ones."""
    asked = tuple(pids)
    send(asked, signal.SIGTERM)
    stubborn = wait_gone(asked, term_limit_s)
    send(stubborn, signal.SIGKILL)
    wait_gone(stubborn, 10)
    return stubborn


def _pids() -> tuple[int, ...]:
    return tuple(int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


def _parent(pid: int) -> int:
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def _read(pid: int, name: str) -> bytes:
    try:
        return (_PROC / str(pid) / name).read_bytes()
    except OSError:
        # It ended meanwhile, or belongs to another user, whose processes are not ours.
        return b""
