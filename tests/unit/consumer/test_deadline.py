"""What hangs ends the process, and says where; what is in time does not."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import time
from consumer.deadline import ends_process_after

secret = "Gudrun"
with ends_process_after(60):
    with ends_process_after(0.2):
        pass
    time.sleep(0.3)
print("in time", flush=True)

def hangs(name):
    with ends_process_after({inner}):
        time.sleep(30)

with ends_process_after({outer}):
    hangs(secret)
"""


def run(*, outer: float, inner: float) -> subprocess.CompletedProcess[str]:
    """Run the script with these limits."""
    script = SCRIPT.format(outer=outer, inner=inner)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False)


def test_what_hangs_ends_the_process_by_the_earliest_limit() -> None:
    """With the stacks of all threads, and no value."""
    for limits in ({"outer": 0.3, "inner": 20.0}, {"outer": 20.0, "inner": 0.3}):
        done = run(**limits)

        assert (done.returncode, done.stdout) == (1, "in time\n")
        assert "in hangs" in done.stderr
        assert "Gudrun" not in done.stderr
