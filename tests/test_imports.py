"""Nothing happens at import: every module can be imported without environment, network and files of the caller."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("connectors", "consumer", "producer_app", "operations", "stack")

# Migration scripts are run by Alembic, which alone provides their context; `__main__` modules are programs.
SCRIPT = """
import importlib, pkgutil, socket, sys

def refuse(*arguments, **options):
    raise AssertionError("a module opens a socket at import")

socket.socket.connect = refuse
socket.create_connection = refuse
count = 0
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        if module.name.endswith((".__main__", ".migrations.env")):
            continue
        importlib.import_module(module.name)
        count += 1
print(count)
"""


def test_every_module_imports_with_an_empty_environment_and_no_network(tmp_path: Path) -> None:
    """Settings are read, and connections opened, when a command runs."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, *PACKAGES],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == done.returncode, done.stderr
    assert int(done.stdout) > 50
    assert [] == list(tmp_path.iterdir())


def test_the_root_command_loads_only_the_section_that_is_called() -> None:
    """A command starts fast because it does not load the others."""
    script = "import sys, operations.cli; operations.cli.build(['status']); print('producer_app.api' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)

    assert "False" == done.stdout.strip()
