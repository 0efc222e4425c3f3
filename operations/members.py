"""Members of the consumer group, and a retrier, as supervised programs of the native stack."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import pydantic

from connectors.config import PREFIX, SettingsError
from connectors.topics import entity_topics
from consumer.config import ConsumerSettings, RetrySettings
from operations.config import OperationsSettings
from operations.errors import OperationError
from operations.kafka_group import GroupAdmin, members_max
from stack import Stack

STOP_LIMIT_S: Final = 75
"""A batch in hand ends within its statements' time limit of 60 s, and the marks in flight within 5 s after it."""

MEMBERS_MAX: Final = 64
"""Far beyond what one machine's cores can use."""

RESTART_LIMIT_S: Final = 120.0
"""How long a restarted member may take to own partitions."""

_POLL_S: Final = 0.25
_PORT: Final = f"{PREFIX}METRICS_PORT"
_MEMBER: Final = re.compile(r"consumer-(\d+)")


class MemberAbsentError(OperationError):
    """A restarted member does not come back into the group."""


def scale(
    stack: Stack,
    settings: OperationsSettings,
    members: int,
    *,
    kafka: GroupAdmin,
    say: Callable[[str], None],
    limit_s: float = RESTART_LIMIT_S,
) -> None:
    """Make consumer-1 … consumer-N run, and end those with higher numbers, the highest first.

    Each has the settings that are set here. A member that goes finishes its batch and leaves the group, one after the
    other, so that partitions move once each. One that runs with other settings is restarted as restart() does it.

    Raises:
        StackError: the stack is not up, or a member does not start; its log says why.
        SettingsError: a setting is senseless, or cannot be handed on.
        MemberAbsentError: a member got no partitions within limit_s; the others are left as they are.
    """
    present = running(stack)
    for number in reversed(present):
        if number > members:
            stack.remove_program(f"consumer-{number}")
            say(f"consumer-{number} has left")
    environment = _environment(ConsumerSettings, stack, settings)
    for number in range(1, members + 1):
        name = f"consumer-{number}"
        before = _ids(kafka, settings, name) if number in present else frozenset()
        if start(stack, name, ("consumer", "run"), _numbered(environment, number)):
            # It was stopped: the next one must not be until this one has its share again.
            _await_share(kafka, settings, name, before, limit_s)
            say(f"{name} has its share again, with other settings")
        else:
            say(f"{name} runs")


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
    for number in running(stack):
        name = f"consumer-{number}"
        before = _ids(kafka, settings, name)
        stack.stop(name)
        stack.start(name)
        _await_share(kafka, settings, name, before, limit_s)
        say(f"{name} has its share again")


def _ids(kafka: GroupAdmin, settings: OperationsSettings, name: str) -> frozenset[str]:
    members = kafka.members(settings.consumer_group)
    return frozenset(one.member_id for one in members if one.client_id == name)


def _await_share(
    kafka: GroupAdmin, settings: OperationsSettings, name: str, before: frozenset[str], limit_s: float
) -> None:
    """Wait until a member of this name that is none of those before owns partitions.

    One that had to be killed stays in the group with its partitions until its session is over.
    """
    counts = kafka.partition_counts(entity_topics(settings.topic_prefix))
    most = members_max(counts, settings.group_assignor)
    deadline_s = time.monotonic() + limit_s
    while True:
        alive = [one for one in kafka.members(settings.consumer_group) if one.member_id not in before]
        # Where there are more members than can own partitions, to have joined is all that can be had.
        if any(one.partitions or len(alive) > most for one in alive if one.client_id == name):
            return
        if time.monotonic() > deadline_s:
            raise MemberAbsentError(
                f"{name} has no partitions {limit_s:.0f} s after its restart: see `emrsync stack logs {name}`;"
                " the members after it were not restarted"
            )
        time.sleep(_POLL_S)


def running(stack: Stack) -> Sequence[int]:
    """Return the numbers of the members that the stack knows, in order."""
    found = (_MEMBER.fullmatch(one.name) for one in stack.status())
    return sorted(int(match[1]) for match in found if match)


def start_retrier(stack: Stack, settings: OperationsSettings) -> None:
    """Start one retrier."""
    environment = _environment(RetrySettings, stack, settings)
    # The port is the first member's.
    environment.pop(_PORT, None)
    start(stack, "retrier", ("retry", "run"), environment)


def start(stack: Stack, name: str, words: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Start a command of ours as a program of the stack; tell whether one with other settings was stopped for it.

    Raises:
        SettingsError: a value cannot be written into the configuration of the stack.
    """
    argv = [sys.executable, "-m", "operations", *words]
    try:
        changed = stack.add_program(name, argv, {**environment, "EMRSYNC_CLIENT_ID": name}, stop_limit_s=STOP_LIMIT_S)
    except ValueError as error:
        raise SettingsError(f"a setting cannot be handed on: {error}") from error
    stack.start(name)
    return changed


def _environment(
    kind: type[ConsumerSettings | RetrySettings], stack: Stack, settings: OperationsSettings
) -> dict[str, str]:
    """Give every setting of such a process that is set: a program of the stack gets nothing else of this shell."""
    variables = {name.removeprefix(PREFIX).lower(): value for name, value in stack.env().items()}
    given: dict[str, Any] = {name: getattr(settings, name) for name in settings.model_fields_set} | variables
    read = kind.read(**{name: value for name, value in given.items() if name in kind.model_fields})
    values = {name: getattr(read, name) for name in kind.model_fields if name in read.model_fields_set}
    return {f"{PREFIX}{name.upper()}": _text(value) for name, value in values.items() if value is not None}


def _text(value: Any) -> str:
    if isinstance(value, pydantic.SecretStr):
        return value.get_secret_value()
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _numbered(environment: Mapping[str, str], number: int) -> Mapping[str, str]:
    if _PORT not in environment:
        return environment
    # Each process of a machine needs its own.
    return {**environment, _PORT: str(int(environment[_PORT]) + number - 1)}
