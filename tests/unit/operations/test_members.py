"""Members of the native stack: how many run, and in which order they come and go."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import pytest

from connectors.config import SettingsError
from consumer.config import ConsumerSettings, RetrySettings
from operations.config import OperationsSettings
from operations.kafka_group import GroupAdmin, GroupMember
from operations.members import STOP_LIMIT_S, MemberAbsentError, restart, running, scale, start_retrier
from stack import Stack
from stack.programs import Program
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
    ) -> bool:
        """See Stack."""
        words = ["retry", "run"] if name == "retrier" else ["consumer", "run"]
        assert list(argv)[-2:] == words
        program = Program(name, tuple(argv), environment)
        changed = self.programs.get(name, environment) != environment
        self.programs[name] = program.environment
        self.stop_limits.add(stop_limit_s)
        if changed:
            self.done.append(f"stop {name}")
        return changed

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
    """Two partitions of each of some topics; each look finds the next members, the last for ever."""

    def __init__(self, home: Home, *looks: Sequence[GroupMember], topics: int = 1) -> None:
        self._home = home
        self._topics = topics
        self._looks = list(looks) or [()]

    def partition_counts(self, topics: Collection[str]) -> Mapping[str, int]:
        """See GroupAdmin."""
        return dict.fromkeys(list(topics)[: self._topics], 2)

    def members(self, group: str) -> tuple[GroupMember, ...]:  # noqa: ARG002 - the base's
        """See GroupAdmin."""
        seen = self._looks[0] if len(self._looks) == 1 else self._looks.pop(0)
        self._home.done.append("look")
        return tuple(seen)


def owner(number: int, partitions: int, life: int = 1) -> GroupMember:
    """Give a member in its first, second … life."""
    return GroupMember(f"consumer-{number}", "h", (("t", 0),) * partitions, f"{number}-{life}")


def say(_line: str) -> None:
    """Drop it."""


@pytest.fixture
def settings(bare: None) -> OperationsSettings:
    """Give settings that know nothing of the machine."""
    return OperationsSettings.read(metrics_port=9_400)


def test_members_that_are_missing_are_started(settings: OperationsSettings) -> None:
    """Each with a name and a port of its own, the accounts of a consumer, and the time it needs to stop."""
    home = Home("kafka")
    scale(home, settings, 3, kafka=Group(home), say=say)

    assert running(home) == [1, 2, 3]
    assert home.done == ["start consumer-1", "start consumer-2", "start consumer-3"]
    assert home.stop_limits == {STOP_LIMIT_S}
    third = home.programs["consumer-3"]
    assert (third["EMRSYNC_CLIENT_ID"], third["EMRSYNC_METRICS_PORT"]) == ("consumer-3", "9402")
    assert "EMRSYNC_CDC_PASSWORD" not in third


def test_members_that_are_too_many_leave_the_highest_first(settings: OperationsSettings) -> None:
    """One after the other; servers and the retrier stay, and so does a member that has what it shall have."""
    home = Home("kafka", "retrier")
    scale(home, settings, 10, kafka=Group(home), say=say)
    home.done.clear()
    scale(home, settings, 8, kafka=Group(home), say=say)

    assert [step for step in home.done if step != "look"] == [
        "remove consumer-10",
        "remove consumer-9",
        *(f"start consumer-{number}" for number in range(1, 9)),
    ]
    assert set(home.programs) == {"kafka", "retrier", *(f"consumer-{number}" for number in range(1, 9))}


OTHERWISE: Final[dict[str, Any]] = {
    "consumer_group": "other",
    "ledger_schema": "emr_other",
    "openemr_username": "writer",
    "openemr_time_zone": "Europe/Vienna",
    "openemr_facility": "St. Mary's, 1st",
    "openemr_fallbacks": {"race": "decline_to_specify", "language": ""},
    "openemr_patient_deletes": "remove",
    "log_format": "console",
    "retry_delay_first_seconds": 10.0,
    "retry_delay_growth": 2.0,
    "retry_delay_max_seconds": 100.0,
    "retry_attempts_rejected": 5,
    "retry_attempts_ours": 8,
    "retry_total_seconds_max": 1_000.0,
    "retry_interval_seconds": 1.0,
    "retry_rows_max": 50,
    "retry_hold_seconds": 20.0,
    "retry_storm_failures": 7,
    "retry_storm_pause_seconds": 70.0,
    "topic_prefix": "clinic",
    "group_protocol": "classic",
    "group_assignor": "range",
    "batch_records_max": 100,
    "batch_slow_seconds": 2.5,
    "lock_patience_seconds": 4.0,
    "parent_wait_seconds": 60.0,
    "record_bytes_max": 4_096,
    "dead_letter_window_records": 10,
    "dead_letter_share_max": 0.5,
    "metrics_port": 9_500,
    "metrics_host": "127.0.0.2",
}
"""Each setting of a consumer or retrier that is no address, with another value than its default."""


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("kind", [ConsumerSettings, RetrySettings])
def test_every_setting_of_the_shell_reaches_the_process(
    kind: type[ConsumerSettings | RetrySettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the servers are the stack's, and a new setting must find its place in this test."""
    own = set(kind.model_fields) - {"source_url", "openemr_url", "kafka_bootstrap_servers", "client_id"}
    assert own <= set(OTHERWISE)
    for name, value in OTHERWISE.items():
        text = json.dumps(value) if isinstance(value, dict) else str(value)
        monkeypatch.setenv(f"EMRSYNC_{name.upper()}", text)
    monkeypatch.setenv("EMRSYNC_OPENEMR_URL", "mysql+pymysql://another@site/openemr")
    home = Home()
    settings = OperationsSettings.of(home.env())
    scale(home, settings, 1, kafka=Group(home), say=say)
    start_retrier(home, settings)

    given = home.programs["consumer-1" if kind is ConsumerSettings else "retrier"]
    for name in OTHERWISE:
        monkeypatch.delenv(f"EMRSYNC_{name.upper()}")
    for name, text in given.items():
        monkeypatch.setenv(name, text)
    read = kind.read()
    if kind is RetrySettings:
        own -= {"metrics_port"}  # the first member has it
        assert read.metrics_port is None
    assert {name: OTHERWISE[name] for name in own} == {name: getattr(read, name) for name in own}
    assert read.openemr_url.get_secret_value() == VARIABLES["EMRSYNC_OPENEMR_URL"]


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("EMRSYNC_GROUP_PROTOCOL", "cooperative", "EMRSYNC_GROUP_PROTOCOL"),
        ("EMRSYNC_OPENEMR_FACILITY", 'the "Saint\'s"', "EMRSYNC_OPENEMR_FACILITY begins or ends with a quote"),
    ],
)
def test_a_setting_that_no_member_could_have_is_told_before_one_is_started(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, and not in the log of a member that does not come up."""
    monkeypatch.setenv(name, value)
    home = Home()

    with pytest.raises(SettingsError, match=words):
        scale(home, OperationsSettings.of(home.env()), 1, kafka=Group(home), say=say)

    assert home.done == []


def test_members_with_other_settings_are_restarted_one_after_the_other(settings: OperationsSettings) -> None:
    """Stopped all at once, the group would stand until the first had its share again."""
    home = Home()
    scale(home, settings, 2, kafka=Group(home), say=say)
    home.done.clear()
    both, one = [owner(1, 1), owner(2, 1)], [owner(2, 2)]
    again = [owner(1, 1, life=2), owner(2, 1)]
    group = Group(home, both, one, again, again, [owner(1, 1, life=2), owner(2, 1, life=2)])
    scale(home, settings.model_copy(update={"metrics_port": 9_600}), 3, kafka=group, say=say)

    assert home.done == [
        *("look", "stop consumer-1", "start consumer-1", "look", "look"),
        *("look", "stop consumer-2", "start consumer-2", "look"),
        "start consumer-3",
    ]


def test_the_next_member_is_restarted_when_the_one_before_has_its_share(settings: OperationsSettings) -> None:
    """Not when its process runs."""
    home = Home("consumer-1", "consumer-2")
    group = Group(
        home,
        [owner(1, 1), owner(2, 1)],
        [owner(2, 2)],
        [owner(1, 0, life=2), owner(2, 2)],
        [owner(1, 1, life=2), owner(2, 1)],
        [owner(1, 1, life=2), owner(2, 1)],
        [owner(1, 1, life=2), owner(2, 1, life=2)],
    )
    restart(home, settings, kafka=group, say=say)

    assert home.done == [
        *("look", "stop consumer-1", "start consumer-1", "look", "look", "look"),
        *("look", "stop consumer-2", "start consumer-2", "look"),
    ]


def test_a_dead_member_of_the_same_name_is_not_taken_for_the_new_one(settings: OperationsSettings) -> None:
    """It was killed after it had outstayed its time, and has its partitions until its session is over."""
    home = Home("consumer-1")
    dead = [owner(1, 1), owner(2, 1)]
    joined = [owner(1, 0, life=2), *dead]
    group = Group(home, dead, dead, joined, [owner(1, 1, life=2), owner(2, 1)])
    restart(home, settings, kafka=group, say=say, limit_s=0.9)

    assert home.done == ["look", "stop consumer-1", "start consumer-1", "look", "look", "look"]


def test_a_member_that_does_not_come_back_ends_the_restart(settings: OperationsSettings) -> None:
    """The others are left as they are."""
    home = Home("consumer-1", "consumer-2")

    with pytest.raises(MemberAbsentError, match="consumer-1 has no partitions"):
        restart(home, settings, kafka=Group(home, [owner(2, 2)]), say=say, limit_s=0.3)

    assert "stop consumer-2" not in home.done


def test_a_member_for_whom_no_partition_is_left_need_not_have_one(settings: OperationsSettings) -> None:
    """Three members share two."""
    home = Home("consumer-1")
    others = [owner(2, 1), owner(3, 1)]
    group = Group(home, [owner(1, 0), *others], [owner(1, 0, life=2), *others])
    restart(home, settings, kafka=group, say=say, limit_s=0.3)

    assert home.done == ["look", "stop consumer-1", "start consumer-1", "look"]


@pytest.mark.parametrize("assignor", ["uniform", "range"])
def test_by_range_a_third_member_of_two_partitions_each_need_not_have_one(
    settings: OperationsSettings, assignor: str
) -> None:
    """By uniform it gets one of another topic, and is waited for."""
    home = Home("consumer-1")
    others = [owner(2, 2), owner(3, 2)]
    group = Group(home, [owner(1, 0), *others], [owner(1, 0, life=2), *others], topics=2)
    chosen = settings.model_copy(update={"group_assignor": assignor})

    with contextlib.nullcontext() if assignor == "range" else pytest.raises(MemberAbsentError):
        restart(home, chosen, kafka=group, say=say, limit_s=0.3)
