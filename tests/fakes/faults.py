"""Time and errors as a test plans them."""

from __future__ import annotations

import concurrent.futures
import datetime as dt
from collections.abc import Callable
from typing import Any

from tests.made_events import NOON


class Clock:
    """A time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> dt.datetime:
        """Give the time."""
        return self.now


class InlineExecutor(concurrent.futures.Executor):
    """Runs what is submitted at once, so that a test needs no thread and a crash happens where it is planned."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **options: Any) -> concurrent.futures.Future[Any]:
        """Give a future that has ended."""
        ended: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            ended.set_result(work(*args, **options))
        except Exception as error:  # noqa: BLE001 - whoever asks for the result gets it
            ended.set_exception(error)
        return ended


class Faults:
    """Errors to raise at named steps; every step that is passed is written down."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self._planned: dict[str, list[Exception | None]] = {}
        self._at_count: tuple[int, Exception] | None = None

    def plan(self, step: str, *errors: Exception | None) -> None:
        """Raise these the next times the step is passed, one each; None lets it pass."""
        self._planned.setdefault(step, []).extend(errors)

    def plan_at(self, count: int, error: Exception) -> None:
        """Raise the error at the step that is passed as number `count` from now, whatever its name."""
        self._at_count = len(self.passed) + count, error

    def clear(self) -> None:
        """Plan nothing any more."""
        self._planned.clear()
        self._at_count = None

    def at(self, step: str) -> None:
        """Pass a step, or raise what is planned for it."""
        self.passed.append(step)
        if self._at_count is not None and len(self.passed) > self._at_count[0]:
            error = self._at_count[1]
            self._at_count = None
            raise error
        planned = self._planned.get(step)
        if planned and (planned_error := planned.pop(0)) is not None:
            raise planned_error
