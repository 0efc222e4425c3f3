"""Whether a connector that shows RUNNING also moves: RUNNING is not flowing."""

from __future__ import annotations

import dataclasses
from typing import Final

STALL_S: Final = 30.0
"""Three heartbeats of the templates' heartbeat.interval.ms."""


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """Marks that move while events flow; each is compared with itself only, so that no two clocks meet.

    Attributes:
        heartbeats: end of the heartbeat topic; None where the connector writes none.
        records: sum of the ends of the entity topics.
        unsent: entity type and seq of the oldest outbox row above every record of its topic; None when all were sent.
    """

    heartbeats: int | None
    records: int
    unsent: tuple[str, int] | None


class StallWatch:
    """Remembers since when each mark has stood still, in seconds of the caller's clock."""

    def __init__(self, limit_s: float = STALL_S) -> None:
        self._limit_s = limit_s
        self.forget()

    def forget(self) -> None:
        """Begin anew: after a restart, or when what is seen is not the connector's own doing."""
        self._seen: Progress | None = None
        self._heartbeat_s = self._record_s = self._unsent_s = 0.0

    def stall(self, progress: Progress, now_s: float) -> str | None:
        """Take in a look, and tell in words what has stood still for longer than the limit; None when it flows."""
        before = self._seen
        self._seen = progress
        if before is None or before.heartbeats != progress.heartbeats:
            self._heartbeat_s = now_s
        if before is None or before.records != progress.records:
            # A snapshot writes no heartbeats, but records.
            self._record_s = now_s
        if before is None or before.unsent != progress.unsent or progress.unsent is None:
            self._unsent_s = now_s
        if now_s - self._record_s < self._limit_s:
            return None
        if progress.unsent is not None and now_s - self._unsent_s >= self._limit_s:
            entity_type, seq = progress.unsent
            silent_s = now_s - self._unsent_s
            return f"it runs and moves nothing: the {entity_type} of seq {seq} has had no record for {silent_s:.0f} s"
        if progress.heartbeats is not None and now_s - self._heartbeat_s >= self._limit_s:
            return f"it runs and moves nothing: no heartbeat for {now_s - self._heartbeat_s:.0f} s"
        return None
