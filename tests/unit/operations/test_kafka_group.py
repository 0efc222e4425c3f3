"""What an answer of the brokers about a group means."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from operations import provision
from operations.config import OperationsSettings
from operations.errors import KafkaRefusedError, KafkaUnreachableError
from operations.kafka_group import GroupAdmin


class Refusing(GroupAdmin):
    """Brokers that answer every question about a group with an error."""

    def __init__(self, code: int) -> None:
        super().__init__("127.0.0.1:1")
        self._code = code
        self._admin: Any = self

    def describe_consumer_groups(self, groups: list[str], **_options: object) -> dict[str, Future[object]]:
        """Answer as AdminClient does."""
        answer: Future[object] = Future()
        answer.set_exception(KafkaException(KafkaError(self._code)))
        return dict.fromkeys(groups, answer)

    def describe_configs(self, resources: list[object], **_options: object) -> dict[object, Future[object]]:
        """See above."""
        answer: Future[object] = Future()
        answer.set_exception(KafkaException(KafkaError(self._code)))
        return dict.fromkeys(resources, answer)


def test_a_group_that_does_not_exist_has_no_members() -> None:
    """A broker from 4.0 on knows no group that nobody has joined."""
    assert Refusing(KafkaError.GROUP_ID_NOT_FOUND).members("emrsync") == ()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaRefusedError),
        (KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaRefusedError),
        (KafkaError._TIMED_OUT, KafkaUnreachableError),
    ],
    ids=["no right", "coordinator", "no answer"],
)
def test_every_other_refusal_is_told_and_is_not_a_group_without_members(code: int, kind: type[Exception]) -> None:
    """Or whoever may not see the group would be told to start consumers that run."""
    with pytest.raises(kind):
        Refusing(code).members("emrsync")


@pytest.mark.usefixtures("bare")
def test_provisioning_goes_on_where_the_brokers_refuse_a_groups_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brokers before 4.0, bounds that forbid it, or no right to it: the group works all the same."""
    refusing = Refusing(KafkaError.INVALID_REQUEST)
    monkeypatch.setattr(provision, "GroupAdmin", lambda _servers: refusing)
    said: list[str] = []
    provision._group(OperationsSettings.read(kafka_bootstrap_servers="127.0.0.1:1"), said.append)

    assert said[1].startswith("consumer group: left as the brokers have it: Kafka refuses")
    assert said[-1] == "consumer group: ready"
