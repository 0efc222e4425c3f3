"""A home from its first start to its end, with PostgreSQL as the server that starts fastest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from stack import ServiceNotReadyError, Stack, UnknownProgramError, processes
from stack.accounts import Accounts, server_accounts
from tests.integration.stack.leftovers import processes_of

POSTGRESQL = ("postgresql",)


def query(stack: Stack, statement: str) -> object:
    """Run one statement as administrator and return the first column of its first row, if it has one."""
    url = stack.env()["EMRSYNC_SOURCE_ADMIN_URL"].replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


def pid_of(stack: Stack, name: str) -> int:
    """Return the pid that supervisor knows of a program."""
    return next(program.pid for program in stack.status() if program.name == name)


def test_a_killed_server_stays_down_until_it_is_started_and_keeps_what_was_committed(stack: Stack) -> None:
    """The fault tests rely on both: nobody restarts it behind their back, and it is a crash, not a shutdown."""
    stack.up(POSTGRESQL)
    query(stack, "CREATE TABLE kept AS SELECT 42 AS answer")
    children = processes.family(pid_of(stack, "postgresql"))
    killed = stack.kill("postgresql")
    time.sleep(1.5)
    [status] = stack.status()
    stack.start("postgresql")

    # The backend that has just answered may have ended by itself.
    assert len(set(killed) & set(children)) > 3
    assert (status.state, status.pid) == ("STOPPED", 0)
    assert query(stack, "SELECT answer FROM kept") == 42
    assert "was not properly shut down" in stack.logs("postgresql", 100)


def test_a_second_up_touches_nothing(stack: Stack) -> None:
    """It is how a script makes sure."""
    stack.up(POSTGRESQL)
    before = pid_of(stack, "postgresql")
    lines: list[str] = []
    Stack(stack.layout.home, lines.append).up(POSTGRESQL)

    assert pid_of(stack, "postgresql") == before
    assert lines == []


def test_down_leaves_data_and_nothing_else(stack: Stack) -> None:
    """No process, no pid file, no socket; the next up finds the rows."""
    stack.up(POSTGRESQL)
    query(stack, "CREATE TABLE kept AS SELECT 42 AS answer")
    stack.down()
    left = processes_of(stack)
    files = [path.name for path in stack.layout.home.iterdir() if path.suffix in (".pid", ".sock")]
    stack.down()
    stack.up(POSTGRESQL)

    assert (left, files) == ((), [])
    assert query(stack, "SELECT answer FROM kept") == 42


def test_two_homes_run_side_by_side(stack: Stack, folder: Path) -> None:
    """Each has its own port, passwords and rows."""
    other = Stack(folder / "other")
    try:
        stack.up(POSTGRESQL)
        other.up(POSTGRESQL)
        query(stack, "CREATE TABLE only_here ()")

        assert query(other, "SELECT to_regclass('only_here')") is None
        assert stack.env()["EMRSYNC_SOURCE_ADMIN_URL"] != other.env()["EMRSYNC_SOURCE_ADMIN_URL"]
    finally:
        other.down(purge=True)

    assert query(stack, "SELECT 1") == 1


def test_a_service_that_cannot_start_is_named_with_the_last_lines_of_its_log_and_stopped(stack: Stack) -> None:
    """A reader sees the reason without knowing where the log is."""
    stack.up(POSTGRESQL)
    stack.down()
    (stack.layout.service_data() / "postgresql" / "data" / "PG_VERSION").write_text("9.1\n", encoding="utf-8")

    with pytest.raises(ServiceNotReadyError) as raised:
        stack.up(POSTGRESQL)

    assert raised.value.name == "postgresql"
    assert "initialized by PostgreSQL version 9.1" in str(raised.value)
    assert [(status.pid, status.problem is None) for status in stack.status()] == [(0, False)]


def test_what_a_dead_supervisor_left_running_is_ended_and_started_anew(stack: Stack) -> None:
    """As after an out-of-memory kill: servers without a parent would block the ports and the data."""
    stack.up(POSTGRESQL)
    orphan = pid_of(stack, "postgresql")
    supervisor = processes.find_supervisor(stack.layout.supervisor_conf)
    assert supervisor is not None
    processes.send([supervisor], signal.SIGKILL)
    processes.wait_gone([supervisor], 5)
    orphan_lived = processes.alive(orphan)
    stack.up(POSTGRESQL)

    assert orphan_lived
    assert not processes.alive(orphan)
    assert query(stack, "SELECT 1") == 1


def test_a_pid_file_that_names_somebody_else_harms_nobody(stack: Stack) -> None:
    """After a machine's crash its pids belong to other programs."""
    stack.up(POSTGRESQL)
    stack.down()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        stack.layout.supervisor_pid.write_text(f"{stranger.pid}\n", encoding="utf-8")
        stack.up(POSTGRESQL)
        stack.down()
        lived = stranger.poll() is None
        stranger.kill()

    assert lived


