"""What Kafka's client ends with becomes an error that the commands know, whichever way it comes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from operations.errors import KafkaRefusedError, KafkaUnreachableError, OperationError
from operations.kafka import KafkaAdmin
from operations.parts import Unavailable, part


def never(*_what: object, **_options: object) -> dict[str, Future[Any]]:
    """Answer with a result that does not come."""
    return {"topic": Future()}


def fails(code: int) -> Callable[..., Any]:
    """Fail while the question is asked."""

    def ask(*_what: object, **_options: object) -> Any:
        raise KafkaException(KafkaError(code))

    return ask


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(never, KafkaUnreachableError, id="no result in time"),
        pytest.param(fails(KafkaError._TRANSPORT), KafkaUnreachableError, id="no broker"),
        pytest.param(fails(KafkaError._STATE), KafkaRefusedError, id="the client cannot"),
    ],
)
def test_what_the_client_ends_with_is_known(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Any], expected: type[OperationError]
) -> None:
    """The thread of the metrics would end by anything else, and they would stand still."""
    admin = KafkaAdmin("127.0.0.1:1", answer_limit_s=0.05)
    monkeypatch.setattr(admin, "_admin", SimpleNamespace(describe_topics=answer))

    with pytest.raises(expected):
        admin.kept("topic")
    assert isinstance(part(lambda: admin.kept("topic")), Unavailable)
