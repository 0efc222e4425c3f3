"""What an end-to-end test does to the running chain: write outbox rows, look at both databases and at the topics."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

import confluent_kafka
import sqlalchemy as sa

from connectors.outbox import EntityType, Operation, TargetSystem
from tests.e2e.members import wait_for

SETTLE_LIMIT_S: Final = 60.0

_INSERT: Final = sa.text(
    "INSERT INTO sync_outbox (entity_type, entity_id, operation, target_system, payload) "
    "VALUES (:entity_type, :entity_id, :operation, :target_system, :payload) RETURNING outbox_id"
)
_STATES: Final = sa.text("SELECT * FROM sync_outbox WHERE entity_id IN :ids ORDER BY seq").bindparams(
    sa.bindparam("ids", expanding=True)
)


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One outbox row to write."""

    entity_type: EntityType
    payload: Mapping[str, Any]
    operation: Operation = Operation.CREATE
    target: TargetSystem = TargetSystem.OPENEMR

    @property
    def entity_id(self) -> str:
        """The id inside the payload."""
        return str(self.payload[f"{self.entity_type}_id"])


class Chain:
    """The running chain."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = variables
        # Other tests stop and start the servers under connections that rest here.
        self.source = sa.create_engine(variables["EMRSYNC_SOURCE_ADMIN_URL"], pool_pre_ping=True)
        self.openemr = sa.create_engine(variables["EMRSYNC_OPENEMR_ADMIN_URL"], pool_pre_ping=True)

    def close(self) -> None:
        """Give the connections back."""
        self.source.dispose()
        self.openemr.dispose()

    def write(self, *rows: Row) -> list[uuid.UUID]:
        """Insert outbox rows by plain SQL, in one transaction, as the contract allows."""
        with self.source.begin() as connection:
            return [
                connection.execute(
                    _INSERT,
                    {
                        "entity_type": row.entity_type.value,
                        "entity_id": row.entity_id,
                        "operation": row.operation.value,
                        "target_system": row.target.value,
                        "payload": json.dumps(row.payload),
                    },
                ).scalar_one()
                for row in rows
            ]

    def states(self, entity_ids: Sequence[str]) -> list[sa.RowMapping]:
        """Return the outbox rows of entities in seq order."""
        with self.source.connect() as connection:
            return list(connection.execute(_STATES, {"ids": list(entity_ids)}).mappings())

    def wait_settled(self, entity_ids: Sequence[str], limit_s: float = SETTLE_LIMIT_S) -> list[sa.RowMapping]:
        """Wait until every row of the entities is done or failed, and return the rows."""
        wait_for(
            lambda: all(row["status"] in {"done", "failed"} for row in self.states(entity_ids)),
            limit_s,
            lambda: [(row["seq"], row["status"], row["outcome"]) for row in self.states(entity_ids)],
        )
        return self.states(entity_ids)

    def wait_done(self, entity_id: str, limit_s: float = SETTLE_LIMIT_S) -> sa.RowMapping:
        """Wait until an entity's only row is done, though it may have failed before, and return it."""
        wait_for(
            lambda: [row["status"] for row in self.states([entity_id])] == ["done"],
            limit_s,
            lambda: [(row["status"], row["outcome"]) for row in self.states([entity_id])],
        )
        return self.states([entity_id])[0]

    def scalar(self, sql: str, *parameters: Any) -> Any:
        """Read one value of OpenEMR's server."""
        with self.openemr.connect() as connection:
            return connection.exec_driver_sql(sql, parameters).scalar()

    def topic_records(self, topic: str) -> int:
        """Count the records a topic has ever held."""
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": self.variables["EMRSYNC_KAFKA_BOOTSTRAP_SERVERS"], "group.id": f"look-{uuid.uuid4()}"}
        )
        try:
            partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            ends = [
                consumer.get_watermark_offsets(confluent_kafka.TopicPartition(topic, number), timeout=10)[1]
                for number in partitions
            ]
            return sum(ends)
        finally:
            consumer.close()

    def redeliver(self, outbox_id: uuid.UUID, times: int) -> None:
        """Put the same event on its topic again, as a connector does that was killed before it wrote its offset."""
        with self.source.connect() as connection:
            row = (
                connection.execute(sa.text("SELECT * FROM sync_outbox WHERE outbox_id = :id"), {"id": outbox_id})
                .mappings()
                .one()
            )
        headers: list[tuple[str, str | bytes | None]] = [
            ("id", str(outbox_id)),
            *((name, str(row[name])) for name in ("entity_type", "operation", "target_system", "seq")),
            ("payload_version", str(row["payload_version"])),
            ("created_at", row["created_at"].isoformat()),
        ]
        for _ in range(times):
            self.produce(f"emrsync.{row['entity_type']}", row["entity_id"], json.dumps(row["payload"]), headers)

    def produce(
        self, topic: str, key: str | None, value: str | bytes | None, headers: list[tuple[str, str | bytes | None]]
    ) -> None:
        """Write one record to a topic, to the partition that Java's partitioner would choose."""
        producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": self.variables["EMRSYNC_KAFKA_BOOTSTRAP_SERVERS"],
                "partitioner": "murmur2_random",
            }
        )
        producer.produce(topic, key=key, value=value, headers=headers)
        assert producer.flush(10) == 0
