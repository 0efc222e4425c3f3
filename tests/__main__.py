"""`make test`: all tests, in two lanes side by side, and then those that must be alone."""

from __future__ import annotations

import sys

from tests.lanes import PHASES, run_phases


def write(line: str) -> None:
    """Show a line at once."""
    sys.stdout.write(line)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(run_phases(PHASES, write))
