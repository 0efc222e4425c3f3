"""Keeping a connector running and flowing: restarts with growing pauses, and giving up loudly."""

from __future__ import annotations

import dataclasses
import enum
import time
from collections.abc import Callable
from typing import Final

from connectors.connect_client import ConnectClient, ConnectorStatus
from connectors.connect_errors import (
    ConnectError,
    ConnectForbiddenError,
    ConnectorAbsentError,
    WatchGaveUpError,
    says_log_is_gone,
)
from connectors.connect_progress import STALL_S, Progress, StallWatch

STEADY_S: Final = 60.0
"""Running and flowing for this long makes earlier restarts forgotten."""

_DOUBLINGS_MAX: Final = (
    30  # of a pause, which is at its longest by then: after a night of restarts 2.0 ** n is no float
)


class WatchAction(enum.StrEnum):
    """What the watch saw or did."""

    RUNNING = "running"
    RESTARTED = "restarted"
    NOT_RUNNING = "not_running"
    UNREACHABLE = "unreachable"
    WARNING = "warning"
    GAVE_UP = "gave_up"
    RESUMED = "resumed"


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


@dataclasses.dataclass(frozen=True, slots=True)
class WatchPolicy:
    """How often to look, and how long to go on.

    Attributes:
        poll_s: pause between looks while all is well.
        pause_s: pause after the first restart; it doubles with each that did not help.
        pause_s_max: the longest pause.
        restarts_max: after so many restarts without steady_s of running in between, give up.
        steady_s: running and flowing this long makes earlier restarts forgotten; a stall must show before that.
        stall_s: a connector that runs and moves nothing for this long is restarted too.
        exits: end when giving up, instead of looking on until it flows again.
    """

    poll_s: float = 5.0
    pause_s: float = 2.0
    pause_s_max: float = 60.0
    restarts_max: int = 20
    steady_s: float = STEADY_S
    stall_s: float = STALL_S
    exits: bool = False

    def __post_init__(self) -> None:
        if min(self.poll_s, self.pause_s, self.steady_s, self.stall_s) <= 0 or self.restarts_max < 1:
            raise ValueError("pauses must be above 0 seconds, and restarts_max at least 1")
        if self.pause_s_max < self.pause_s:
            raise ValueError("pause_s_max must not be below pause_s")
        if self.stall_s >= self.steady_s:
            raise ValueError("stall_s must be below steady_s: each stall would be forgotten before the next one shows")

    def pause_after_s(self, restarts: int) -> float:
        """Return the pause after the n-th restart in a row, n from 1."""
        return min(self.pause_s_max, self.pause_s * 2.0 ** min(restarts - 1, _DOUBLINGS_MAX))


