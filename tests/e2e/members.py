"""Members of the consumer group as real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

START_LIMIT_S: Final = 30.0
STOP_LIMIT_S: Final = 20.0
PROBE_INTERVAL_S: Final = 0.05
LOG_END_CHARACTERS: Final = 6_000


RUN: Final = ("operations", "consumer", "run")
RETRY: Final = ("operations", "retry", "run")


class Member:
    """One `emrsync consumer run`, or another module that runs a member, its log in a file."""

    def __init__(self, environment: Mapping[str, str], log: Path, module: Sequence[str] = RUN) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *module],
                env={**os.environ, "PYTHONFAULTHANDLER": "1", **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text(encoding="utf-8")

    def has_ended(self) -> bool:
        """Tell whether it runs no more."""
        return self._process.poll() is not None

    def wait_assigned(self, *, or_ended: bool = False) -> None:
        """Wait until it owns partitions, or until it has died, where that may come first."""

        def settled() -> bool:
            return '"action": "assigned"' in self.log or (or_ended and self.has_ended())

        wait_for(settled, START_LIMIT_S, lambda: self.log)

    def kill(self) -> None:
        """End it with -9."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(STOP_LIMIT_S)

    def terminate(self) -> tuple[int, float]:
        """Ask it to stop; return its exit code and how long it took in seconds."""
        started = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(STOP_LIMIT_S)
        return code, time.monotonic() - started

    def wait_ended(self) -> int:
        """Wait until it ends by itself; return its exit code."""
        return self._process.wait(START_LIMIT_S)

    def close(self) -> None:
        """Leave nothing running, and the group without a member that is only presumed alive."""
        if self._process.poll() is None:
            try:
                self.terminate()
            except subprocess.TimeoutExpired:
                raise AssertionError(f"does not stop within {STOP_LIMIT_S} s: {self._where_it_hangs()}") from None

    def _where_it_hangs(self) -> str:
        """End it with its stacks in the log, by Python's faulthandler; return the log's end."""
        self._process.send_signal(signal.SIGABRT)
        self._process.wait(STOP_LIMIT_S)
        return self.log[-LOG_END_CHARACTERS:]


@contextlib.contextmanager
def member(environment: Mapping[str, str], log: Path) -> Iterator[Member]:
    """Give a member that owns partitions, and stop it in every case."""
    started = Member(environment, log)
    try:
        started.wait_assigned()
        yield started
    finally:
        started.close()


def wait_for(
    condition: Callable[[], bool],
    limit_s: float,
    tell: Callable[[], object],
    *,
    interval_s: float = PROBE_INTERVAL_S,
) -> None:
    """Wait until a condition holds; fail with what `tell` knows when it does not in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit_s} s: {tell()}")
        time.sleep(interval_s)
