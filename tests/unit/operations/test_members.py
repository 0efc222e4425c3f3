"""Members of the native stack: how many run, and in which order they come and go."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pytest

from operations.config import OperationsSettings
from operations.kafka_group import GroupAdmin, GroupMember
from operations.members import STOP_LIMIT_S, MemberAbsentError, restart, running, scale
from stack import Stack
from stack.stack import ProgramStatus

VARIABLES = {
    "EMRSYNC_SOURCE_URL": "postgresql+psycopg://m@h/clinic",
    "EMRSYNC_OPENEMR_URL": "mysql+pymysql://w@h/openemr",
    "EMRSYNC_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "EMRSYNC_CDC_PASSWORD": "not for consumers",
}


class Home(Stack):
    """Programs by name; what was done to them, in order."""

    def __init__(self, *names: str) -> None:
        self.programs: dict[str, Mapping[str, str]] = {name: {} for name in names}
        self.done: list[str] = []
        self.stop_limits: set[int] = set()

    def status(self) -> tuple[ProgramStatus, ...]:
        """See Stack."""
        return tuple(ProgramStatus(name, "RUNNING", 1, None, 1, None) for name in self.programs)

    def env(self) -> Mapping[str, str]:
        """See Stack."""
        return VARIABLES

    def add_program(
        self, name: str, argv: Sequence[str], environment: Mapping[str, str], *, stop_limit_s: int = 30
    ) -> None:
        """See Stack."""
        assert list(argv)[-2:] == ["consumer", "run"]
        self.programs[name] = environment
        self.stop_limits.add(stop_limit_s)

    def start(self, name: str) -> None:
        """See Stack."""
        self.done.append(f"start {name}")

    def stop(self, name: str) -> None:
        """See Stack."""
        self.done.append(f"stop {name}")

    def remove_program(self, name: str) -> None:
        """See Stack."""
        self.done.append(f"remove {name}")
        del self.programs[name]


class Group(GroupAdmin):
    """Two partitions; each look finds the next shares, the last for ever."""

    def __init__(self, home: Home, *shares: Mapping[str, int]) -> None:
        self._home = home
        self._shares = list(shares)

    def partition_counts(self, topics: Collection[str]) -> Mapping[str, int]:
        """See GroupAdmin."""
        return {next(iter(topics)): 2}

    def members(self, group: str) -> tuple[GroupMember, ...]:  # noqa: ARG002 - the base's
        """See GroupAdmin."""
        share = self._shares[0] if len(self._shares) == 1 else self._shares.pop(0)
        self._home.done.append(f"look {share}")
        return tuple(GroupMember(name, "h", (("t", 0),) * count) for name, count in share.items())


def say(_line: str) -> None:
    """Drop it."""


@pytest.fixture
def settings(bare: None) -> OperationsSettings:
    """Give settings that know nothing of the machine."""
    return OperationsSettings.read(metrics_port=9_400)


def test_members_that_are_missing_are_started(settings: OperationsSettings) -> None:
    """Each with a name and a port of its own, the accounts of a consumer, and the time it needs to stop."""
    home = Home("kafka", "consumer-1")
    scale(home, settings, 3, say=say)

    assert running(home) == [1, 2, 3]
    assert home.done == ["start consumer-1", "start consumer-2", "start consumer-3"]
    assert home.stop_limits == {STOP_LIMIT_S}
    third = home.programs["consumer-3"]
    assert (third["EMRSYNC_CLIENT_ID"], third["EMRSYNC_METRICS_PORT"]) == ("consumer-3", "9402")
    assert "EMRSYNC_CDC_PASSWORD" not in third


def test_members_that_are_too_many_leave_the_highest_first(settings: OperationsSettings) -> None:
    """One after the other; servers and the retrier stay."""
    home = Home("kafka", "retrier", "consumer-1", "consumer-2", "consumer-10")
    scale(home, settings, 1, say=say)

    assert home.done == ["remove consumer-10", "remove consumer-2", "start consumer-1"]
    assert set(home.programs) == {"kafka", "retrier", "consumer-1"}


def test_the_next_member_is_restarted_when_the_one_before_has_its_share(settings: OperationsSettings) -> None:
    """Not when its process runs."""
    home = Home("consumer-1", "consumer-2")
    one, both = {"consumer-2": 2}, {"consumer-1": 1, "consumer-2": 1}
    group = Group(home, one, {**one, "consumer-1": 0}, both)
    restart(home, settings, kafka=group, say=say)

    assert home.done == [
        "stop consumer-1",
        "start consumer-1",
        f"look {one}",
        f"look { {**one, 'consumer-1': 0} }",
        f"look {both}",
        "stop consumer-2",
        "start consumer-2",
        f"look {both}",
    ]


def test_a_member_that_does_not_come_back_ends_the_restart(settings: OperationsSettings) -> None:
    """The others are left as they are."""
    home = Home("consumer-1", "consumer-2")

    with pytest.raises(MemberAbsentError, match="consumer-1 has no partitions"):
        restart(home, settings, kafka=Group(home, {"consumer-2": 2}), say=say, limit_s=0.3)

    assert "stop consumer-2" not in home.done


def test_a_member_for_whom_no_partition_is_left_need_not_have_one(settings: OperationsSettings) -> None:
    """Three members share two."""
    home = Home("consumer-1")
    group = Group(home, {"consumer-1": 0, "consumer-2": 1, "consumer-3": 1})
    restart(home, settings, kafka=group, say=say, limit_s=0.3)

    assert home.done[:2] == ["stop consumer-1", "start consumer-1"]