def watch(
    client: ConnectClient,
    name: str,
    *,
    report: Callable[[WatchEvent], None],
    look: Callable[[], Look] | None = None,
    policy: WatchPolicy | None = None,
    stopped: Callable[[], bool] = lambda: False,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Look at a connector until stopped(), restart what has failed, and all of it when it runs and moves nothing.

    A worker that does not answer is waited for; it takes its connectors up again by itself.
    When restarts_max restarts did not help, or none can, it gives up: it says so, restarts nothing, and looks on,
    until the connector runs and flows for steady_s.
    Without a look only the states are watched.

    Raises:
        WatchGaveUpError: it has given up, and the policy says to end then.
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
        look: Callable[[], Look] | None,
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
        self._flow_known = True
        self._flowing_since_s: float | None = None
        self._gave_up = False
        self._told: tuple[WatchAction, str] | None = None
        self._warned: tuple[str, ...] = ()

    def step(self) -> float:
        """Look once, do what is needed, and return the seconds until the next look."""
        # The source can be asked without a worker, and must be while there is none: its log grows.
        view = Look(None) if self._look is None else self._look()
        self._warn(view.warnings)
        self._note_outage(known=self._look is None or view.progress is not None)
        if view.lost is not None:
            # The task of a lost slot does not even fail: it tries for half an hour, and shows no state meanwhile.
            self._give_up(view.lost)
        try:
            event = self._judged(self._client.status(self._name), view)
        except WatchGaveUpError:
            raise
        except (ConnectorAbsentError, ConnectForbiddenError) as error:
            if not self._gave_up:
                raise
            event = self._unreachable(error)
        except ConnectError as error:
            # Also an answer that makes no sense, as while the workers elect another leader.
            self._stalls.forget()
            event = self._unreachable(error)
        if (event.action, event.text) != self._told or event.action is WatchAction.RESTARTED:
            self._report(event)
            self._told = (event.action, event.text)
        return event.pause_s or self._rules.poll_s

    def _judged(self, seen: ConnectorStatus, view: Look) -> WatchEvent:
        now_s = self._clock()
        stall = self._stall(seen, view, now_s)
        flows = seen.running and stall is None and self._flow_known and view.lost is None
        self._note_steadiness(flows=flows, now_s=now_s)
        if seen.failed and not self._gave_up:
            failure = seen.failure or seen.summary
            if says_log_is_gone(failure):
                self._give_up(
                    "the log that it had not read is gone, and no restart brings it back:"
                    f" `emrsync connector reset-offsets` sends every unfinished row again.\n{failure}"
                )
            else:
                return self._restarted(failure, only_failed=True) or self._state(seen)
        if stall is not None and not self._gave_up:
            # What shows RUNNING is left alone by a restart of what failed.
            return self._restarted(stall, only_failed=False) or self._state(seen)
        return self._state(seen)

    def _stall(self, seen: ConnectorStatus, view: Look, now_s: float) -> str | None:
        if not seen.running or view.progress is None:
            self._stalls.forget()
            return None
        return self._stalls.stall(view.progress, now_s)

    def _state(self, seen: ConnectorStatus) -> WatchEvent:
        action = WatchAction.RUNNING if seen.running else WatchAction.NOT_RUNNING
        return self._event(action, seen.summary)

    def _restarted(self, why: str, *, only_failed: bool) -> WatchEvent | None:
        """Restart it; None when that is given up."""
        if self._restarts >= self._rules.restarts_max and self._flow_known:
            self._give_up(f"{self._rules.restarts_max} restarts did not help.\n{why}")
            return None
        try:
            self._client.restart(self._name, only_failed=only_failed)
        except ConnectError as error:
            # None was made, so that none is counted; what was seen of a stall still stands at the next look.
            return self._unreachable(error)
        self._restarts += 1
        self._total += 1
        self._stalls.forget()
        return self._event(WatchAction.RESTARTED, why, self._rules.pause_after_s(self._restarts))

    def _give_up(self, why: str) -> None:
        if self._gave_up:
            return
        self._gave_up = True
        self._flowing_since_s = None
        text = f"connector {self._name}: {why}"
        self._report(self._event(WatchAction.GAVE_UP, text))
        if self._rules.exits:
            raise WatchGaveUpError(text)

    def _note_outage(self, *, known: bool) -> None:
        """Begin to count anew after an outage: what failed while the source or Kafka was away says nothing more."""
        if known and not self._flow_known:
            self._restarts = 0
        self._flow_known = known

    def _note_steadiness(self, *, flows: bool, now_s: float) -> None:
        if not flows:
            self._flowing_since_s = None
            return
        if self._flowing_since_s is None:
            self._flowing_since_s = now_s
        if now_s - self._flowing_since_s < self._rules.steady_s:
            return
        self._restarts = 0
        if self._gave_up:
            self._gave_up = False
            self._report(self._event(WatchAction.RESUMED, f"connector {self._name}: it runs and flows again"))

    def _unreachable(self, error: ConnectError) -> WatchEvent:
        self._flowing_since_s = None
        pause_s = self._rules.pause_after_s(self._restarts) if self._restarts and not self._gave_up else 0.0
        return self._event(WatchAction.UNREACHABLE, str(error), pause_s)

    def _event(self, action: WatchAction, text: str, pause_s: float = 0.0) -> WatchEvent:
        return WatchEvent(action, text, self._restarts, pause_s, self._total)

    def _warn(self, warnings: tuple[str, ...]) -> None:
        kinds = tuple(text.split(":", 1)[0] + str(len(warnings)) for text in warnings)
        if kinds != self._warned:
            for text in warnings:
                self._report(self._event(WatchAction.WARNING, text))
        self._warned = kinds
