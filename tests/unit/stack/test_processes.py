"""Which processes belong to a home."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack import processes

SLEEP = "import time; time.sleep(60)"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Give a process that only sleeps and carries the mark of home `abc`."""
    environment = {**os.environ, processes.MARK_VARIABLE: processes.mark("abc", "kafka")}
    with subprocess.Popen([sys.executable, "-c", SLEEP], env=environment) as process:
        # between fork and exec it still looks like us
        while SLEEP not in processes.command_line(process.pid):
            time.sleep(0.01)
        yield process
        process.kill()


def test_a_reused_pid_is_not_taken_for_a_supervisor(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """The pid in a stale pid file may be anybody's; it must not be killed."""
    conf = tmp_path / "supervisord.conf"

    assert not processes.is_supervisor_of(sleeper.pid, conf)
    assert processes.find_supervisor(conf) is None


def test_a_supervisor_is_known_by_its_configuration(tmp_path: Path) -> None:
    """Another home's supervisord is not ours."""
    conf = tmp_path / "supervisord.conf"
    argv = [sys.executable, "-c", SLEEP, "supervisord", "-c", str(conf)]
    with subprocess.Popen(argv) as process:
        while str(conf) not in processes.command_line(process.pid):
            time.sleep(0.01)
        found, other = processes.find_supervisor(conf), processes.find_supervisor(tmp_path / "other.conf")
        pid = process.pid
        process.kill()

    assert (found, other) == (pid, None)


def test_marked_processes_are_those_of_the_home_only(sleeper: subprocess.Popen[bytes]) -> None:
    """A home id is no prefix of another."""
    assert processes.marked_processes("abc") == (sleeper.pid,)
    assert processes.marked_processes("ab") == ()


def test_a_family_includes_grandchildren(tmp_path: Path) -> None:
    """A wrapper's children die with it."""
    ready = tmp_path / "ready"
    script = f"sh -c ': > {ready}; sleep 60; true'; true"
    with subprocess.Popen(["sh", "-c", script], start_new_session=True) as process:
        while not ready.exists() or len(processes.family(process.pid)) < 3:
            time.sleep(0.01)
        family = processes.family(process.pid)
        processes.end(family, term_limit_s=5)
        left = [pid for pid in family if processes.alive(pid)]

    assert len(family) >= 3
    assert left == []


def test_a_process_that_ignores_sigterm_is_killed_and_named() -> None:
    """The limit holds for everyone."""
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        killed = processes.end([process.pid], term_limit_s=0.3)

    assert killed == (process.pid,)


def test_the_end_of_a_process_that_is_gone_is_no_error() -> None:
    """It may end between two looks."""
    with subprocess.Popen(["true"]) as process:
        pid = process.pid

    assert processes.end([pid], term_limit_s=0.1) == ()
    assert not processes.alive(pid)
