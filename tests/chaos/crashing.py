"""A member that kills itself with -9 when it reaches a named point for the n-th time: `python -m` this POINT N."""

from __future__ import annotations

import itertools
import os
import signal
import sys

import consumer.bootstrap
from consumer.crash_points import Point, arm


def main(point_name: str, times: str) -> None:
    """Run one member of the group, armed."""
    fatal = Point(point_name)
    # Points are reached in two threads; taking the next number is one step.
    passed = itertools.count(1)

    def die(point: Point) -> None:
        if point is fatal and next(passed) >= int(times):
            os.kill(os.getpid(), signal.SIGKILL)

    arm(die)
    consumer.bootstrap.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
