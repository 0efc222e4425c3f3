"""How an apply goes on: in stages, at a rate, and only until somebody stops it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from consumer.ports import Record
from operations.errors import StoppedError
from operations.replay_forecast import LOOKED_UP

CANARY: Final = (1, 10, 100)
"""Events of the first stages of a careful replay; the rest goes on in chunks as large as the last of them."""

STOP_SEEN_S: Final = 0.25


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How an apply goes on: stages of so many events that do something, and at most so many events a second."""

    canary: bool = False
    events_per_s: float | None = None

    @property
    def chunk_max(self) -> int:
        """Events applied at once: what may pass within a second, so that it can be stopped within about one."""
        return LOOKED_UP if self.events_per_s is None else max(1, min(LOOKED_UP, int(self.events_per_s)))


def staged(records: Iterable[Record], pace: Pace, does: Callable[[Record], bool]) -> Iterator[Sequence[Record]]:
    """Cut records into what is applied at once.

    does: whether a record is expected to do something; only these fill a stage, since any number of duplicates shows
    nothing. A stage ends with the record that fills it, and what follows is read only after it was applied.
    """
    sizes = iter(CANARY if pace.canary else ())
    room = size = next(sizes, LOOKED_UP)
    chunk: list[Record] = []
    for record in records:
        chunk.append(record)
        room -= not pace.canary or does(record)
        if room and len(chunk) < pace.chunk_max:
            continue
        yield chunk
        chunk = []
        if not room:
            room = size = next(sizes, size)
    if chunk:
        yield chunk


class Brake:
    """Keeps chunks apart, so that no more events pass in a second than asked for.

    What was slower is not caught up: a rate is a limit, not a mean.
    """

    def __init__(
        self,
        events_per_s: float | None,
        stop: Callable[[], bool],
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._events_per_s = events_per_s
        self._stop = stop
        self._sleep = sleep
        self._clock = clock
        self._next_s = clock()

    def wait(self, count: int) -> None:
        """Wait until so many events may pass, or somebody stops."""
        # A signal's handler that returns lets a sleep go on: only short ones can be stopped.
        while (left_s := self._next_s - self._clock()) > 0 and not self._stop():
            self._sleep(min(left_s, STOP_SEEN_S))
        if self._events_per_s is not None:
            self._next_s = self._clock() + count / self._events_per_s


def until(stop: Callable[[], bool], records: Iterable[Record]) -> Iterator[Record]:
    """Give records until somebody stops, also while none of them is of interest to the reader.

    Raises:
        StoppedError: somebody did.
    """
    for record in records:
        if stop():
            raise StoppedError("stopped")
        yield record
