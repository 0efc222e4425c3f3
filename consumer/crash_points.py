"""Names the places in the code path where a test may let the process die."""

from __future__ import annotations

import enum
from collections.abc import Callable


class Point(enum.StrEnum):
    """Where a crash tells something: on both sides of each step that another system remembers."""

    BEFORE_TARGET_COMMIT = "before_target_commit"
    AFTER_TARGET_COMMIT = "after_target_commit"
    BEFORE_MARK = "before_mark"
    AFTER_MARK = "after_mark"
    BEFORE_OFFSET_COMMIT = "before_offset_commit"
    AFTER_OFFSET_COMMIT = "after_offset_commit"
    BEFORE_DEAD_LETTER = "before_dead_letter"
    AFTER_DEAD_LETTER = "after_dead_letter"
    BEFORE_RETRY_SETTLE = "before_retry_settle"
    AFTER_RETRY_SETTLE = "after_retry_settle"
    BEFORE_RELEASE = "before_release"
    AFTER_RELEASE = "after_release"
    BEFORE_REVOKE = "before_revoke"
    AFTER_REVOKE = "after_revoke"


_action: Callable[[Point], None] | None = None


def reached(point: Point) -> None:
    """Pass a point: one comparison, unless a test has armed it."""
    if _action is not None:
        _action(point)


def arm(action: Callable[[Point], None] | None) -> None:
    """Call this at every point from now on; None disarms. No setting leads here, so production never does."""
    global _action  # noqa: PLW0603 - the one hook of the process
    _action = action
