"""What can go wrong between us and Kafka Connect; each message says what to do."""

from __future__ import annotations

import re
from typing import Final

_STRUCT: Final = re.compile(r"Struct\s*\{.*", re.DOTALL)
_REASON_CHARACTERS_MAX: Final = 400
_REASONS_MAX: Final = 6


class ConnectError(Exception):
    """Base of all errors of Kafka Connect."""


class ConnectUnreachableError(ConnectError):
    """Nothing answers at the worker's address."""


class ConnectBusyError(ConnectError):
    """The workers were sharing out their work for longer than we may wait."""


class ConnectorAbsentError(ConnectError):
    """There is no connector of this name."""


class ConnectorRefusedError(ConnectError):
    """Connect refuses the configuration."""


class SourceUnreachableError(ConnectError):
    """The connector cannot reach the source database with the configuration it was given."""


class ConnectorNotRunningError(ConnectError):
    """The connector or one of its tasks does not run; the message holds the causes of its trace."""


class WatchGaveUpError(ConnectError):
    """Restarting did not help; a person must look."""


def causes(trace: str) -> str:
    """Return the exceptions of a Java trace, outermost first, without its frames and without rows it may quote."""
    lines = [line.strip() for line in trace.splitlines()]
    told = [line for number, line in enumerate(lines) if number == 0 or line.startswith("Caused by:")]
    shown = [_STRUCT.sub("Struct{…}", line)[:_REASON_CHARACTERS_MAX] for line in told if line]
    if len(shown) > _REASONS_MAX:
        # The root is the last one, and the one that tells.
        shown = [*shown[: _REASONS_MAX - 1], shown[-1]]
    return "\n".join(shown)
