"""What the source keeps for the connector can be told while no worker answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from connectors.connect_client import ConnectClient
from connectors.connect_errors import ConnectorAbsentError, ConnectUnreachableError
from operations import connector_health
from operations.config import OperationsSettings
from operations.connector_health import FlowLook, SourceLogReader
from operations.kafka import KafkaAdmin
from operations.parts import Unavailable
from operations.source_log import SourceLog

POSITION = {"file": "binlog.2", "pos": 4, "ts_sec": 1}


class Worker:
    """A Kafka Connect that tells a position, or does not answer."""

    def __init__(self) -> None:
        self.answer: httpx.Response | None = httpx.Response(200, json={"offsets": [{"offset": POSITION}]})
        transport = httpx.MockTransport(self._answered)
        self.client = ConnectClient("http://connect", retry_limit_s=0.0, transport=transport)

    def _answered(self, request: httpx.Request) -> httpx.Response:
        if self.answer is None:
            raise httpx.ConnectError("refused", request=request)
        return self.answer


class Binlogs:
    """Stands for a server whose log is asked about, from a position on."""

    def __init__(self, _settings: OperationsSettings) -> None:
        pass

    def read(self, position: Mapping[str, Any]) -> SourceLog:
        """Tell what is kept from there on."""
        return SourceLog(f"binlog:{position['file']}", None, False, 7, None, 1.0, 2.0)


@pytest.fixture
def settings(bare: None, monkeypatch: pytest.MonkeyPatch) -> OperationsSettings:
    """Give the settings of a watch of a MariaDB source that is away."""
    monkeypatch.setattr(connector_health, "BinlogReader", Binlogs)
    url = "mariadb+pymysql://marker:secret@127.0.0.1:1/clinic"
    return OperationsSettings.of({"EMRSYNC_SOURCE_URL": url, "EMRSYNC_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"})


def test_the_last_position_stands_while_no_worker_answers(settings: OperationsSettings) -> None:
    """Nobody reads on from it, and the binlogs go by their age."""
    worker = Worker()
    reader = SourceLogReader(settings, worker.client)
    before = reader.read()
    worker.answer = None

    assert before is not None
    assert reader.read() == before
    with pytest.raises(ConnectUnreachableError):
        SourceLogReader(settings, worker.client).read()


def test_positions_that_were_forgotten_or_whose_connector_is_gone_do_not_stand(settings: OperationsSettings) -> None:
    """They are no place that anybody will read from."""
    worker = Worker()
    reader = SourceLogReader(settings, worker.client)
    reader.read()
    worker.answer = httpx.Response(200, json={"offsets": []})
    assert reader.read() is None

    worker.answer = httpx.Response(404, json={"message": "no such connector"})
    with pytest.raises(ConnectorAbsentError):
        reader.read()


def test_what_is_not_known_is_told_as_such(settings: OperationsSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nothing old is shown for it, whether a worker answers or not."""
    monkeypatch.setattr(connector_health, "_ANSWER_LIMIT_S", 0.1)
    told: list[tuple[object, object]] = []
    worker = Worker()
    worker.answer = None

    seen = FlowLook(settings, worker.client, lambda flow, log: told.append((flow, log)))()

    assert [[type(part) for part in parts] for parts in told] == [[Unavailable, Unavailable]]
    assert (seen.progress, seen.lost) == (None, None)
    assert [text.split(":")[0] for text in seen.warnings] == ["flow unknown", "source log unknown"]


def test_a_flow_that_is_unknown_is_asked_with_another_client_next_time(
    settings: OperationsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was told of no brokers never asks again, and the watch goes on for months."""
    made: list[KafkaAdmin] = []

    def admin(_settings: OperationsSettings) -> KafkaAdmin:
        made.append(KafkaAdmin("127.0.0.1:1", answer_limit_s=0.1))
        return made[-1]

    monkeypatch.setattr(connector_health, "_admin", admin)
    looking = FlowLook(settings, Worker().client)
    looking()
    looking()

    assert len(made) == 3
    assert looking._reader._admin is made[-1]
