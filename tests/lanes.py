"""All tests in two runs of pytest side by side, of which one mostly waits; what measures comes after them, alone."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final, TypeAlias

ROOT: Final = Path(__file__).parents[1]

PROCESSES: Final = (
    "tests/integration/stack",
    "tests/e2e/test_crash_points.py",
    "tests/e2e/test_outages.py",
    "tests/e2e/test_restore.py",
    "tests/e2e/test_resync.py",
)
"""Tests that start, stop and kill programs, and mostly wait for them."""

ALONE: Final = ("tests/e2e/test_soak.py",)
"""Tests that measure how fast the chain is."""

Lanes: TypeAlias = Mapping[str, Sequence[str]]
"""The arguments of pytest by the name of the lane."""

PHASES: Final[Sequence[Lanes]] = (
    {"databases": ("tests", *(f"--ignore={path}" for path in (*PROCESSES, *ALONE))), "processes": PROCESSES},
    {"alone": ALONE},
)

INTERRUPTED: Final = 2
"""pytest's exit code after a signal."""

OUTPUT_LIMIT_S: Final = 10.0
"""For the rest of the output of a lane that has ended."""


def run_phases(phases: Sequence[Lanes], write: Callable[[str], None]) -> int:
    """Run one phase after the other, also after a failure, but not after a signal; return the worst exit code."""
    worst = 0
    for lanes in phases:
        code = run_lanes(lanes, write)
        worst = max(worst, code, key=abs)
        if code == INTERRUPTED:
            break
    return worst


def run_lanes(lanes: Lanes, write: Callable[[str], None]) -> int:
    """Run pytest once for each lane, write their lines with the lane's name, and return the worst exit code.

    Each lane has a chain of its own. SIGINT and SIGTERM go on to every lane once, which then stops its servers.
    """
    running = {name: _start(arguments) for name, arguments in lanes.items()}
    last_lines: dict[str, str] = {}
    pumps = [
        threading.Thread(target=_pump, args=(name, process, write, last_lines), daemon=True)
        for name, process in running.items()
    ]
    for pump in pumps:
        pump.start()
    with _passing_signals_to(running.values()):
        codes = {name: process.wait() for name, process in running.items()}
    for pump in pumps:
        pump.join(OUTPUT_LIMIT_S)
    for name, code in codes.items():
        write(f"{name}: exit code {code}: {last_lines.get(name, '').strip('= ')}\n")
    return max(codes.values(), key=abs)


def _start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    # A session of its own: a Ctrl-C must reach it once, not from the terminal and from us, or the second one would
    # interrupt the stopping of servers.
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "pytest", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _pump(name: str, process: subprocess.Popen[str], write: Callable[[str], None], last_lines: dict[str, str]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            write(f"{name} | {line}")
            last_lines[name] = line


@contextlib.contextmanager
def _passing_signals_to(processes: Collection[subprocess.Popen[str]]) -> Iterator[None]:
    def pass_on(number: int, _frame: FrameType | None) -> None:
        for process in processes:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
