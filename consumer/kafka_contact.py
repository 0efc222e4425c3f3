"""Tells a client that has lost its brokers for good from brokers that are away."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import confluent_kafka

SILENCE_S: Final = 3.0
"""Trouble that lasts so long is looked into, and again after as long."""

ANSWER_LIMIT_S: Final = 2.0

LOOKS_MAX: Final = 2
"""Looks in a row that find brokers for others and none for this client: one may come in the middle of its recovery."""

_SHARED: Final = ("bootstrap.servers", "security.", "sasl.", "ssl.", "client.id", "log_level")


class Contact:
    """Whether one client reaches Kafka.

    A broker that is shut down may answer that there are no brokers at all; the client (librdkafka from 2.12 on, its
    issue 5301) then forgets the one it had, never asks again, and is of use only to be made anew.

    reaches: whether the client itself gets an answer; others_reach: whether another client does.
    """

    def __init__(
        self,
        reaches: Callable[[], bool],
        others_reach: Callable[[], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reaches = reaches
        self._others_reach = others_reach
        self._clock = clock
        self._troubled_s: float | None = None
        self._looks = 0

    @property
    def is_troubled(self) -> bool:
        """Whether the client has told of trouble, and nothing has come since."""
        return self._troubled_s is not None

    def heard(self) -> None:
        """Note that Kafka has answered."""
        self._troubled_s = None
        self._looks = 0

    def trouble(self) -> None:
        """Note that the client tells of trouble."""
        if self._troubled_s is None:
            self._troubled_s = self._clock()

    def is_lost(self) -> bool:
        """Look into trouble that lasts; tell whether this client alone has lost Kafka."""
        if self._troubled_s is None or self._clock() - self._troubled_s < SILENCE_S:
            return False
        if self._reaches():
            self.heard()
            return False
        self._looks = self._looks + 1 if self._others_reach() else 0
        self._troubled_s = self._clock()
        return self._looks >= LOOKS_MAX


def others_reach(options: Mapping[str, Any]) -> bool:
    """Tell whether a client that is new gets an answer."""
    shared = {name: value for name, value in options.items() if name.startswith(_SHARED)}
    asking = confluent_kafka.Consumer({**shared, "group.id": "emrsync-contact", "enable.auto.commit": False})
    try:
        return bool(asking.list_topics(timeout=ANSWER_LIMIT_S).brokers)
    except confluent_kafka.KafkaException:
        return False
    finally:
        asking.close()
