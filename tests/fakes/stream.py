"""Kafka in memory: partitions, one group, dead letters."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence

from connectors import topics
from connectors.outbox import EntityType
from consumer.ports import Place, Record, StreamPosition, TransientError
from tests.fakes.faults import Faults
from tests.made_events import NOON

_NOON_MS = int(NOON.timestamp() * 1000)


class FakeBroker:
    """Topics of one group in memory; a rebalance happens when a member joins, leaves or a test asks for one."""

    def __init__(self, partitions: int = 2) -> None:
        self._partitions = partitions
        self.logs: dict[tuple[str, int], list[Record]] = {}
        self.committed: dict[tuple[str, int], int] = {}
        self.commits: list[tuple[tuple[str, int], int]] = []
        self.dead_letters: list[tuple[Record, str]] = []
        self.halted: set[tuple[str, int]] = set()
        self.members: list[FakeEventStream] = []
        self._turn = 0

    def produce(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]
    ) -> Record:
        """Append a record; a key always goes to the same partition."""
        partition = zlib.crc32(key or b"") % self._partitions
        log = self.logs.setdefault((topic, partition), [])
        log.append(Record(topic, partition, len(log), key, value, headers, _NOON_MS + len(log)))
        return log[-1]

    def join(self, member: FakeEventStream) -> None:
        """Take a member in."""
        self.members.append(member)
        self.rebalance()

    def leave(self, member: FakeEventStream) -> None:
        """Let a member go; a crashed one is thrown out in the same way."""
        if member in self.members:
            self.members.remove(member)
            member.assigned(set())
            self.rebalance()

    def revoke_all(self) -> None:
        """Take every partition from its owner, as at the start of a rebalance that goes on."""
        for member in self.members:
            member.assigned(set())

    def rebalance(self) -> None:
        """Deal the partitions out anew, to other members than before where there are several."""
        places = [
            (topic, partition)
            for topic in (topics.entity_topic(entity_type) for entity_type in EntityType)
            for partition in range(self._partitions)
        ]
        self._turn += 1
        for number, member in enumerate(self.members):
            member.assigned(
                {place for index, place in enumerate(places) if (index + self._turn) % len(self.members) == number}
            )


class FakeEventStream:
    """An EventStream of one member on a FakeBroker; joins the group when it is made."""

    def __init__(self, broker: FakeBroker, faults: Faults | None = None) -> None:
        self._broker = broker
        self._faults = faults or Faults()
        self._next: dict[Place, int] = {}
        self._refused: dict[Place, int] = {}
        self._paused = False
        self._before_revoke: Callable[[Collection[Place]], None] = lambda _places: None
        broker.join(self)

    def die(self) -> None:
        """Be thrown out of the group, as a process that was killed."""
        self._before_revoke = lambda _places: None
        self._refused = {}
        self._broker.leave(self)

    def assigned(self, places: set[Place]) -> None:
        """Own exactly these partitions from now on; new ones are read from the group's offset."""
        if taken := self._next.keys() - places:
            self._before_revoke(taken)
            self._send()
            self._refused = {place: at for place, at in self._refused.items() if place not in taken}
        committed = self._broker.committed
        self._next = {place: self._next.get(place, committed.get(place, 0)) for place in sorted(places)}

    def poll(self, *, records_max: int, timeout_s: float) -> Sequence[Record]:  # noqa: ARG002 - the Protocol's
        """See ports.EventStream; what is not there does not come while waiting."""
        self._faults.at("stream.poll")
        self._send()
        found: list[Record] = []
        if self._paused:
            return found
        for place, start in self._next.items():
            records = self._broker.logs.get(place, [])[start : start + records_max - len(found)]
            self._next[place] = start + len(records)
            found += records
        return found

    def pause(self, *, paused: bool) -> None:
        """See ports.EventStream."""
        self._paused = paused

    def before_revoke(self, settle: Callable[[Collection[Place]], None]) -> None:
        """See ports.EventStream."""
        self._before_revoke = settle

    def park(self, record: Record, reason: str) -> None:
        """See ports.EventStream."""
        self._faults.at("stream.park")
        self._broker.dead_letters.append((record, reason))
        self._faults.at("stream.parked")

    def halt(self, topic: str, partition: int) -> None:
        """See ports.EventStream."""
        self._faults.at("stream.halt")
        self._broker.halted.add((topic, partition))
        self._broker.committed.setdefault((topic, partition), 0)

    def halted(self, places: Collection[tuple[str, int]]) -> bool:
        """See ports.EventStream."""
        return not self._broker.halted.isdisjoint(places)

    def committed(self, places: Collection[Place]) -> Mapping[Place, int]:
        """See ports.EventStream."""
        return {place: self._broker.committed[place] for place in places if place in self._broker.committed}

    def commit(self, positions: Sequence[StreamPosition]) -> None:
        """See ports.EventStream."""
        self._refused |= {one.place: one.next_offset for one in positions if one.place in self._next}
        self._send()

    def _send(self) -> None:
        if not self._refused:
            return
        try:
            self._faults.at("stream.commit")
        except TransientError:
            return
        sent, self._refused = self._refused, {}
        for place, next_offset in sent.items():
            self._broker.committed[place] = next_offset
            self._broker.halted.discard(place)
            self._broker.commits.append((place, next_offset))
        self._faults.at("stream.committed")

    def ends(self) -> Mapping[Place, int | None]:
        """See KafkaEventStream.ends."""
        return {place: len(log) if (log := self._broker.logs.get(place)) else None for place in self._next}

    def is_troubled(self) -> bool:
        """See KafkaEventStream.is_troubled."""
        return bool(self._refused)

    def close(self) -> None:
        """See ports.EventStream."""
        self._broker.leave(self)
