"""The operating system users that servers run as, and what those users can reach."""

import pwd
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stack.commands import is_root, run

JVM_USER = "emrsync"


@dataclass(frozen=True)
class Accounts:
    """The user of each kind of server; None means: as ourselves."""

    postgresql: str | None
    mariadb: str | None
    jvm: str | None


def server_accounts(report: Callable[[str], None]) -> Accounts:
    """Return the users of the servers: ourselves, or when we are root, never root.

    PostgreSQL and MariaDB have users by their Debian packages; the one of the JVMs is made here when absent.
    """
    if not is_root():
        return Accounts(postgresql=None, mariadb=None, jvm=None)
    try:
        pwd.getpwnam(JVM_USER)
    except KeyError:
        report(f"creating the system user {JVM_USER}, which Kafka and Connect run as")
        run(
            ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", JVM_USER],
            limit_s=30,
        )
    return Accounts(postgresql="postgres", mariadb="mysql", jvm=JVM_USER)


def readable_by_others(path: Path) -> bool:
    """Say whether any user can walk down to `path`, as far as it exists."""
    resolved = path.resolve()
    existing = (folder for folder in (resolved, *resolved.parents) if folder.exists())
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in existing)
