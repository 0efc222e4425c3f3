"""PostgreSQL: data folder, configuration and readiness."""

import shutil
from pathlib import Path

import psycopg
from psycopg import sql

from stack.commands import run
from stack.errors import CommandFailedError
from stack.layout import own_file, own_folder
from stack.ports import LOOPBACK
from stack.programs import Program
from stack.service import PROBE_LIMIT_S, Service, Site
from stack.templates import render

ADMIN = "emrsync_admin"
DATABASE = "clinic"
BINARIES = Path("/usr/lib/postgresql")
TEMPLATE = Path(__file__).parent / "postgresql.conf"
INITDB_LIMIT_S = 120


def binary(name: str) -> Path:
    """Return the newest installed PostgreSQL's program; Debian keeps versions side by side and off PATH.

    Raises:
        CommandFailedError: no PostgreSQL server is installed.
    """
    found = sorted(BINARIES.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    if not found:
        raise CommandFailedError(f"no {name} under {BINARIES}: install the package postgresql")
    return found[-1]


def service(site: Site) -> Service:
    """Return PostgreSQL as configured for this home."""
    folder = site.services / "postgresql"
    port = site.port("postgresql")
    program = Program(
        name="postgresql",
        argv=(str(binary("postgres")), "-D", str(folder / "data")),
        directory=folder,
        user=site.accounts.postgresql,
        # SIGINT is its fast shutdown: SIGTERM would wait for clients to leave
        stop_signal="INT",
        stop_limit_s=60,
    )
    return Service(
        program=program,
        port=port,
        ready_limit_s=120,
        prepare=lambda: _prepare(site, folder, port),
        probe=lambda: _probe(site, port),
        finish=lambda: _create_database(site, port),
    )


def _prepare(site: Site, folder: Path, port: int) -> None:
    user = site.accounts.postgresql
    own_folder(folder, user)
    data = folder / "data"
    if not data.exists():
        _initialise(site, folder, data)
    own_file(data / "postgresql.conf", render(TEMPLATE.read_text(encoding="utf-8"), {"PORT": port}), user)


def _initialise(site: Site, folder: Path, data: Path) -> None:
    # Made beside and renamed: an interrupted initdb leaves nothing that looks like a database.
    draft = folder / "data.new"
    shutil.rmtree(draft, ignore_errors=True)
    password_file = own_file(folder / "password", site.password("source_admin"), site.accounts.postgresql)
    argv = [
        str(binary("initdb")),
        f"--pgdata={draft}",
        f"--username={ADMIN}",
        f"--pwfile={password_file}",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--auth-host=scram-sha-256",
        "--auth-local=reject",
    ]
    try:
        run(argv, limit_s=INITDB_LIMIT_S, user=site.accounts.postgresql, directory=folder)
    finally:
        password_file.unlink()
    draft.rename(data)


def _connect(site: Site, port: int, database: str) -> psycopg.Connection:
    return psycopg.connect(
        host=LOOPBACK,
        port=port,
        user=ADMIN,
        password=site.password("source_admin"),
        dbname=database,
        connect_timeout=int(PROBE_LIMIT_S),
        autocommit=True,
    )


def _probe(site: Site, port: int) -> str | None:
    try:
        with _connect(site, port, "postgres") as connection:
            connection.execute("SELECT 1")
    except psycopg.Error as error:
        return str(error).strip()
    return None


def _create_database(site: Site, port: int) -> None:
    with _connect(site, port, "postgres") as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
        if found is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
