"""Debian packages: what is missing, and what to say when it may not be installed."""

from __future__ import annotations

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
