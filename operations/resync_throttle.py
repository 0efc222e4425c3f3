"""Keeps a resync from taking the consumers' time from live events."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final, Self

from connectors.topics import entity_topics
from operations.config import OperationsSettings
from operations.errors import ResyncError
from operations.kafka import KafkaAdmin, PartitionLag

STALL_LIMIT_S: Final = 60.0
_LOOK_S: Final = 0.1


class Throttle:
    """Waits after each portion: for the group to settle what has come, and for the rate, in events a second."""

    def __init__(
        self,
        kafka: KafkaAdmin,
        group: str,
        topics: Collection[str],
        events_per_s: float,
        stop: Callable[[], bool],
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kafka = kafka
        self._group = group
        self._topics = topics
        self._events_per_s = events_per_s
        self._stop = stop
        self._sleep = sleep
        self._clock = clock
        self._began_s = clock()

    @classmethod
    def of(cls, settings: OperationsSettings, events_per_s: float, stop: Callable[[], bool]) -> Self:
        """Make one for the consumers' group and the entity topics."""
        topics = entity_topics(settings.topic_prefix)
        kafka = KafkaAdmin(settings.text("kafka_bootstrap_servers"))
        return cls(kafka, settings.consumer_group, topics, events_per_s, stop)

    def wait(self, count: int) -> None:
        """Wait until another portion may follow one of count events, or until the operator stops.

        Raises:
            ResyncError: the group has settled nothing for a minute.
        """
        self._until_settled()
        next_s = self._began_s + count / self._events_per_s
        while (left_s := next_s - self._clock()) > 0 and not self._stop():
            self._sleep(min(left_s, _LOOK_S))
        # What was waited for too long is not caught up: a rate is a limit, not a mean.
        self._began_s = self._clock()

    def _until_settled(self) -> None:
        lags = self._kafka.lag(self._group, self._topics)
        ends = {(one.topic, one.partition): one.end for one in lags}
        before, since_s = _settled(lags), self._clock()
        while any(one.end - one.lag < ends.get((one.topic, one.partition), 0) for one in lags) and not self._stop():
            self._sleep(_LOOK_S)
            lags = self._kafka.lag(self._group, self._topics)
            if (now := _settled(lags)) != before:
                before, since_s = now, self._clock()
            elif self._clock() - since_s > STALL_LIMIT_S:
                raise ResyncError(
                    f"group {self._group} has settled nothing for {STALL_LIMIT_S:.0f} s: see `emrsync group`"
                )


def _settled(lags: Collection[PartitionLag]) -> int:
    return sum(one.end - one.lag for one in lags)
