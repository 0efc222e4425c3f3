"""The consumer group as the brokers see it, and what may be changed: more partitions, and offsets while it rests."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the package's own re-exports, not marked as such
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    ResourceType,
)

from consumer.kafka_options import consumer_options
from consumer.ports import Place
from operations.errors import KafkaRefusedError
from operations.kafka import KafkaAdmin, PartitionLag, silent

GROUP_SETTINGS: Final[Mapping[str, str]] = {
    "consumer.heartbeat.interval.ms": "1000",
    "consumer.session.timeout.ms": "6000",
}
"""By a heartbeat a member gives a partition up and gets one; a member that was killed is given up after its session."""

HEADS_LIMIT_S: Final = 5.0
"""How long the first unsettled records are waited for; what has not come by then has no age."""


@dataclasses.dataclass(frozen=True, slots=True)
class GroupMember:
    """One member: its client id, its host, the partitions that it owns, and what each start gives it anew."""

    client_id: str
    host: str
    partitions: tuple[tuple[str, int], ...]
    member_id: str


class GroupAdmin(KafkaAdmin):
    """What the brokers know of a group."""

    def members(self, group: str) -> tuple[GroupMember, ...]:
        """Return the members, by client id; none for a group that nobody has joined yet."""
        answer = self._admin.describe_consumer_groups([group], request_timeout=self._answer_limit_s)[group]
        try:
            described = answer.result(timeout=2 * self._answer_limit_s)
        except KafkaException as error:
            # A broker from 4.0 on knows no group without a member that has ever come.
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return ()
            raise self._named(error) from error
        found = [
            GroupMember(
                one.client_id,
                one.host.removeprefix("/"),
                tuple(sorted((place.topic, place.partition) for place in one.assignment.topic_partitions)),
                one.member_id,
            )
            for one in described.members
        ]
        return tuple(sorted(found, key=lambda one: one.client_id))

    def ensure_settings(self, group: str, wanted: Mapping[str, str], *, report: Callable[[str], None]) -> None:
        """Give a group these settings, and tell it; what somebody else has set for this group stays, and is told.

        Raises:
            KafkaRefusedError: beyond the brokers' bounds, not allowed to us, or brokers before 4.0.
        """
        resource = ConfigResource(ResourceType.GROUP, group)
        [answer] = self._admin.describe_configs([resource], request_timeout=self._answer_limit_s).values()
        found = self._result(answer)
        missing = {}
        for name, value in wanted.items():
            entry = found.get(name)
            if entry is None or (entry.value != value and entry.source != ConfigSource.GROUP_CONFIG.value):
                missing[name] = value
            elif entry.value != value:
                report(f"{name} is {entry.value}, not {value}; it is left as it is")
        if not missing:
            return
        change = ConfigResource(
            ResourceType.GROUP,
            group,
            incremental_configs=[
                ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in missing.items()
            ],
        )
        [done] = self._admin.incremental_alter_configs([change], request_timeout=self._answer_limit_s).values()
        self._result(done)
        for name, value in missing.items():
            report(f"{name} set to {value}")

    def move(self, group: str, offsets: Mapping[Place, int]) -> None:
        """Let a group go on at these offsets.

        Raises:
            KafkaRefusedError: it has members; nothing was changed.
        """
        places = [TopicPartition(topic, partition, offset) for (topic, partition), offset in sorted(offsets.items())]
        request = ConsumerGroupTopicPartitions(group, places)
        answers = self._admin.alter_consumer_group_offsets([request], request_timeout=self._answer_limit_s)
        refused = [one for one in self._result(answers[group]).topic_partitions if one.error is not None]
        if refused:
            raise KafkaRefusedError(f"Kafka refuses: {refused[0].error.str()}: stop all consumers first")

    def head_times(self, lagging: Collection[PartitionLag]) -> Mapping[tuple[str, int], float]:
        """Return when the first unsettled record of each of these partitions was written, in seconds since 1970.

        A partition whose record does not come in time, or has no time, is left out.
        """
        wanted = {(one.topic, one.partition): one for one in lagging if one.lag}
        if not wanted:
            return {}
        options = consumer_options(
            bootstrap_servers=self._servers, group_id="emrsync-operations-heads", client_id="emrsync-operations",
            classic=True,
        )  # fmt: skip
        reader = Consumer({**options, "log_level": 0}, logger=silent())
        found: dict[tuple[str, int], float] = {}
        try:
            reader.assign([TopicPartition(*place, one.end - one.lag) for place, one in wanted.items()])
            deadline_s = time.monotonic() + HEADS_LIMIT_S
            while len(found) < len(wanted) and (left_s := deadline_s - time.monotonic()) > 0:
                message = reader.poll(left_s)
                if message is None or message.error() is not None:
                    continue
                place = message.topic() or "", message.partition() or 0
                if place not in found:
                    found[place] = message.timestamp()[1] / 1000
                    # One record of each is enough, and the next may be many megabytes.
                    reader.pause([TopicPartition(*place)])
        except KafkaException as error:
            raise self._named(error) from error
        finally:
            reader.close()
        return found

    def partition_counts(self, topics: Collection[str]) -> Mapping[str, int]:
        """Return how many partitions each of these topics has; those that are missing are left out."""
        counts = self._partition_counts()
        return {name: counts[name] for name in topics if name in counts}

    def add_partitions(self, topics: Collection[str], wanted: int) -> None:
        """Give each topic so many partitions; Kafka only adds."""
        new = [NewPartitions(name, wanted) for name in topics]
        answers = self._admin.create_partitions(new, operation_timeout=self._answer_limit_s)
        for answer in answers.values():
            self._result(answer)


def members_max(partitions: Mapping[str, int], assignor: str) -> int:
    """Return how many members can own partitions, of these numbers by topic.

    By range each topic is cut into one piece for each member, and the same members get what is left of every topic.
    """
    numbers = partitions.values()
    return max(numbers, default=0) if assignor == "range" else sum(numbers)
