"""More partitions for the entity topics: drain, alter, resume; every other way is refused with its reason."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final

from connectors.connect_client import ConnectClient
from connectors.connect_errors import ConnectError
from operations.errors import OperationError
from operations.kafka import PartitionLag
from operations.kafka_group import GroupAdmin

DRAIN_LIMIT_S: Final = 300.0
"""How long the connector is stopped for at most before it is let go on with nothing changed."""

RESUME_LIMIT_S: Final = 60.0
"""How long Kafka Connect is told to let the connector go on: a worker that restarts answers within 30 s."""

_POLL_S: Final = 0.5
_STOPPED: Final = "STOPPED"


class RepartitionError(OperationError):
    """The number of partitions was not changed; the message says why, and what to do."""


def check(kafka: GroupAdmin, group: str, topics: Collection[str], wanted: int) -> bool:
    """Tell whether there is anything to do, and refuse what cannot be done safely.

    Raises:
        RepartitionError: the number is too small, a topic is missing, or nobody would drain the group.
    """
    counts = kafka.partition_counts(topics)
    missing = sorted(set(topics) - set(counts))
    if missing:
        raise RepartitionError(f"no such topic: {', '.join(missing)}: `emrsync provision` makes them")
    most = max(counts.values())
    if wanted < most:
        raise RepartitionError(
            f"the topics have {most} partitions, and Kafka cannot take any away: fewer partitions need new topics,"
            " another EMRSYNC_TOPIC_PREFIX, and a snapshot"
        )
    if all(count == wanted for count in counts.values()):
        return False
    lag = kafka.lag(group, topics)
    halted = [one for one in lag if one.halted]
    if halted:
        raise RepartitionError(
            f"{halted[0].topic} partition {halted[0].partition} was given up for too many dead letters and would never"
            " drain: see `emrsync dead-letter list` first"
        )
    if _left(lag) and not kafka.members(group):
        raise RepartitionError(
            f"{_left(lag)} records wait and the group has no member: an entity's next event would go to another"
            " partition while its last one still waits, and two members would have it at once; start consumers first"
        )
    return True


def repartition(
    kafka: GroupAdmin,
    connect: ConnectClient,
    *,
    connector: str,
    group: str,
    topics: Collection[str],
    wanted: int,
    say: Callable[[str], None],
    stopped: Callable[[], bool],
    drain_limit_s: float = DRAIN_LIMIT_S,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Stop the connector, wait until the group has settled everything, add partitions, and let the connector go on.

    Commits of the application go on meanwhile, and wait in the database's log. Whatever ends this, the connector is
    let go on; only if Kafka Connect does not take that within RESUME_LIMIT_S it stays stopped, and the error says so.
    Whether stopped() says that somebody wants the end is asked while the connector stops and the group drains.

    Raises:
        RepartitionError: the group did not drain in time, the connector did not stop, or stopped() said so, and
            nothing was changed; or the connector could not be let go on.
        ConnectError, KafkaUnreachableError, KafkaRefusedError: a system could not be asked.
    """
    connect.status(connector)  # what is not there, or wants a password, is told before anything is touched
    wait = _waiting(drain_limit_s, stopped, sleep, clock)
    try:
        # Paused is not enough: a producer that lives on spreads keys over the old number until it asks again.
        connect.stop(connector)
        say(f"connector {connector}: stopping; what the application commits waits in its database")
        while (seen := connect.status(connector)).state != _STOPPED or seen.tasks:
            wait(f"connector {connector} did not stop ({seen.summary})")
        while left := _left(kafka.lag(group, topics)):
            wait(f"{left} records were not settled (see `emrsync group`)")
        say("everything in the topics is settled")
        kafka.add_partitions([name for name, count in kafka.partition_counts(topics).items() if count < wanted], wanted)
        say(
            f"each topic has {wanted} partitions: set EMRSYNC_KAFKA_PARTITIONS={wanted}, or `emrsync provision`"
            " reports the number as drift"
        )
    except BaseException as error:
        _go_on(connect, connector, str(error) or type(error).__name__, sleep, clock)
        raise
    _go_on(connect, connector, f"each topic has {wanted} partitions", sleep, clock)


def _go_on(
    connect: ConnectClient, connector: str, before: str, sleep: Callable[[float], None], clock: Callable[[], float]
) -> None:
    """Let the connector go on, or say what was before and that it is still stopped."""
    deadline_s = clock() + RESUME_LIMIT_S
    while True:
        try:
            return connect.resume(connector)
        except ConnectError as error:
            if clock() >= deadline_s:
                raise RepartitionError(
                    f"{before}; connector {connector} is still stopped, as it could not be told to go on ({error}):"
                    " call `emrsync connector resume` as soon as Kafka Connect answers"
                ) from error
        sleep(_POLL_S)


def _waiting(
    limit_s: float, stopped: Callable[[], bool], sleep: Callable[[float], None], clock: Callable[[], float]
) -> Callable[[str], None]:
    """Give what waits a moment, or says what was not reached when the time is over or somebody wants the end."""
    deadline_s = clock() + limit_s

    def wait(reason: str) -> None:
        if stopped():
            raise RepartitionError(f"told to stop; nothing was changed: {reason}")
        if clock() > deadline_s:
            raise RepartitionError(
                f"{reason} within {limit_s:.0f} s; nothing was changed, and --drain-limit-s waits longer"
            )
        sleep(_POLL_S)

    return wait


def _left(lag: Collection[PartitionLag]) -> int:
    return sum(one.lag for one in lag)
