"""The root command: every section loads, help comes without loading any, and errors are one line."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import stack.cli
from operations import cli, stack_commands

HEAVY = ("sqlalchemy", "httpx", "confluent_kafka", "alembic", "pydantic", "fastapi", "structlog")


@pytest.mark.parametrize("section", cli.SECTIONS, ids=lambda section: section.name)
def test_every_section_loads_and_explains_itself(section: cli.Section) -> None:
    """A word in the table without its module would fail only when somebody needs it."""
    shown = CliRunner().invoke(cli.build([section.name]), [section.name, "--help"])

    assert shown.exit_code == 0
    assert "Usage" in shown.output
    attribute = importlib.import_module(section.module)
    assert hasattr(attribute, "app" if section.group else "command")


def test_help_lists_every_section() -> None:
    """Whoever asks sees all there is."""
    shown = CliRunner().invoke(cli.build([]), ["--help"])

    assert shown.exit_code == 0
    assert [section.name for section in cli.SECTIONS if section.name not in shown.output] == []


def test_help_loads_nothing_heavy() -> None:
    """It comes at once; the section's modules are loaded when the section is called."""
    script = f"import sys, operations.cli; operations.cli.build([]); print([m for m in {HEAVY!r} if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["connector", "status"], 2, "EMRSYNC_CONNECT_URL is not set"),
        (["connector", "apply"], 2, "EMRSYNC_SOURCE_URL is not set"),
        (["provision"], 2, "not set: EMRSYNC_SOURCE_URL, EMRSYNC_KAFKA_BOOTSTRAP_SERVERS, EMRSYNC_CONNECT_URL"),
        (["dead-letter", "list"], 2, "not set: EMRSYNC_KAFKA_BOOTSTRAP_SERVERS, EMRSYNC_OPENEMR_URL"),
        (["dead-letter", "discard", "0-1"], 2, "Missing option '--why'"),
        (["retry", "run"], 2, "EMRSYNC_OPENEMR_URL: Field required"),
        (["retry", "select", "--error-class", "nonsense"], 2, "nonsense"),
        (["connector", "frobnicate"], 2, "No such command"),
        (["nonsense"], 2, "No such command"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_is_told_with_code_2(
    arguments: list[str], code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The variable or word is named, and no traceback is shown."""
    assert _run(arguments, monkeypatch) == code

    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown


@pytest.mark.usefixtures("bare")
def test_a_system_that_is_down_is_one_line_with_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line says what does not answer, where, and what to do."""
    monkeypatch.setenv("EMRSYNC_CONNECT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("operations.connector_commands.RETRY_LIMIT_S", 0.0)

    assert _run(["connector", "status"], monkeypatch) == 1

    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: Kafka Connect does not answer at http://127.0.0.1:9")
    assert len(shown.err.splitlines()) == 1


@pytest.mark.usefixtures("bare")
def test_a_url_that_is_none_does_not_show_its_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped URL still holds a secret."""
    monkeypatch.setenv("EMRSYNC_SOURCE_URL", "postgresql//app:hunter2@db/clinic")

    assert _run(["connector", "apply"], monkeypatch) == 2

    shown = capsys.readouterr().err
    assert "EMRSYNC_SOURCE_URL" in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_a_signal_ends_says_so_in_one_line(number: signal.Signals) -> None:
    """Any command that has no way of its own to stop; code 130, whoever has sent the signal."""
    script = (
        "import os, sys, operations.cli as cli; "
        f"cli._not_loaded = lambda: os.kill(os.getpid(), {int(number)}) or print('went on'); "
        "sys.argv = ['emrsync', 'status']; "
        "cli.build = lambda _words, build=cli.build: build([]); cli.main()"
    )

    done = subprocess.run(
        ["env", "--default-signal=INT,TERM", sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (cli.INTERRUPTED, "")
    assert done.stderr == ("interrupted; what was done until then stays done, and the same command may be run again\n")


def test_the_stack_section_has_every_command_of_the_stack() -> None:
    """`up` is another one, which also provisions; a command added to the stack appears by itself."""
    assert _names(stack_commands.app) == _names(stack.cli.app)
    up = next(command for command in stack_commands.app.registered_commands if _name(command) == "up")
    assert up.callback is stack_commands.up


def _run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["emrsync", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def _names(app: typer.Typer) -> list[str]:
    return sorted(_name(command) for command in app.registered_commands)


def _name(command: typer.models.CommandInfo) -> str:
    return command.name or str(getattr(command.callback, "__name__", ""))


FIRST_PROCESS = """
import os, signal, sys
os.getpid = lambda: 1
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what the kernel does for process 1 until it catches a signal
sys.argv = ["emrsync", "status"]
import operations.cli
operations.cli.main()
"""


def test_the_first_process_of_a_container_ends_by_sigterm(tmp_path: Path) -> None:
    """Also while it waits for a server that says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        url = f"postgresql+psycopg://marker:Sesame@127.0.0.1:{silent.getsockname()[1]}/clinic"
        environment = {**os.environ, "EMRSYNC_SOURCE_URL": url, "PYTHONPATH": str(Path.cwd())}
        with subprocess.Popen([sys.executable, "-c", FIRST_PROCESS], env=environment, cwd=tmp_path) as process:
            accepted, _ = silent.accept()
            process.send_signal(signal.SIGTERM)
            try:
                assert process.wait(timeout=10) == cli.INTERRUPTED
            finally:
                process.kill()
                accepted.close()
