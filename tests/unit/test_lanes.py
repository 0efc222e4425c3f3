"""The two lanes of `make test`: every test is in one of them, and a failure or a signal in either is not lost."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from tests.lanes import ALONE, PHASES, PROCESSES, ROOT, run_phases

SLOW = """
import time, pytest

@pytest.fixture(scope="session")
def servers():
    yield
    open({stopped!r}, "w").close()

def test_waits(servers):
    open({begun!r}, "w").close()
    time.sleep(60)
"""

RED = """
import pytest

@pytest.fixture
def broken():
    yield
    assert 1 == 2

def test_red(broken):
    assert 0
"""


def lane(path: Path, text: str) -> tuple[str, ...]:
    """Write a test and give the arguments that run only it, without this project's own servers."""
    path.write_text(text)
    return ("--noconftest", f"--rootdir={path.parent}", str(path))


def test_every_test_is_in_one_lane() -> None:
    """The first leaves out what the others have."""
    first, second = PHASES
    assert first["databases"] == ("tests", *(f"--ignore={path}" for path in (*PROCESSES, *ALONE)))
    assert (first["processes"], second["alone"]) == (PROCESSES, ALONE)
    assert all((ROOT / path).exists() for path in (*PROCESSES, *ALONE))


def test_a_failure_in_one_lane_fails_all_and_the_other_goes_on(tmp_path: Path) -> None:
    """Each line has its lane's name, and the last lines say how each ended and which tests failed."""
    written: list[str] = []
    lanes = {
        "red": lane(tmp_path / "test_red.py", RED),
        "green": lane(tmp_path / "test_green.py", "def test_green():\n    pass\n"),
    }

    code = run_phases([lanes, {"later": lanes["green"]}], written.append)

    assert code == 1
    ends = written[-5:]
    assert ends[0].startswith("red: exit code 1: 1 failed, 1 error in ")
    assert ends[1].startswith("red: FAILED ")
    assert "test_red.py::test_red" in ends[1]
    assert ends[2].startswith("red: ERROR ")
    assert "test_red.py::test_red" in ends[2]
    assert ends[3].startswith("green: exit code 0: 1 passed in ")
    assert ends[4].startswith("later: exit code 0: 1 passed in ")
    assert any(line.startswith("red | ") and "assert 0" in line for line in written)


def test_a_stop_lets_each_lane_stop_its_servers(tmp_path: Path) -> None:
    """Once, and waits for it."""
    lanes = {}
    for name in ("one", "other"):
        stopped, begun = str(tmp_path / f"{name}.stopped"), str(tmp_path / f"{name}.begun")
        lanes[name] = lane(tmp_path / f"test_{name}.py", SLOW.format(stopped=stopped, begun=begun))

    def interrupt() -> None:
        while len([*tmp_path.glob("*.begun")]) < len(lanes):
            if over.wait(0.05):
                return
        os.kill(os.getpid(), signal.SIGINT)

    over = threading.Event()
    person = threading.Thread(target=interrupt)
    person.start()
    try:
        code = run_phases([lanes, {"never": ("no-such-folder",)}], lambda _: None)
    finally:
        over.set()
        person.join()

    assert code == 2
    assert len([*tmp_path.glob("*.stopped")]) == len(lanes)
