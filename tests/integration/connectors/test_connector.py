"""The connector on real servers: what is inserted arrives exactly, marks do not, and what breaks is told and healed."""

from __future__ import annotations

import dataclasses
import json
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from connectors.accounts import Login, SourceAccounts, apply
from connectors.connect_client import ConnectClient
from connectors.connect_errors import ConnectorAbsentError, ConnectorNotRunningError, SourceUnreachableError
from connectors.connector_config import ConnectorPlace, SourceEngine, connector_config
from connectors.events import decode
from connectors.migrations import upgrade
from connectors.outbox import EntityType
from connectors.topics import topics
from operations.kafka import KafkaAdmin
from tests.integration.connectors.conftest import scratch_source

ARRIVAL_LIMIT_S = 30.0
QUIET_S = 1.0

# Debezium 3.6.1 reads these without naming them among its settings, or Connect does.
KNOWN_WITHOUT_A_DEFINITION = {
    "event.converting.failure.handling.mode",
    "read.only",
    "schema.history.internal.kafka.bootstrap.servers",
    "schema.history.internal.kafka.topic",
    "topic.creation.default.cleanup.policy",
    "topic.creation.default.partitions",
    "topic.creation.default.replication.factor",
    "topic.heartbeat.prefix",
    "transforms.outbox.table.fields.additional.error.on.missing",
}


@dataclasses.dataclass(frozen=True)
class Record:
    """One record as it lies in its topic."""

    topic: str
    key: bytes
    value: bytes
    headers: dict[str, bytes]

    @property
    def outbox_id(self) -> str:
        """Return the id that the outbox row has."""
        return self.headers["id"].decode()


class Line:
    """One source database, its connector and its topics, which nobody else uses."""

    def __init__(self, chain: Mapping[str, str], url: str) -> None:
        self.name = f"t{uuid.uuid4().hex[:10]}"
        self.url = url
        self.connect = chain["EMRSYNC_CONNECT_URL"].split(",")[0]
        self.client = ConnectClient(chain["EMRSYNC_CONNECT_URL"])
        self.kafka = chain["EMRSYNC_KAFKA_BOOTSTRAP_SERVERS"]
        self.cdc = Login(chain["EMRSYNC_CDC_USER"], chain["EMRSYNC_CDC_PASSWORD"])
        self.topics = [topic.name for topic in topics(prefix=self.name)]
        self.place = ConnectorPlace(
            engine=SourceEngine.POSTGRESQL,
            host=chain["EMRSYNC_CDC_HOST"],
            port=int(chain["EMRSYNC_CDC_PORT"]),
            database=str(sa.make_url(url).database),
            user=self.cdc.user,
            kafka_bootstrap_servers=self.kafka,
            topic_prefix=self.name,
            slot=self.name,
        )

    def execute(self, *statements: str) -> None:
        """Run statements in one transaction, as the administrator."""
        with self._engine().begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def insert(self, entity_id: str, payload: str = "{}", operation: str = "create") -> str:
        """Insert an event by plain SQL, and return its outbox_id."""
        text = sa.text(
            "INSERT INTO sync_outbox (entity_type, entity_id, operation, target_system, payload)"
            " VALUES ('patient', :entity_id, :operation, 'openemr', CAST(:payload AS jsonb)) RETURNING outbox_id"
        )
        with self._engine().begin() as connection:
            values = {"entity_id": entity_id, "operation": operation, "payload": payload}
            return str(connection.scalar(text, values))

    def one(self, query: str) -> Any:
        """Return the only value of a query."""
        with self._engine().connect() as connection:
            return connection.scalar(sa.text(query))

    def apply(self) -> None:
        """Create the connector and wait until it runs."""
        self.client.apply(self.name, connector_config(self.place))

    def read_until(self, outbox_id: str) -> list[Record]:
        """Return all records of the entity topics from the first on, when this one is there and no more come."""
        consumer = Consumer({"bootstrap.servers": self.kafka, "group.id": self.name, "enable.auto.commit": False})
        consumer.assign([TopicPartition(f"{self.name}.{one}", part, 0) for one in EntityType for part in range(2)])
        found: list[Record] = []
        deadline_s = time.monotonic() + ARRIVAL_LIMIT_S
        try:
            while time.monotonic() < deadline_s:
                arrived = any(record.outbox_id == outbox_id for record in found)
                message = consumer.poll(QUIET_S)
                if message is None and arrived:
                    return found
                if message is not None and message.error() is None:
                    found.append(_record(message))
        finally:
            consumer.close()
        raise AssertionError(f"not arrived within {ARRIVAL_LIMIT_S} s; {len(found)} others did")

    def drop_slot(self) -> None:
        """Drop the replication slot as soon as its reader has let go of it."""
        active = f"SELECT active FROM pg_replication_slots WHERE slot_name = '{self.name}'"
        deadline_s = time.monotonic() + ARRIVAL_LIMIT_S
        while self.one(active) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        if self.one(active) is not None:
            self.execute(f"SELECT pg_drop_replication_slot('{self.name}')")

    def remove(self) -> None:
        """Leave nothing: connector, slot, topics."""
        if self.name in self.client.names():
            self.client.delete(self.name)
        self.drop_slot()
        admin = AdminClient({"bootstrap.servers": self.kafka})
        for answer in admin.delete_topics(self.topics).values():
            answer.result(timeout=20)
        self.client.close()

    def _engine(self) -> sa.Engine:
        return sa.create_engine(self.url, poolclass=sa.NullPool)


