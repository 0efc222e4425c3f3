"""Debian packages that the servers come in, installed when absent and permitted."""

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from stack import processes
from stack.commands import is_root, run
from stack.config import callers_environment
from stack.errors import CommandFailedError, PackagesMissingError

INSTALL_LIMIT_S = 1200
JAVA_RELEASE_MIN = 17
POLICY_FILE = Path("/usr/sbin/policy-rc.d")
CLUSTER_POLICY_FILE = Path("/etc/postgresql-common/createcluster.d/emrsync.conf")
_POSTGRES = Path("/usr/lib/postgresql")
_MARK = "# emrsync keeps this here while it installs packages (process {pid})"
_MARKED = re.compile(_MARK.replace("(", r"\(").replace(")", r"\)").format(pid=r"(\d+)"))


def missing_packages(needed: Collection[str]) -> tuple[str, ...]:
    """Return which of the needed packages' programs are not here; `java` stands for whichever Java package fits."""
    present: dict[str, Callable[[], bool]] = {
        "postgresql": lambda: any(_POSTGRES.glob("*/bin/initdb")),
        "mariadb-server": lambda: Path("/usr/sbin/mariadbd").exists(),
        "java": _java_fits,
        "maven": lambda: shutil.which("mvn") is not None,
    }
    return tuple(name for name, is_present in present.items() if name in needed and not is_present())


def ensure_packages(needed: Collection[str], report: Callable[[str], None]) -> None:
    """Install what is missing, without starting any of Debian's own services; afterwards Debian may start them again.

    Raises:
        PackagesMissingError: this user may not install; the message holds the command to run.
        CommandFailedError: apt failed.
    """
    missing = missing_packages(needed)
    leftovers = tuple(path for path in (POLICY_FILE, CLUSTER_POLICY_FILE) if _was_left_behind(path))
    if not missing and not leftovers:
        return
    sudo: tuple[str, ...] = () if is_root() else ("sudo", "-n")
    if sudo and not _may_sudo():
        if missing:
            raise PackagesMissingError(_what_to_run(missing))
        report(f"left by an installation that was killed, remove as root: {' '.join(map(str, leftovers))}")
        return
    for path in leftovers:
        report(f"removing what an installation that was killed has left: {path}")
        run([*sudo, "rm", "-f", str(path)], limit_s=10)
    if missing:
        _install(missing, sudo, report)
    still = missing_packages(needed)
    if still:
        raise PackagesMissingError(f"apt-get ran, but is still missing: {' '.join(still)}")


def _install(missing: tuple[str, ...], sudo: tuple[str, ...], report: Callable[[str], None]) -> None:
    report("updating apt's package lists")
    apt = (*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", "--yes")
    run([*apt, "update"], limit_s=INSTALL_LIMIT_S, environment=callers_environment())
    names = tuple(_java_package() if name == "java" else name for name in missing)
    report(f"installing Debian packages: {' '.join(names)}")
    with _no_services(sudo):
        install = [*apt, "install", "--no-install-recommends", *names]
        run(install, limit_s=INSTALL_LIMIT_S, environment=callers_environment())


def java_release(banner: str) -> int:
    """Return the feature release that `java -version` names, 0 when it names none."""
    quoted = banner.partition('"')[2].partition('"')[0]
    first = quoted.split(".")[0].split("-")[0]
    return int(first) if first.isdigit() else 0


def _java_fits() -> bool:
    if not Path("/usr/bin/java").exists():
        return False
    try:
        return java_release(run(["/usr/bin/java", "-version"], limit_s=30)) >= JAVA_RELEASE_MIN
    except CommandFailedError:
        return False


def _java_package() -> str:
    for release in (21, 17):
        name = f"openjdk-{release}-jre-headless"
        if "Candidate: (none)" not in (policy := run(["apt-cache", "policy", name], limit_s=60)) and policy.strip():
            return name
    return "default-jre-headless"


def _may_sudo() -> bool:
    try:
        run(["sudo", "-n", "true"], limit_s=10)
    except CommandFailedError:
        return False
    return True


def _what_to_run(missing: tuple[str, ...]) -> str:
    names = " ".join("default-jre-headless" if name == "java" else name for name in missing)
    return (
        f"Debian packages are missing, and this user may not install them. Run as root:\n"
        f"  apt-get update && apt-get install --no-install-recommends {names}"
    )


@contextmanager
def _no_services(sudo: tuple[str, ...]) -> Iterator[None]:
    """Keep Debian from starting its own servers, and from making its own PostgreSQL cluster, while apt runs."""
    written = []
    mark = _MARK.format(pid=os.getpid())
    for path, text, mode in (
        # 101: the policy's word for "action not allowed"
        (POLICY_FILE, f"#!/bin/sh\n{mark}\nexit 101\n", "755"),
        (CLUSTER_POLICY_FILE, f"{mark}\ncreate_main_cluster = false\n", "644"),
    ):
        if not os.path.lexists(path):
            run([*sudo, "mkdir", "-p", str(path.parent)], limit_s=10)
            run([*sudo, "tee", str(path)], limit_s=10, text_in=text)
            run([*sudo, "chmod", mode, str(path)], limit_s=10)
            written.append(path)
    try:
        yield
    finally:
        for path in written:
            run([*sudo, "rm", "-f", str(path)], limit_s=10)


def _was_left_behind(path: Path) -> bool:
    """Tell our own file, whose writer was killed, from somebody else's and from one that is in use."""
    try:
        mark = _MARKED.search(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return False
    return mark is not None and not processes.alive(int(mark[1]))
