"""Keeping a connector running and flowing: restarts with growing pauses, and giving up loudly."""

from __future__ import annotations

import dataclasses
import enum
import time
from collections.abc import Callable
from typing import Final

from connectors.connect_client import ConnectClient, ConnectorStatus
from connectors.connect_errors import ConnectError, ConnectForbiddenError, ConnectorAbsentError, WatchGaveUpError
from connectors.connect_progress import STALL_S, Progress, StallWatch

_BEYOND_RESTART: Final = (
    "Error code: 1236",
    "purged binary logs",
    "binlog is no longer available",
    # A slot past max_slot_wal_keep_size, in the words of PostgreSQL 13 to 17.
    "can no longer get changes from replication slot",
    "cannot read from logical replication slot",
    "This slot has been invalidated",
    "requested WAL segment",
)


class WatchAction(enum.StrEnum):
    """What the watch saw or did."""

    RUNNING = "running"
    RESTARTED = "restarted"
    NOT_RUNNING = "not_running"
    UNREACHABLE = "unreachable"
    WARNING = "warning"


@dataclasses.dataclass(frozen=True, slots=True)
class WatchEvent:
    """One thing that the watch tells: a change of state, or a restart with its number and what comes next.

    restarts: those in a row that have not helped; restarts_total: all since the watch began.
    """

    action: WatchAction
    text: str
    restarts: int = 0
    pause_s: float = 0.0
    restarts_total: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """What the caller sees of the flow.

    Attributes:
        progress: marks that move; None when they could not be asked, which is no proof of anything.
        warnings: what a person should know, each told once.
        lost: why no restart can help, such as a slot that is lost; None while one can.
    """

    progress: Progress | None
    warnings: tuple[str, ...] = ()
    lost: str | None = None


def no_look() -> Look:
    """See nothing of the flow: only the states are watched."""
    return Look(None)


@dataclasses.dataclass(frozen=True, slots=True)
class WatchPolicy:
    """How often to look, and how long to go on.

    Attributes:
        poll_s: pause between looks while all is well.
        pause_s: pause after the first restart; it doubles with each that did not help.
        pause_s_max: the longest pause.
        restarts_max: after so many restarts without steady_s of running in between, give up.
        steady_s: running this long makes earlier restarts forgotten.
        stall_s: a connector that runs and moves nothing for this long is restarted too.
    """

    poll_s: float = 5.0
    pause_s: float = 2.0
    pause_s_max: float = 60.0
    restarts_max: int = 20
    steady_s: float = 60.0
    stall_s: float = STALL_S

    def __post_init__(self) -> None:
        if min(self.poll_s, self.pause_s, self.steady_s, self.stall_s) <= 0 or self.restarts_max < 1:
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
    look: Callable[[], Look] = no_look,
    policy: WatchPolicy | None = None,
    stopped: Callable[[], bool] = lambda: False,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Look at a connector until stopped(), restart what has failed, and all of it when it runs and moves nothing.

    A worker that does not answer is waited for; it takes its connectors up again by itself.

    Raises:
        WatchGaveUpError: restarts_max restarts did not help, or a restart cannot: the position is gone from the log.
        ConnectorAbsentError: there is no such connector.
        ConnectForbiddenError: the workers want another user or password.
    """
    watcher = _Watcher(client, name, report=report, look=look, rules=policy or WatchPolicy(), clock=clock)
    while not stopped():
        sleep(watcher.step())


class _Watcher:
    def __init__(
        self,
        client: ConnectClient,
        name: str,
        *,
        report: Callable[[WatchEvent], None],
        look: Callable[[], Look],
        rules: WatchPolicy,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._name = name
        self._report = report
        self._look = look
        self._rules = rules
        self._clock = clock
        self._stalls = StallWatch(rules.stall_s)
        self._restarts = 0
        self._total = 0
        self._running_since_s: float | None = None
        self._told: tuple[WatchAction, str] | None = None
        self._warned: tuple[str, ...] = ()

    def step(self) -> float:
        """Look once, do what is needed, and return the seconds until the next look."""
        try:
            event = self._judged(self._client.status(self._name))
        except (ConnectorAbsentError, ConnectForbiddenError, WatchGaveUpError):
            raise
        except ConnectError as error:
            # Also an answer that makes no sense, as while the workers elect another leader.
            self._running_since_s = None
            self._stalls.forget()
            pause_s = self._rules.pause_after_s(self._restarts) if self._restarts else 0.0
            event = WatchEvent(WatchAction.UNREACHABLE, str(error), self._restarts, pause_s, self._total)
        if (event.action, event.text) != self._told or event.action is WatchAction.RESTARTED:
            self._report(event)
            self._told = (event.action, event.text)
        return event.pause_s or self._rules.poll_s

    def _judged(self, seen: ConnectorStatus) -> WatchEvent:
        now_s = self._clock()
        view = self._look()
        if view.lost is not None:
            # The task of a lost slot does not even fail: it tries for half an hour, and shows no state meanwhile.
            raise WatchGaveUpError(f"connector {self._name} ({seen.summary}): {view.lost}")
        if seen.failed:
            self._running_since_s = None
            failure = seen.failure or seen.summary
            self._check_curable(failure)
            return self._restart(failure, only_failed=True)
        if not seen.running:
            self._running_since_s = None
            self._stalls.forget()
            return WatchEvent(WatchAction.NOT_RUNNING, seen.summary, self._restarts, 0.0, self._total)
        if self._running_since_s is None:
            self._running_since_s = now_s
        self._warn(view.warnings)
        if view.progress is None:
            self._stalls.forget()
        elif stall := self._stalls.stall(view.progress, now_s):
            # What shows RUNNING is left alone by a restart of what failed.
            return self._restart(stall, only_failed=False)
        if now_s - self._running_since_s >= self._rules.steady_s:
            self._restarts = 0
        return WatchEvent(WatchAction.RUNNING, seen.summary, self._restarts, 0.0, self._total)

    def _check_curable(self, failure: str) -> None:
        if any(sign in failure for sign in _BEYOND_RESTART):
            raise WatchGaveUpError(
                f"connector {self._name}: the log that it had not read is gone, and no restart brings it back:"
                f" `emrsync connector reset-offsets` sends every unfinished row again.\n{failure}"
            )

    def _restart(self, why: str, *, only_failed: bool) -> WatchEvent:
        if self._restarts >= self._rules.restarts_max:
            raise WatchGaveUpError(f"connector {self._name}: {self._rules.restarts_max} restarts did not help.\n{why}")
        self._restarts += 1
        self._total += 1
        self._stalls.forget()
        self._running_since_s = None
        self._client.restart(self._name, only_failed=only_failed)
        pause_s = self._rules.pause_after_s(self._restarts)
        return WatchEvent(WatchAction.RESTARTED, why, self._restarts, pause_s, self._total)

    def _warn(self, warnings: tuple[str, ...]) -> None:
        kinds = tuple(text.split(":", 1)[0] + str(len(warnings)) for text in warnings)
        if kinds != self._warned:
            for text in warnings:
                self._report(WatchEvent(WatchAction.WARNING, text, self._restarts, 0.0, self._total))
        self._warned = kinds
