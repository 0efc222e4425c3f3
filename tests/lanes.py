"""All tests in two runs of pytest side by side, of which one mostly waits; what measures comes after them, alone."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
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

FAILURE_LINES_MAX: Final = 100
"""Of a lane's failures at the end; all of them are above."""

OUTPUT_LIMIT_S: Final = 10.0
"""For the rest of the output of a lane that has ended."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a lane ended: pytest's exit code and last line, and its own summary of what failed."""

    code: int
    last_line: str
    failures: Sequence[str]


def run_phases(phases: Sequence[Lanes], write: Callable[[str], None]) -> int:
    """Run one phase after the other, also after a failure, but not after a signal; return the worst exit code.

    What a reader of a long log looks for comes last: how each lane ended, below it the tests that failed.
    """
    ended: dict[str, Ended] = {}
    for lanes in phases:
        ended |= run_lanes(lanes, write)
        if any(lane.code == INTERRUPTED for lane in ended.values()):
            break
    for name, lane in ended.items():
        write(f"{name}: exit code {lane.code}: {lane.last_line}\n")
        for failure in lane.failures:
            write(f"{name}: {failure}\n")
    return max((lane.code for lane in ended.values()), key=abs)


def run_lanes(lanes: Lanes, write: Callable[[str], None]) -> Mapping[str, Ended]:
    """Run pytest once for each lane, write their lines with the lane's name, and return how each ended.

    Each lane has a chain of its own. SIGINT and SIGTERM go on to every lane once, which then stops its servers.
    """
    running: dict[str, subprocess.Popen[str]] = {}
    lines: dict[str, list[str]] = {name: [] for name in lanes}
    pumps = []
    # Before they start: a shell lets what it runs in the background ignore SIGINT, and pytest would inherit that.
    with _passing_signals_to(running.values()):
        for name, arguments in lanes.items():
            process = running[name] = _start(arguments)
            pumps.append(threading.Thread(target=_pump, args=(name, process, write, lines[name]), daemon=True))
            pumps[-1].start()
        codes = {name: process.wait() for name, process in running.items()}
    for pump in pumps:
        pump.join(OUTPUT_LIMIT_S)
    return {name: _ended(code, lines[name]) for name, code in codes.items()}


def _ended(code: int, lines: Sequence[str]) -> Ended:
    headings = [number for number, line in enumerate(lines) if "= short test summary info =" in line]
    failures = lines[headings[-1] + 1 : -1] if headings else ()
    last_line = lines[-1].strip("= \n") if lines else ""
    return Ended(code, last_line, [line.rstrip() for line in failures[:FAILURE_LINES_MAX]])


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


def _pump(name: str, process: subprocess.Popen[str], write: Callable[[str], None], written: list[str]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            write(f"{name} | {line}")
            written.append(line)


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