def test_servers_never_run_as_root_also_where_they_cannot_reach_the_home(tmp_path: Path) -> None:
    """A clone below /root is such a place; pytest's own folders are as well."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    lines: list[str] = []
    stack = Stack(closed / "home", lines.append)
    expected_user = os.geteuid() != 0 or server_accounts(lines.append) != Accounts(None, None, None)
    try:
        stack.up(POSTGRESQL)
        owner = Path(f"/proc/{pid_of(stack, 'postgresql')}").stat().st_uid
        outside = stack.layout.service_data()

        assert expected_user
        assert owner != 0
        assert stack.layout.services.is_symlink() == (os.geteuid() == 0)
        assert any("cannot reach" in line for line in lines) == (os.geteuid() == 0)
    finally:
        stack.down(purge=True)

    assert not outside.exists()


def test_an_interrupted_up_leaves_nothing_running(stack: Stack) -> None:
    """Ctrl-C while PostgreSQL is being made."""
    # A shell that starts this run in the background has it ignore SIGINT, which its children inherit.
    heeding = ["env", "--default-signal=INT"]
    argv = [*heeding, sys.executable, "-m", "stack", "up", "--home", str(stack.layout.home), "--service", "postgresql"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as command:
        assert command.stderr is not None
        while "starting postgresql" not in (line := command.stderr.readline()):
            assert line, "it ended before it started anything"
        command.send_signal(signal.SIGINT)
        said = command.stderr.read()
        code = command.wait(60)

    assert code != 0
    assert "interrupted" in said
    assert processes_of(stack) == ()


def test_a_program_that_crashes_comes_back_and_one_that_was_killed_does_not(stack: Stack) -> None:
    """Consumers run this way; their environment is what was given, not the caller's shell."""
    code = "import os, time; print(os.environ['WORD'], 'HTTP_PROXY' in os.environ, flush=True); time.sleep(600)"
    stack.up(POSTGRESQL)
    stack.add_program("consumer-1", [sys.executable, "-c", code], {"WORD": '100% "mine" now'})
    stack.start("consumer-1")
    first = pid_of(stack, "consumer-1")
    processes.send([first], signal.SIGKILL)
    deadline_s = time.monotonic() + 10
    while pid_of(stack, "consumer-1") in (0, first):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    time.sleep(1.2)
    stack.kill("consumer-1")
    time.sleep(1.5)
    after_kill = pid_of(stack, "consumer-1")
    said = stack.logs("consumer-1")
    stack.remove_program("consumer-1")

    assert after_kill == 0
    assert said.splitlines() == ['100% "mine" now False'] * 2
    assert [status.name for status in stack.status()] == ["postgresql"]
    with pytest.raises(UnknownProgramError, match="consumer-1"):
        stack.start("consumer-1")


def test_a_program_with_another_environment_is_stopped_and_told_as_changed(stack: Stack) -> None:
    """Whoever changes several can go on when the first is back."""
    argv = [sys.executable, "-c", "import time; time.sleep(600)"]
    stack.up(())
    first = stack.add_program("consumer-1", argv, {"WORD": "a"})
    stack.start("consumer-1")
    same = stack.add_program("consumer-1", argv, {"WORD": "a"})
    ran = pid_of(stack, "consumer-1")
    other = stack.add_program("consumer-1", argv, {"WORD": "b"})

    assert (first, same, other) == (False, False, True)
    assert ran
    assert not pid_of(stack, "consumer-1")


def test_a_killed_program_has_no_chance_to_tidy_up(stack: Stack, folder: Path) -> None:
    """What supervisor sends to mark it as stopped must not reach it: a crash gives no warning."""
    warned = folder / "warned"
    code = (
        "import signal, pathlib, time; "
        f"signal.signal(signal.SIGTERM, lambda *_: pathlib.Path({str(warned)!r}).touch()); "
        "print('ready', flush=True); [time.sleep(0.01) for _ in range(60000)]"
    )
    stack.up(())
    stack.add_program("consumer-1", [sys.executable, "-c", code], {})
    stack.start("consumer-1")
    killed = stack.kill("consumer-1")

    assert len(killed) == 1
    assert stack.logs("consumer-1") == "ready"
    assert not warned.exists()


def test_a_program_may_not_take_a_servers_name(stack: Stack) -> None:
    """It would replace the server."""
    with pytest.raises(ValueError, match="kafka"):
        stack.add_program("kafka", ["true"], {})
