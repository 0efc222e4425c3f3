"""The whole stack once: every server answers on ports of its own, as configured."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy
from typer.testing import CliRunner

from stack import Stack, processes
from stack.cli import app
from stack.commands import is_root
from stack.ports import DEFAULT_PORTS, LOOPBACK
from tests.integration.stack.leftovers import processes_of

NAMES = ["postgresql", "mariadb", "kafka", "connect-1", "connect-2"]


@pytest.fixture(scope="module")
def whole() -> Iterator[Stack]:
    """Give the whole stack with two workers, up beside whoever holds the default ports."""
    folder = Path(tempfile.mkdtemp(prefix="emrsync-test-"))
    folder.chmod(0o755)
    stack = Stack(folder / "home")
    try:
        with contextlib.ExitStack() as holders:
            for port in DEFAULT_PORTS.values():
                with contextlib.suppress(OSError):
                    holders.enter_context(socket.create_server((LOOPBACK, port)))
            stack.up(workers=2)
            yield stack
    finally:
        stack.down()
        left = processes_of(stack)
        stack.down(purge=True)
        shutil.rmtree(folder)
    assert left == ()


def scalar(url: str, statement: str) -> object:
    """Return the one value that a statement gives."""
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        return connection.execute(sqlalchemy.text(statement)).scalar_one()


def test_every_program_runs_and_answers_beside_the_defaults(whole: Stack) -> None:
    """All default ports are taken: by us, or by whoever was there before."""
    statuses = whole.status()

    assert [status.name for status in statuses] == NAMES
    assert [(status.state, status.problem) for status in statuses] == [("RUNNING", None)] * len(NAMES)
    assert not {status.port for status in statuses} & set(DEFAULT_PORTS.values())


def test_no_server_runs_as_root(whole: Stack) -> None:
    """PostgreSQL refuses to; the others would work, and would own the machine when broken into."""
    owners = {Path(f"/proc/{status.pid}").stat().st_uid for status in whole.status()}

    assert 0 not in owners
    assert len(owners) == (3 if is_root() else 1)


def test_the_source_is_ready_for_logical_decoding(whole: Stack) -> None:
    """As the connector's publication and slot need it."""
    url = whole.env()["EMRSYNC_SOURCE_ADMIN_URL"]
    settings = ("wal_level", "max_slot_wal_keep_size", "fsync", "password_encryption", "server_encoding")
    values = [scalar(url, f"SELECT current_setting('{name}')") for name in settings]

    assert values == ["logical", "2GB", "on", "scram-sha-256", "UTF8"]
    assert scalar(url, "SELECT current_database() || ' ' || datcollate FROM pg_database WHERE datname = 'clinic'") == (
        "clinic C.UTF-8"
    )


def test_the_target_has_an_empty_openemr_database_and_no_anonymous_account(whole: Stack) -> None:
    """As OpenEMR's installer would make it."""
    url = whole.env()["EMRSYNC_OPENEMR_ADMIN_URL"]

    assert scalar(url, "SELECT @@collation_database") == "utf8mb4_general_ci"
    assert scalar(url, "SELECT COUNT(*) FROM mysql.global_priv WHERE User = ''") == 0
    assert scalar(url, "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'openemr'") == 0
    assert scalar(url, "SELECT @@innodb_flush_log_at_trx_commit") == 1
    assert (
        scalar(
            url,
            "SELECT COUNT(*) FROM information_schema.user_privileges WHERE grantee LIKE "
            "'''emrsync_admin''@%' AND privilege_type = 'CREATE USER' AND is_grantable = 'YES'",
        )
        == 2
    )


def test_both_workers_know_debezium_and_form_one_group(whole: Stack) -> None:
    """What one is told, the other knows: they share their topics."""
    addresses = [f"http://{LOOPBACK}:{status.port}" for status in whole.status() if status.name.startswith("connect")]
    with httpx.Client(trust_env=False) as client:
        plugins = [
            {plugin["class"] for plugin in client.get(f"{url}/connector-plugins?connectorsOnly=false").json()}
            for url in addresses
        ]
        clusters = {client.get(url).json()["kafka_cluster_id"] for url in addresses}

    assert len(plugins) == 2
    for known in plugins:
        assert {
            "io.debezium.connector.postgresql.PostgresConnector",
            "io.debezium.connector.mysql.MySqlConnector",
            "io.debezium.transforms.outbox.EventRouter",
        } <= known
    assert len(clusters) == 1
    assert whole.env()["EMRSYNC_CONNECT_URL"] == ",".join(addresses)


def test_passwords_stay_out_of_what_other_users_can_read(whole: Stack) -> None:
    """No command line shows them, and no file of the home that holds them is readable by others."""
    passwords = list(json.loads(whole.layout.state_file.read_text())["passwords"].values())
    lines = [" ".join(processes.command_line(pid)) for pid in processes_of(whole)]
    folders = (whole.layout.home, whole.layout.service_data())
    holding = [
        path
        for base in folders
        for path in base.rglob("*")
        if path.suffix in (".conf", ".json", ".properties", ".sql", ".log") and path.is_file()
        if any(password in path.read_text(encoding="utf-8", errors="replace") for password in passwords)
    ]

    assert not [line for line in lines if any(password in line for password in passwords)]
    assert whole.layout.state_file in holding
    assert [path for path in holding if path.stat().st_mode & 0o077] == []


def test_the_commands_tell_programs_and_people_the_same(whole: Stack) -> None:
    """Exit code 0 when all is well; JSON for programs."""
    home = ["--home", str(whole.layout.home)]
    runner = CliRunner()
    status = runner.invoke(app, ["status", "--json", *home])
    env = runner.invoke(app, ["env", *home])
    env_json = runner.invoke(app, ["env", "--json", *home])
    logs = runner.invoke(app, ["logs", "kafka", "--json", "--lines", "3", *home])

    assert [row["name"] for row in json.loads(status.stdout)] == NAMES
    assert (status.exit_code, env.exit_code, logs.exit_code) == (0, 0, 0)
    assert [line.split("=")[0] for line in env.stdout.splitlines()] == [
        f"export {name}" for name in json.loads(env_json.stdout)
    ]
    assert len(json.loads(logs.stdout)["lines"]) == 3
    assert runner.invoke(app, ["logs", "nobody", *home]).exit_code == 2


def test_killed_servers_are_found_by_status_and_come_back(whole: Stack) -> None:
    """Broker and database at once, as when a machine is short of memory; `up` repairs what is down."""
    home = ["--home", str(whole.layout.home)]
    runner = CliRunner()
    for name in ("kafka", "mariadb"):
        assert runner.invoke(app, ["kill", name, *home]).exit_code == 0
    found = runner.invoke(app, ["status", *home])
    whole.up(workers=1)

    assert found.exit_code == 1
    assert [(s.name, s.problem) for s in whole.status()] == [(name, None) for name in NAMES[:-1]]
