"""One system's part of an answer, or why that system could not give it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from connectors.config import SettingsError
from connectors.connect_errors import ConnectError
from operations.database_errors import reason
from operations.errors import OperationError

Part = TypeVar("Part")


@dataclasses.dataclass(frozen=True, slots=True)
class Unavailable:
    """A system that did not answer, with the reason and what to do."""

    reason: str


def part(read: Callable[[], Part]) -> Part | Unavailable:
    """Ask one system; one that is down, or whose address is not set, must not hide what the others know."""
    try:
        return read()
    except sa.exc.DBAPIError as error:
        return Unavailable(reason(error))
    except (ConnectError, OperationError, SettingsError) as error:
        return Unavailable(str(error))
