"""Members of the consumer group, and a retrier, as supervised programs of the native stack."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from connectors.topics import entity_topics
from operations.config import OperationsSettings
from operations.errors import OperationError
from operations.kafka_group import GroupAdmin, GroupMember
from stack import Stack

STOP_LIMIT_S: Final = 75
"""A batch in hand ends within its statements' time limit of 60 s, and the marks in flight within 5 s after it."""

MEMBERS_MAX: Final = 64
"""Far beyond what one machine's cores can use."""

RESTART_LIMIT_S: Final = 120.0
"""How long a restarted member may take to own partitions."""

_POLL_S: Final = 0.25
_VARIABLES: Final = ("EMRSYNC_SOURCE_URL", "EMRSYNC_OPENEMR_URL", "EMRSYNC_KAFKA_BOOTSTRAP_SERVERS")
_MEMBER: Final = re.compile(r"consumer-(\d+)")


class MemberAbsentError(OperationError):
    """A restarted member does not come back into the group."""


def scale(
    stack: Stack,
    settings: OperationsSettings,
    members: int,
    *,
    say: Callable[[str], None],
) -> None:
    """Make consumer-1 … consumer-N run, and end those with higher numbers, the highest first.

    A member that goes finishes its batch and leaves the group, one after the other, so that partitions move once each.

    Raises:
        StackError: the stack is not up, or a member does not start; its log says why.
    """
    for number in reversed(running(stack)):
        if number > members:
            stack.remove_program(f"consumer-{number}")
            say(f"consumer-{number} has left")
    variables = stack.env()
    for number in range(1, members + 1):
        start(stack, f"consumer-{number}", ("consumer", "run"), _environment(settings, variables, number))
        say(f"consumer-{number} runs")


def restart(
    stack: Stack,
    settings: OperationsSettings,
    *,
    kafka: GroupAdmin,
    say: Callable[[str], None],
    limit_s: float = RESTART_LIMIT_S,
) -> None:
    """Restart the members one after the other, each only when the one before has its share again.

    A process runs long before its member owns partitions: going by the process alone, a slow machine would soon have
    no member left.

    Raises:
        StackError: a member does not start.
        MemberAbsentError: a member got no partitions within limit_s; the others are left as they are.
    """
    partitions = sum(kafka.partition_counts(entity_topics(settings.topic_prefix)).values())
    for number in running(stack):
        name = f"consumer-{number}"
        stack.stop(name)
        stack.start(name)
        deadline_s = time.monotonic() + limit_s
        while not _has_share(kafka.members(settings.consumer_group), name, partitions):
            if time.monotonic() > deadline_s:
                raise MemberAbsentError(
                    f"{name} has no partitions {limit_s:.0f} s after its restart: see `emrsync stack logs {name}`;"
                    " the members after it were not restarted"
                )
            time.sleep(_POLL_S)
        say(f"{name} has its share again")


def _has_share(members: Sequence[GroupMember], name: str, partitions: int) -> bool:
    # Where there are more members than partitions, to have joined is all that can be had.
    return any(one.partitions or len(members) > partitions for one in members if one.client_id == name)


def running(stack: Stack) -> Sequence[int]:
    """Return the numbers of the members that the stack knows, in order."""
    found = (_MEMBER.fullmatch(one.name) for one in stack.status())
    return sorted(int(match[1]) for match in found if match)


def start_retrier(stack: Stack, settings: OperationsSettings) -> None:
    """Start one retrier."""
    start(stack, "retrier", ("retry", "run"), _environment(settings, stack.env(), None))


def start(stack: Stack, name: str, words: Sequence[str], environment: Mapping[str, str]) -> None:
    """Start a command of ours as a program of the stack."""
    argv = [sys.executable, "-m", "operations", *words]
    stack.add_program(name, argv, {**environment, "EMRSYNC_CLIENT_ID": name}, stop_limit_s=STOP_LIMIT_S)
    stack.start(name)


def _environment(settings: OperationsSettings, variables: Mapping[str, str], number: int | None) -> dict[str, str]:
    found = {name: variables[name] for name in _VARIABLES} | {
        "EMRSYNC_TOPIC_PREFIX": settings.topic_prefix,
        "EMRSYNC_CONSUMER_GROUP": settings.consumer_group,
        "EMRSYNC_LEDGER_SCHEMA": settings.ledger_schema,
    }
    if settings.metrics_port is not None and number is not None:
        # Each process of a machine needs its own.
        found["EMRSYNC_METRICS_PORT"] = str(settings.metrics_port + number - 1)
        found["EMRSYNC_METRICS_HOST"] = settings.metrics_host
    return found
