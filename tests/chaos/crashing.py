"""A role that kills itself with -9 when it reaches a named point for the n-th time: `python -m` this POINT N ROLE."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Final

import consumer.bootstrap
from consumer.crash_points import Point, arm

ROLES: Final[Mapping[str, Callable[[], None]]] = {
    "consumer": consumer.bootstrap.run,
    "retry": consumer.bootstrap.run_retry,
}


def main(point_name: str, times: str, role: str) -> None:
    """Run a member of the group, or a retrier, armed."""
    fatal = Point(point_name)
    # Points are reached in two threads; taking the next number is one step.
    passed = itertools.count(1)

    def die(point: Point) -> None:
        if point is fatal and next(passed) >= int(times):
            os.kill(os.getpid(), signal.SIGKILL)

    arm(die)
    ROLES[role]()


if __name__ == "__main__":
    main(*sys.argv[1:])
