"""`make test`: all tests, in two lanes side by side."""

from __future__ import annotations

import sys

from tests.lanes import LANES, run_lanes


def write(line: str) -> None:
    """Show a line at once."""
    sys.stdout.write(line)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(run_lanes(LANES, write))
