"""MariaDB: data folder, configuration and readiness."""

import shutil
from pathlib import Path

import pymysql

from stack.commands import run
from stack.layout import own_file, own_folder
from stack.ports import LOOPBACK
from stack.programs import Program
from stack.service import PROBE_LIMIT_S, Service, Site
from stack.templates import render

ADMIN = "emrsync_admin"
DATABASE = "openemr"
BINARY = Path("/usr/sbin/mariadbd")
TEMPLATE = Path(__file__).parent / "mariadb.conf"
ACCOUNTS = Path(__file__).parent / "accounts.sql"
INSTALL_LIMIT_S = 180


def service(site: Site) -> Service:
    """Return MariaDB as configured for this home."""
    folder = site.services / "mariadb"
    port = site.port("mariadb")
    program = Program(
        name="mariadb",
        argv=(str(BINARY), f"--defaults-file={folder / 'mariadb.conf'}"),
        directory=folder,
        user=site.accounts.mariadb,
        stop_limit_s=60,
    )
    return Service(
        program=program,
        port=port,
        ready_limit_s=180,
        prepare=lambda: _prepare(site, folder, port),
        probe=lambda: _probe(site, port),
    )


def _prepare(site: Site, folder: Path, port: int) -> None:
    user = site.accounts.mariadb
    own_folder(folder, user)
    data = folder / "data"
    template = TEMPLATE.read_text(encoding="utf-8")
    if not data.exists():
        _initialise(site, folder, data, template)
    own_file(folder / "mariadb.conf", render(template, {"DATA": str(data), "PORT": port}), user)


def _initialise(site: Site, folder: Path, data: Path, template: str) -> None:
    # Made beside and renamed: an interrupted installation leaves nothing that looks like a database.
    user = site.accounts.mariadb
    draft = folder / "data.new"
    shutil.rmtree(draft, ignore_errors=True)
    own_folder(draft, user)
    port = site.port("mariadb")
    conf = own_file(folder / "install.conf", render(template, {"DATA": str(draft), "PORT": port}), user)
    statements = render(ACCOUNTS.read_text(encoding="utf-8"), {"PASSWORD": site.password("openemr_admin")})
    script = own_file(folder / "accounts.sql", statements, user)
    argv = [
        "mariadb-install-db",
        f"--defaults-file={conf}",
        "--auth-root-authentication-method=socket",
        "--skip-test-db",
        # the machine's own name is no name that anybody connects by
        "--skip-name-resolve",
        f"--extra-file={script}",
    ]
    try:
        run(argv, limit_s=INSTALL_LIMIT_S, user=user, directory=folder)
    finally:
        script.unlink()
        conf.unlink()
    draft.rename(data)


def _probe(site: Site, port: int) -> str | None:
    try:
        connection = pymysql.connect(
            host=LOOPBACK,
            port=port,
            user=ADMIN,
            password=site.password("openemr_admin"),
            database=DATABASE,
            connect_timeout=PROBE_LIMIT_S,
            read_timeout=PROBE_LIMIT_S,
        )
    except pymysql.Error as error:
        return str(error)
    try:
        connection.query("SELECT 1")
    except pymysql.Error as error:
        return str(error)
    finally:
        connection.close()
    return None
