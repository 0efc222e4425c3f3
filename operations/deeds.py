"""What a long command does: stopped between its portions, and remembered when it begins and however it ends."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Final

import sqlalchemy as sa

from operations.errors import ResumeStoppedError
from operations.failures import KNOWN, message
from operations.recovery_ledger import RecoveryLedger

STARTED: Final = "started"
STOPPED: Final = "stopped"
FAILED: Final = "failed"


@dataclasses.dataclass(slots=True)
class Deed:
    """What is being done.

    Attributes:
        stop: tells whether a signal has come; asked between portions.
        ended: the word for its end; `stopped` when a signal has ended it.
        detail: how far it is, in words; without any value of a row.
    """

    stop: Callable[[], bool]
    ended: str = ""
    detail: str = ""

    def is_stopped(self) -> bool:
        """Ask whether to stop, and if so end as stopped."""
        if self.stop():
            self.ended = STOPPED
        return self.ended == STOPPED


@contextlib.contextmanager
def remembered(
    ledger: RecoveryLedger, command: str, subject: str, deed: Deed, *, begun: str = STARTED, why: str | None = None
) -> Iterator[None]:
    """Note who begins a deed and why before it changes anything, and at its end how far it came, also when it fails.

    A killed one leaves its beginning without an end.
    """
    ledger.note(command, subject, begun, why=why, detail=deed.detail)
    try:
        yield
    except BaseException as error:
        action = STOPPED if isinstance(error, ResumeStoppedError) else FAILED
        reason = message(error) if isinstance(error, KNOWN) else type(error).__name__
        # The ledger may be what does not answer; the error itself then says so.
        with contextlib.suppress(sa.exc.DBAPIError):
            detail = f"{deed.detail}; {reason}" if deed.detail else reason
            ledger.note(command, subject, action, why=why, detail=detail)
        raise
    ledger.note(command, subject, deed.ended, why=why, detail=deed.detail)
