"""The consumer group in numbers: members, lag in records and seconds, rate, and time to drain."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable
from typing import Final

from connectors.topics import entity_topics
from operations.config import OperationsSettings
from operations.kafka import PartitionLag
from operations.kafka_group import GroupAdmin, GroupMember, members_max

SAMPLE_S: Final = 2.0
"""Between two looks at the offsets, for the rates; commits come several times a second under load."""

HINT_RECORDS_MIN: Final = 1_000
HINT_SHARE_MIN: Final = 0.9
"""So much of the lag, in records, and so large a share of it in one topic are worth another dealing of partitions."""


@dataclasses.dataclass(frozen=True, slots=True)
class GroupState:
    """A group between two looks.

    lag_s: age of the oldest record that is not settled, 0 without one, None when it could not be read.
    settled_per_s, arriving_per_s: records settled and written, per second between the looks.
    assignor: how partitions are dealt out.
    """

    group: str
    members: tuple[GroupMember, ...]
    partitions: tuple[PartitionLag, ...]
    lag_s: float | None
    settled_per_s: float
    arriving_per_s: float
    assignor: str = "uniform"

    @property
    def lag(self) -> int:
        """Records that are not settled."""
        return sum(one.lag for one in self.partitions)

    @property
    def idle_members(self) -> int:
        """Members that own no partition."""
        return sum(not one.partitions for one in self.members)

    @property
    def members_max(self) -> int:
        """How many members can own partitions."""
        return members_max(collections.Counter(one.topic for one in self.partitions), self.assignor)

    @property
    def drain_s(self) -> float | None:
        """Seconds until the lag is 0 if both rates stay; 0 without lag, None if it does not shrink."""
        if self.lag == 0:
            return 0.0
        shrinking = self.settled_per_s - self.arriving_per_s
        return self.lag / shrinking if shrinking > 0 else None

    @property
    def hint(self) -> str | None:
        """How members that have no part in the lag could get one, where nearly all of it is in one topic."""
        if self.lag < HINT_RECORDS_MIN:
            return None
        lags = collections.Counter[str]()
        for one in self.partitions:
            lags[one.topic] += one.lag
        [(topic, lag)] = lags.most_common(1)
        owned = [sum(name == topic for name, _ in one.partitions) for one in self.members]
        without = owned.count(0)
        could_help = min(sum(owned), len(owned))
        if lag < HINT_SHARE_MIN * self.lag or len(owned) - without >= could_help:
            return None
        return (
            f"{without} of {len(owned)} members have no partition of {topic}, where the lag is:"
            " with EMRSYNC_GROUP_ASSIGNOR=range each topic is dealt out to all members"
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know, in words."""
        found = []
        if not self.partitions:
            found.append("there are no topics: `emrsync provision` makes them")
        elif len(self.members) > self.members_max:
            found.append(
                f"{len(self.members)} members share {len(self.partitions)} partitions:"
                f" {len(self.members) - self.members_max} have nothing to do;"
                " more partitions are made by `emrsync group partitions`"
            )
        if self.lag and not self.members:
            found.append(f"{self.lag:,} records wait and the group has no member: start consumers")
        elif self.lag and self.settled_per_s == 0:
            found.append(f"{self.lag:,} records wait and none was settled: see the members' logs and `emrsync status`")
        found += [
            f"{one.topic} partition {one.partition}: stopped at offset {one.committed or 0}, because too many records"
            " are no events"
            for one in self.partitions
            if one.halted
        ]
        return tuple(found)


def read_group(
    settings: OperationsSettings,
    *,
    sample_s: float = SAMPLE_S,
    admin: GroupAdmin | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.time,
) -> GroupState:
    """Look twice, sample_s apart.

    Raises:
        KafkaUnreachableError, KafkaRefusedError: the brokers could not be asked.
    """
    kafka = admin or GroupAdmin(settings.text("kafka_bootstrap_servers"))
    topics = entity_topics(settings.topic_prefix)
    before, began_s = kafka.lag(settings.consumer_group, topics), clock()
    sleep(sample_s)
    after, ended_s = kafka.lag(settings.consumer_group, topics), clock()
    took_s = max(ended_s - began_s, 0.001)
    lagging = [one for one in after if one.lag]
    heads = kafka.head_times(lagging)
    settled_before = {(one.topic, one.partition): one.end - one.lag for one in before}
    settled = sum(max(0, one.end - one.lag - settled_before.get((one.topic, one.partition), 0)) for one in after)
    arrived = sum(one.end for one in after) - sum(one.end for one in before)
    return GroupState(
        group=settings.consumer_group,
        members=kafka.members(settings.consumer_group),
        partitions=after,
        lag_s=(max(0.0, clock() - min(heads.values())) if heads else None) if lagging else 0.0,
        settled_per_s=settled / took_s,
        arriving_per_s=max(0, arrived) / took_s,
        assignor=settings.group_assignor,
    )
