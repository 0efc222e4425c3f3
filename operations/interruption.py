"""Signals that end a command as Ctrl-C does, wherever it is."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def interrupted_by(*handled: signal.Signals, first: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Raise KeyboardInterrupt within the block when one of these signals comes, after first was called.

    By itself the first process of a container ignores SIGTERM.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        # Once is enough: a second one would interrupt the ending.
        for number in handled:
            signal.signal(number, signal.SIG_IGN)
        first()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
