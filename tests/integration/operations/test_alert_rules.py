"""The alert rules by Prometheus' own judgement: they can be read, and come and stay away as their unit tests say."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

import pytest

from stack.artifacts import cache_folder
from stack.commands import is_root, run
from stack.config import StackSettings, callers_environment
from stack.errors import CommandFailedError

RULES: Final = Path(__file__).parents[3] / "deploy" / "prometheus"
DOWNLOAD_LIMIT_S: Final = 300.0
LIMIT_S: Final = 60.0


@pytest.fixture(scope="module")
def promtool() -> Path:
    """Give promtool: this machine's, or that of Debian's package, unpacked only, as no server is wanted."""
    installed = shutil.which("promtool")
    if installed is not None:
        return Path(installed)
    kept = cache_folder(StackSettings()) / "promtool"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            unpacked = Path(folder) / "unpacked"
            run(["dpkg-deb", "--extract", str(package(Path(folder))), str(unpacked)], limit_s=LIMIT_S)
            (unpacked / "usr" / "bin" / "promtool").replace(kept)
    return kept


def package(folder: Path) -> Path:
    """Download Debian's package into the folder; apt's lists are brought up to date when they do not know it."""
    download = ["apt-get", "--quiet", "download", "prometheus"]
    try:
        run(download, limit_s=DOWNLOAD_LIMIT_S, environment=callers_environment(), directory=folder)
    except CommandFailedError:
        sudo = [] if is_root() else ["sudo", "-n"]
        update = [*sudo, "apt-get", "--quiet", "update"]
        run(update, limit_s=DOWNLOAD_LIMIT_S, environment=callers_environment())
        run(download, limit_s=DOWNLOAD_LIMIT_S, environment=callers_environment(), directory=folder)
    [found] = folder.glob("prometheus_*.deb")
    return found


def test_the_rules_can_be_read(promtool: Path) -> None:
    """All of them."""
    said = run([str(promtool), "check", "rules", str(RULES / "alerts.yaml")], limit_s=LIMIT_S)

    assert f"SUCCESS: {(RULES / 'alerts.yaml').read_text(encoding='utf-8').count('- alert:')} rules found" in said


def test_every_alert_comes_and_stays_away_as_its_tests_say(promtool: Path) -> None:
    """A failure names the case, and what came instead."""
    said = run([str(promtool), "test", "rules", str(RULES / "alerts_test.yaml")], limit_s=LIMIT_S)

    assert "SUCCESS" in said


def test_a_rule_that_does_not_do_what_its_test_says_is_found(promtool: Path, tmp_path: Path) -> None:
    """So that a tool that checks nothing would be seen."""
    rules = (RULES / "alerts.yaml").read_text(encoding="utf-8")
    (tmp_path / "alerts.yaml").write_text(rules.replace("emrsync_connector_given_up) == 1", "vector(0)) == 1"))
    shutil.copy(RULES / "alerts_test.yaml", tmp_path)

    with pytest.raises(CommandFailedError, match="EmrsyncConnectorGivenUp"):
        run([str(promtool), "test", "rules", str(tmp_path / "alerts_test.yaml")], limit_s=LIMIT_S)
