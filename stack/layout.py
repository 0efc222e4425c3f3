"""Where things are in a home, and where service data goes when servers cannot reach the home."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stack.accounts import readable_by_others
from stack.commands import is_root

MACHINE_DATA = Path("/var/lib/emrsync")
# The kernel takes 107 bytes; supervisor appends its pid to a draft name.
SOCKET_PATH_BYTES_MAX = 95


@dataclass(frozen=True)
class Layout:
    """The paths of one home; `home` is absolute."""

    home: Path

    @property
    def digest(self) -> str:
        """Twelve hex digits of the home's path."""
        return hashlib.sha256(str(self.home).encode()).hexdigest()[:12]

    @property
    def state_file(self) -> Path:
        """Identity, ports and passwords."""
        return self.home / "state.json"

    @property
    def lock_file(self) -> Path:
        """Held by the command that changes the home."""
        return self.home / "lock"

    @property
    def logs(self) -> Path:
        """One NAME.log per program."""
        return self.home / "logs"

    @property
    def services(self) -> Path:
        """Data and configuration of the servers: a folder, or a link to one that their users can reach."""
        return self.home / "services"

    @property
    def supervisor_conf(self) -> Path:
        """Configuration of supervisord; its path identifies the process."""
        return self.home / "supervisord.conf"

    @property
    def supervisor_pid(self) -> Path:
        """Written by supervisord."""
        return self.home / "supervisord.pid"

    @property
    def supervisor_socket(self) -> Path:
        """Where supervisord answers; outside the home when its path is too long for a socket."""
        path = self.home / "supervisor.sock"
        if len(str(path).encode()) <= SOCKET_PATH_BYTES_MAX:
            return path
        return Path(tempfile.gettempdir()) / f"emrsync-{os.getuid()}-{self.digest}" / "supervisor.sock"

    @property
    def programs(self) -> Path:
        """One NAME.conf per supervised program."""
        return self.home / "programs"

    def log_of(self, program: str) -> Path:
        """Return the log file of a program."""
        return self.logs / f"{program}.log"

    def service_data(self) -> Path:
        """Return where service data really is."""
        return self.services.resolve()


def create_folders(layout: Layout, *, fresh: bool, report: Callable[[str], None]) -> None:
    """Make the folders of a home; place service data outside when root's servers cannot reach into the home.

    `fresh` says that the home has no state yet: what an earlier home at the same path left outside is then removed,
    as nobody knows its passwords any more.
    """
    layout.home.mkdir(parents=True, exist_ok=True)
    layout.logs.mkdir(mode=0o700, exist_ok=True)
    layout.programs.mkdir(mode=0o700, exist_ok=True)
    layout.supervisor_socket.parent.mkdir(mode=0o700, exist_ok=True)
    outside = MACHINE_DATA / layout.digest
    if fresh and not layout.services.exists() and outside.exists() and is_root():
        report(f"removing {outside}, left by an earlier home at {layout.home}")
        shutil.rmtree(outside)
    if layout.services.is_symlink():
        layout.services.resolve().mkdir(parents=True, exist_ok=True)
    elif is_root() and not readable_by_others(layout.home):
        report(f"the servers' users cannot reach {layout.home}: their data is placed in {outside}")
        outside.parent.mkdir(parents=True, exist_ok=True)
        outside.parent.chmod(0o755)
        if layout.services.exists():
            shutil.move(layout.services, outside)
        else:
            outside.mkdir(exist_ok=True)
        outside.chmod(0o755)
        layout.services.symlink_to(outside)
    else:
        layout.services.mkdir(exist_ok=True)


def remove_home(layout: Layout) -> None:
    """Remove everything that a home holds, inside and outside of it."""
    if layout.services.is_symlink():
        shutil.rmtree(layout.services.resolve(), ignore_errors=True)
    shutil.rmtree(layout.home, ignore_errors=True)


def own_folder(path: Path, user: str | None, *, mode: int = 0o700) -> Path:
    """Make a folder that belongs to `user`, or to us when None, and return it."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    if user is not None:
        shutil.chown(path, user, user)
    return path


def own_file(path: Path, text: str, user: str | None, *, mode: int = 0o600) -> Path:
    """Write a file that only `user`, or we when None, may read, and return its path."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
        file.write(text)
    path.chmod(mode)
    if user is not None:
        shutil.chown(path, user, user)
    return path