@pytest.fixture(scope="module")
def line(chain: Mapping[str, str], source_admin_url: str) -> Iterator[Line]:
    """Make outbox, accounts and topics, and start the connector; all is removed afterwards."""
    with scratch_source(source_admin_url) as url:
        one = Line(chain, url)
        upgrade(url)
        accounts = SourceAccounts(Login(f"{one.name}_app", "x"), one.cdc, Login(f"{one.name}_marker", "y"))
        with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
            apply(connection, accounts, report=lambda _line: None)
        KafkaAdmin(one.kafka).ensure_topics(topics(prefix=one.name, partitions=2), report=lambda _line: None)
        try:
            one.apply()
            yield one
        finally:
            one.remove()
            for role in ("app", "marker"):
                one.execute(f"DROP OWNED BY {one.name}_{role}", f"DROP ROLE {one.name}_{role}")


def test_an_inserted_row_arrives_with_exactly_the_headers_key_and_value_of_the_contract(line: Line) -> None:
    """Payload text as the database holds it, in any script; nothing more and nothing less in the headers."""
    payload = '{"family_name": "김", "given_name": "Zoë 𐌸", "n": 1.10, "nested": {"a": [1, null, "x"]}}'
    outbox_id = line.insert("P-Ü-1", payload)
    stored = line.one(f"SELECT payload::text FROM sync_outbox WHERE outbox_id = '{outbox_id}'")

    record = next(one for one in line.read_until(outbox_id) if one.outbox_id == outbox_id)

    assert record.topic == f"{line.name}.patient"
    assert record.key == "P-Ü-1".encode()
    assert record.value == stored.encode()
    assert json.loads(record.value) == json.loads(payload)
    created_at = record.headers.pop("created_at")
    assert record.headers == {
        "id": outbox_id.encode(),
        "entity_type": b"patient",
        "operation": b"create",
        "target_system": b"openemr",
        "seq": str(line.one(f"SELECT seq FROM sync_outbox WHERE outbox_id = '{outbox_id}'")).encode(),
        "payload_version": b"1",
        "cause": None,
    }
    event = decode(record.key, record.value, {**record.headers, "created_at": created_at})
    assert event.created_at == line.one(f"SELECT created_at FROM sync_outbox WHERE outbox_id = '{outbox_id}'")


def test_marks_and_deleted_rows_produce_no_record(line: Line) -> None:
    """A thousand updates and a clearing later, the next record is the next event."""
    first = line.insert("P-2")
    before = len(line.read_until(first))
    line.execute(
        "INSERT INTO sync_outbox (entity_type, entity_id, operation, target_system, payload, status)"
        " SELECT 'patient', 'P-2', 'update', 'openemr', '{}', 'pending' FROM generate_series(1, 200)"
    )
    for status in ("processing", "failed", "done"):
        line.execute(f"UPDATE sync_outbox SET status = '{status}', processed_at = now(), error_message = 'x'")
    line.execute("DELETE FROM sync_outbox WHERE status = 'done'", "TRUNCATE sync_outbox")
    last = line.insert("P-2")

    assert len(line.read_until(last)) == before + 200 + 1


