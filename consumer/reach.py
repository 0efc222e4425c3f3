"""How far the ledger has been, by the group's offsets and by what this member has recorded since."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from consumer.ports import EventStream, Place, StreamPosition


class Reach:
    """What one member knows of its partitions: a ledger that is behind it was restored from a backup.

    Offsets are committed after the ledger's commit, so none is beyond it. The group's are asked for once for each
    partition that the member is given; from then on it knows what it has recorded itself, which may be more.
    """

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream
        self._reached: dict[Place, int] = {}

    def expected(self, positions: Sequence[StreamPosition]) -> Sequence[StreamPosition]:
        """Add to positions where each was reached.

        Raises:
            TransientError: Kafka does not tell the group's offsets.
        """
        new = [one.place for one in positions if one.place not in self._reached]
        if new:
            committed = self._stream.committed(new)
            self._reached.update({place: committed.get(place, 0) for place in new})
        return [StreamPosition(one.topic, one.partition, one.next_offset, self._before(one)) for one in positions]

    def recorded(self, positions: Sequence[StreamPosition]) -> None:
        """Note that the ledger has these positions."""
        self._reached.update({one.place: one.next_offset for one in positions})

    def forget(self, places: Collection[Place]) -> None:
        """Forget partitions that go to another member."""
        for place in places:
            self._reached.pop(place, None)

    def _before(self, one: StreamPosition) -> int:
        reached = self._reached[one.place]
        # A topic that was made anew begins again, and so does its ledger position.
        return reached if reached < one.next_offset else 0
