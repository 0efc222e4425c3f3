"""The retry role: looks for due rows again and again, and goes on by itself after an outage of either database."""

from __future__ import annotations

import dataclasses
import datetime as dt
import random
import time
from collections.abc import Callable
from typing import Final

import structlog

from consumer.backoff import Backoff
from consumer.outcome import Failed, Outcome
from consumer.ports import FailedRow, FailedRows, OutboxMarker, Target, TransientError
from consumer.retry_failed import Retrier, RetryLimits, StormBreaker, Tally, retry_failed_outbox

STOP_SEEN_S: Final = 0.25
"""How late a stop request is seen while nothing is due."""

_log = structlog.get_logger()


@dataclasses.dataclass(frozen=True, slots=True)
class Timing:
    """Where time comes from; tests bring their own."""

    clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random


TIMING: Final = Timing()


class RetryRole:
    """One retrier among any number; run_once is one look, so that tests need no thread."""

    def __init__(
        self,
        failed: FailedRows,
        open_target: Callable[[], Target],
        marker: OutboxMarker,
        *,
        limits: RetryLimits,
        interval_s: float,
        timing: Timing = TIMING,
    ) -> None:
        self._failed = failed
        self._open_target = open_target
        self._marker = marker
        self._limits = limits
        self._interval_s = interval_s
        self._timing = timing
        self._breaker = StormBreaker(limits)
        self._target: Target | None = None
        self._backoff = Backoff(timing.jitter)
        self._stopping = False

    def stop(self) -> None:
        """Ask the role to end after the batch in hand; safe to call from a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Work until stop.

        Raises:
            MisconfiguredError: a person must act; the rows in hand were given back.
        """
        while not self._stopping:
            self._wait(self.run_once())

    def run_once(self) -> float:
        """Retry what is due; return after how many seconds to look again."""
        try:
            if self._target is None:
                self._target = self._open_target()
            retrier = Retrier(
                self._failed, self._target, self._marker, self._breaker, self._limits, self._timing.clock, _tell
            )
            tally = retry_failed_outbox(retrier, stopping=lambda: self._stopping)
        except TransientError as error:
            if self._backoff.failures == 0:
                _log.warning("a system is away", action="retry_outage", reason=str(error))
            return self._backoff.failed(self._timing.clock())
        took_s = self._backoff.succeeded(self._timing.clock())
        if took_s is not None:
            _log.info("all systems are back", action="retry_resumed", outage_s=round(took_s, 1))
        self._report(tally)
        return self._interval_s

    def _report(self, tally: Tally) -> None:
        for storm in tally.storms:
            _log.error(
                "many failures of one class in a row: the class is left alone for a while",
                action="retry_storm",
                error_class=storm.value,
                failures=self._limits.storm_failures,
                pause_s=self._limits.storm_pause.total_seconds(),
            )
        if tally.rows:
            _log.info("rows retried", action="retried", **tally.outcomes)

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopping and (left := until - time.monotonic()) > 0:
            self._timing.sleep(min(left, STOP_SEEN_S))


def _tell(row: FailedRow, outcome: Outcome) -> None:
    if isinstance(outcome, Failed):
        _log.warning(
            "event failed again",
            action="retry_failed",
            outbox_id=str(row.event.outbox_id),
            entity_type=row.event.key.entity_type.value,
            entity_id=row.event.key.entity_id,
            error_class=outcome.error_class.value,
            reason=outcome.message,
        )
