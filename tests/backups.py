"""Backups of OpenEMR's server as a site makes them: OpenEMR's database and the ledger beside it, by mariadb-dump."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa


def dump(admin_url: str, databases: Sequence[str], path: Path) -> None:
    """Back databases up as they are at one moment, whoever writes meanwhile."""
    options = ["--single-transaction", "--hex-blob", "--databases", *databases]
    with path.open("wb") as file:
        subprocess.run(
            [*_client("mariadb-dump", admin_url), *options], stdout=file, env=_password(admin_url), check=True
        )


def restore(admin_url: str, path: Path) -> None:
    """Put the backup back, over what is there."""
    with path.open("rb") as file:
        subprocess.run(_client("mariadb", admin_url), stdin=file, env=_password(admin_url), check=True)


def _client(program: str, admin_url: str) -> list[str]:
    url = sa.make_url(admin_url)
    return [program, "--protocol=tcp", f"--host={url.host}", f"--port={url.port}", f"--user={url.username}"]


def _password(admin_url: str) -> dict[str, str]:
    return {**os.environ, "MYSQL_PWD": str(sa.make_url(admin_url).password)}
