"""Debian packages: what is missing, and what to say when it may not be installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stack import packages
from stack.errors import CommandFailedError, PackagesMissingError


@pytest.mark.parametrize(
    ("banner", "release"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "21" 2023-09-19', 21),
        ('openjdk version "25-ea" 2025-09-16', 25),
        ('java version "1.8.0_392"', 1),
        ("sh: java: not found", 0),
    ],
)
def test_the_release_of_java_is_read_from_its_banner(banner: str, release: int) -> None:
    """Java 8 counts as 1, which is too old either way."""
    assert packages.java_release(banner) == release


def test_without_permission_the_message_is_the_command_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person can paste it."""
    monkeypatch.setattr(packages, "missing_packages", lambda _: ("mariadb-server", "maven"))
    monkeypatch.setattr(packages, "is_root", lambda: False)
    monkeypatch.setattr(packages, "_may_sudo", lambda: False)

    with pytest.raises(PackagesMissingError) as raised:
        packages.ensure_packages({"mariadb-server", "maven"}, lambda _: None)

    assert "apt-get update && apt-get install --no-install-recommends mariadb-server maven" in str(raised.value)


def test_installing_starts_no_service_and_leaves_no_policy_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy denies starts while apt runs, and is gone afterwards, also when apt fails."""
    ran: list[list[str]] = []

    def record(argv: list[str], **_: object) -> str:
        ran.append(argv)
        if "install" in argv:
            raise CommandFailedError("apt-get failed")
        return ""

    monkeypatch.setattr(packages, "missing_packages", lambda _: ("mariadb-server",))
    monkeypatch.setattr(packages, "is_root", lambda: True)
    monkeypatch.setattr(packages, "run", record)
    monkeypatch.setattr("os.path.lexists", lambda _: False)
    lines: list[str] = []

    with pytest.raises(CommandFailedError):
        packages.ensure_packages({"mariadb-server"}, lines.append)

    words = [" ".join(argv) for argv in ran]
    install = next(index for index, command in enumerate(words) if "apt-get --quiet --yes install" in command)
    assert "tee /usr/sbin/policy-rc.d" in words[:install]
    assert "tee /etc/postgresql-common/createcluster.d/emrsync.conf" in words[:install]
    assert "DEBIAN_FRONTEND=noninteractive" in words[install]
    assert "rm -f /usr/sbin/policy-rc.d" in words[install:]
    assert lines == ["updating apt's package lists", "installing Debian packages: mariadb-server"]


KILLED = """
import os, signal, sys
from pathlib import Path
from stack import packages
packages.POLICY_FILE = Path(sys.argv[1])
packages.CLUSTER_POLICY_FILE = Path(sys.argv[2])
with packages._no_services(()):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Let the two policies be written elsewhere, by this user."""
    policy, cluster = tmp_path / "sbin" / "policy-rc.d", tmp_path / "createcluster.d" / "emrsync.conf"
    monkeypatch.setattr(packages, "POLICY_FILE", policy)
    monkeypatch.setattr(packages, "CLUSTER_POLICY_FILE", cluster)
    monkeypatch.setattr(packages, "is_root", lambda: True)
    monkeypatch.setattr(packages, "missing_packages", lambda _: ())
    return policy, cluster


def test_what_a_killed_installation_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No package of the machine could start its service otherwise, ever; also where nothing is missing any more."""
    policy, cluster = places(tmp_path, monkeypatch)
    subprocess.run([sys.executable, "-c", KILLED, str(policy), str(cluster)], timeout=20, check=False)
    assert subprocess.run([policy], check=False).returncode == 101
    assert "create_main_cluster = false" in cluster.read_text(encoding="utf-8")
    lines: list[str] = []

    packages.ensure_packages({"mariadb-server"}, lines.append)

    assert not policy.exists()
    assert not cluster.exists()
    assert lines == [f"removing what an installation that was killed has left: {path}" for path in (policy, cluster)]


def test_the_policy_of_others_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that the machine came with, and one of an installation of ours that is under way."""
    policy, cluster = places(tmp_path, monkeypatch)
    policy.parent.mkdir()
    policy.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
    with packages._no_services(()):
        packages.ensure_packages({"mariadb-server"}, pytest.fail)

        assert f"process {os.getpid()}" in cluster.read_text(encoding="utf-8")

    assert [policy] == [path for path in tmp_path.rglob("*") if path.is_file()]


def test_who_may_not_remove_a_leftover_is_told_what_to_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the command goes on: nothing is missing."""
    policy, cluster = places(tmp_path, monkeypatch)
    subprocess.run([sys.executable, "-c", KILLED, str(policy), str(cluster)], timeout=20, check=False)
    monkeypatch.setattr(packages, "is_root", lambda: False)
    monkeypatch.setattr(packages, "_may_sudo", lambda: False)
    lines: list[str] = []

    packages.ensure_packages({"mariadb-server"}, lines.append)

    assert lines == [f"left by an installation that was killed, remove as root: {policy} {cluster}"]