def test_a_lost_slot_sends_the_unfinished_rows_again_and_no_others(line: Line) -> None:
    """In their order; what is done stays done."""
    ids = [line.insert("P-3", operation="create" if number == 0 else "update") for number in range(6)]
    line.read_until(ids[-1])
    line.execute("UPDATE sync_outbox SET status = 'done'")
    unfinished = [ids[1], ids[3], ids[4]]
    line.execute(
        f"UPDATE sync_outbox SET status = 'failed' WHERE outbox_id = '{unfinished[0]}'",
        f"UPDATE sync_outbox SET status = 'pending' WHERE outbox_id IN ('{unfinished[1]}', '{unfinished[2]}')",
    )
    line.client.stop(line.name)
    line.drop_slot()

    line.client.resume(line.name)
    line.client.wait_running(line.name)
    last = line.insert("P-3")

    came = [record.outbox_id for record in line.read_until(last)]
    assert came[came.index(ids[-1]) + 1 :] == [*unfinished, last]


def test_a_failed_task_is_shown_with_its_cause_and_runs_again_when_that_is_gone(line: Line) -> None:
    """Connect itself would say only that the connector runs."""
    # No row is inserted meanwhile: its change could never be decoded, as the catalogue of its time has no publication.
    line.client.stop(line.name)
    line.execute("DROP PUBLICATION emrsync")
    line.client.resume(line.name)

    with pytest.raises(ConnectorNotRunningError, match="Publication autocreation is disabled"):
        line.client.wait_running(line.name)

    assert line.client.status(line.name).failed
    upgrade(line.url)
    line.apply()
    outbox_id = line.insert("P-4")
    assert outbox_id in [record.outbox_id for record in line.read_until(outbox_id)]


def test_a_database_that_does_not_answer_is_named_when_the_connector_is_applied(line: Line) -> None:
    """Connect's own words are a NullPointer text, or none that tells what to do."""
    name = f"{line.name}-2"
    config = connector_config(dataclasses.replace(line.place, port=9))

    with pytest.raises(SourceUnreachableError, match="EMRSYNC_CDC_"):
        line.client.apply(name, config)

    assert name not in line.client.names()


def test_the_mysql_connector_knows_every_setting_of_its_template(line: Line) -> None:
    """There is no MySQL server here, and all that it says against the template is that this one does not answer."""
    config = connector_config(dataclasses.replace(line.place, engine=SourceEngine.MYSQL, port=9))

    answer = httpx.put(
        f"{line.connect}/connector-plugins/MySqlConnector/config/validate",
        json={"name": line.name, **config},
        timeout=ARRIVAL_LIMIT_S,
        trust_env=False,
    ).json()["configs"]

    assert [one.split(":")[0] for one in line.client.objections(config)] == ["database.hostname"]
    defined = {one["definition"]["name"] for one in answer if one["definition"]}
    assert {name for name in config if name not in defined} == KNOWN_WITHOUT_A_DEFINITION | {
        f"snapshot.select.statement.overrides.{line.place.database}.sync_outbox"
    }


def test_the_mysql_connector_does_not_read_mariadb(line: Line, openemr_admin_url: str) -> None:
    """So that what is seen on MariaDB needs Debezium's plugin for MariaDB."""
    server = sa.make_url(openemr_admin_url)
    place = dataclasses.replace(line.place, engine=SourceEngine.MYSQL, port=int(server.port or 0))
    login = {"database.user": str(server.username), "database.password": str(server.password)}

    [objection] = line.client.objections({**connector_config(place), **login})

    assert re.search(r"database\.hostname: .*MariaDB", objection)


def test_an_absent_connector_is_named(line: Line) -> None:
    """Whoever asks for its state learns how to make it."""
    with pytest.raises(ConnectorAbsentError, match="connector apply"):
        line.client.status(f"{line.name}-absent")


def test_positions_are_shown_and_the_same_configuration_does_not_restart_the_stream(line: Line) -> None:
    """Provisioning again is harmless while events flow."""
    backend = f"SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{line.name}'"
    reader = line.one(backend)

    line.apply()

    assert reader is not None
    assert line.one(backend) == reader
    assert [list(one["partition"].values()) for one in line.client.offsets(line.name)] == [[line.name]]


def _record(message: Any) -> Record:
    return Record(message.topic(), message.key(), message.value(), dict(message.headers() or []))
