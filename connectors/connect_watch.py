"""Keeping a connector running: failed tasks are restarted with growing pauses, and given up loudly."""

from __future__ import annotations

import dataclasses
import enum
import time
from collections.abc import Callable
from typing import Final

from connectors.connect_client import ConnectClient, ConnectorStatus
from connectors.connect_errors import ConnectUnreachableError, WatchGaveUpError

_BEYOND_RESTART: Final = ("Error code: 1236", "purged binary logs", "binlog is no longer available")


class WatchAction(enum.StrEnum):
    """What the watch saw or did."""

    RUNNING = "running"
    RESTARTED = "restarted"
    NOT_RUNNING = "not_running"
    UNREACHABLE = "unreachable"


@dataclasses.dataclass(frozen=True, slots=True)
class WatchEvent:
    """One thing that the watch tells: a change of state, or a restart with its number and what comes next."""

    action: WatchAction
    text: str
    restarts: int = 0
    pause_s: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class WatchPolicy:
    """How often to look, and how long to go on.

    Attributes:
        poll_s: pause between looks while all is well.
        pause_s: pause after the first restart; it doubles with each that did not help.
        pause_s_max: the longest pause.
        restarts_max: after so many restarts without steady_s of running in between, give up.
        steady_s: running this long makes earlier restarts forgotten.
    """

    poll_s: float = 5.0
    pause_s: float = 2.0
    pause_s_max: float = 60.0
    restarts_max: int = 20
    steady_s: float = 60.0

    def __post_init__(self) -> None:
        if min(self.poll_s, self.pause_s, self.steady_s) <= 0 or self.restarts_max < 1:
            raise ValueError("pauses must be above 0 seconds, and restarts_max at least 1")
        if self.pause_s_max < self.pause_s:
            raise ValueError("pause_s_max must not be below pause_s")

    def pause_after_s(self, restarts: int) -> float:
        """Return the pause after the n-th restart in a row, n from 1."""
        return min(self.pause_s_max, self.pause_s * 2.0 ** (restarts - 1))


def watch(
    client: ConnectClient,
    name: str,
    *,
    report: Callable[[WatchEvent], None],
    policy: WatchPolicy | None = None,
    stopped: Callable[[], bool] = lambda: False,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Look at a connector until stopped() and restart what has failed.

    A worker that does not answer is waited for; it takes its connectors up again by itself.

    Raises:
        WatchGaveUpError: restarts_max restarts did not help, or a restart cannot: the binlog position is gone.
        ConnectorAbsentError: there is no such connector.
    """
    rules = policy or WatchPolicy()
    restarts = 0
    running_since_s: float | None = None
    told: tuple[WatchAction, str] | None = None
    while not stopped():
        event, seen = _look(client, name)
        now_s = clock()
        if event.action is not WatchAction.RUNNING:
            running_since_s = None
        elif running_since_s is None:
            running_since_s = now_s
        if running_since_s is not None and now_s - running_since_s >= rules.steady_s:
            restarts = 0
        if seen is not None and seen.failed:
            restarts += 1
            event = _restart(client, seen, restarts, rules)
        if (event.action, event.text) != told or event.action is WatchAction.RESTARTED:
            report(event)
            told = (event.action, event.text)
        sleep(event.pause_s or rules.poll_s)


def _look(client: ConnectClient, name: str) -> tuple[WatchEvent, ConnectorStatus | None]:
    try:
        seen = client.status(name)
    except ConnectUnreachableError as error:
        return WatchEvent(WatchAction.UNREACHABLE, str(error)), None
    action = WatchAction.RUNNING if seen.running else WatchAction.NOT_RUNNING
    return WatchEvent(action, seen.summary), seen


def _restart(client: ConnectClient, seen: ConnectorStatus, restarts: int, rules: WatchPolicy) -> WatchEvent:
    failure = seen.failure or seen.summary
    if any(sign in failure for sign in _BEYOND_RESTART):
        raise WatchGaveUpError(
            f"connector {seen.name}: the binlog it had not read is gone, and no restart brings it back: stop it, delete"
            f" its offsets and resume it, then every unfinished row is sent again.\n{failure}"
        )
    if restarts > rules.restarts_max:
        raise WatchGaveUpError(f"connector {seen.name}: {rules.restarts_max} restarts did not help.\n{failure}")
    try:
        client.restart(seen.name)
    except ConnectUnreachableError as error:
        return WatchEvent(WatchAction.UNREACHABLE, str(error), restarts, rules.pause_after_s(restarts))
    return WatchEvent(WatchAction.RESTARTED, failure, restarts, rules.pause_after_s(restarts))
