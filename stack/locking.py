"""One holder at a time for a file system path, across processes."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stack.errors import HomeBusyError

_POLL_S = 0.1


@contextmanager
def exclusive(path: Path, *, wait_limit_s: float, report: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file `path`; the kernel frees it when the holder dies, so it is never stale.

    Raises:
        HomeBusyError: somebody else held it for longer than `wait_limit_s` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        deadline_s = time.monotonic() + wait_limit_s
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise HomeBusyError(f"another command has held {path} for {wait_limit_s:.0f} s") from None
                if not told:
                    report(f"waiting for another command that holds {path}")
                    told = True
                time.sleep(_POLL_S)
        yield
