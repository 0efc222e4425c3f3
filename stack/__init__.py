"""Real PostgreSQL, MariaDB, Kafka and Kafka Connect on one Debian machine, without Docker."""

from stack.errors import (
    CommandFailedError,
    HomeBusyError,
    HomeNotUpError,
    PackagesMissingError,
    ServiceNotReadyError,
    StackError,
    UnknownProgramError,
)
from stack.servers import SERVICES
from stack.stack import ProgramStatus, Stack

__all__ = [
    "SERVICES",
    "CommandFailedError",
    "HomeBusyError",
    "HomeNotUpError",
    "PackagesMissingError",
    "ProgramStatus",
    "ServiceNotReadyError",
    "Stack",
    "StackError",
    "UnknownProgramError",
]
