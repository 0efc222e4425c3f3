"""Ends the process when something lasts longer than it ever may: what hangs in a native library, no exception ends."""

from __future__ import annotations

import contextlib
import faulthandler
import time
from collections.abc import Iterator

# A process may be killed at any point and loses nothing, so that ending it is always safe: whoever keeps it starts it
# again, and meanwhile the group gives its partitions to others.
_deadlines: list[float] = []


@contextlib.contextmanager
def ends_process_after(limit_s: float) -> Iterator[None]:
    """Within the block, write all threads' stacks to standard error and exit with code 1 when it lasts too long.

    Stacks have names of files and functions, and no values. Blocks may be nested; for use by the main thread.
    """
    deadline_s = time.monotonic() + limit_s
    _deadlines.append(deadline_s)
    _arm()
    try:
        yield
    finally:
        _deadlines.remove(deadline_s)
        _arm()


def _arm() -> None:
    if _deadlines:
        left_s = max(0.001, min(_deadlines) - time.monotonic())
        # The descriptor itself, whatever sys.stderr is at the time.
        faulthandler.dump_traceback_later(left_s, exit=True, file=2)
    else:
        faulthandler.cancel_dump_traceback_later()
