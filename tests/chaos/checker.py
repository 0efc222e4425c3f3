"""Looks at source, topics, ledger and OpenEMR at once, and says what is wrong: the one checker of all chaos tests."""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import confluent_kafka
import sqlalchemy as sa

from connectors.events import EntityKey, Event
from connectors.outbox import EntityType, Operation, TargetSystem
from connectors.topics import entity_topics
from tests.chaos import effects
from tests.e2e.members import wait_for
from tests.invariants import Snapshot, violations_at_any_time, violations_at_rest

GROUP: Final = "emrsync"
LEDGER: Final = "emr_sync"
TOLD_MAX: Final = 20

Place = tuple[str, int]

_UNFINISHED: Final = "(status NOT IN ('done', 'failed') OR error_class = 'locked')"

_EVENTS: Final = sa.text(
    "SELECT outbox_id, entity_type, entity_id, operation, target_system, seq, payload_version, created_at, "
    "payload::text AS payload, status, outcome, retry_count, processed_at, error_class, error_message "
    "FROM sync_outbox WHERE seq > :after ORDER BY seq"
)


class Checker:
    """Sees what was written after it was made; nobody else may write into the outbox meanwhile."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.source = sa.create_engine(variables["EMRSYNC_SOURCE_ADMIN_URL"], pool_pre_ping=True)
        self.openemr = sa.create_engine(variables["EMRSYNC_OPENEMR_ADMIN_URL"], pool_pre_ping=True)
        self._bootstrap = variables["EMRSYNC_KAFKA_BOOTSTRAP_SERVERS"]
        with self.source.connect() as connection:
            self.after = int(connection.exec_driver_sql("SELECT COALESCE(MAX(seq), 0) FROM sync_outbox").scalar_one())
        with self._looking() as consumer:
            self._begin = _ends(consumer)

    def close(self) -> None:
        """Give the connections back."""
        self.source.dispose()
        self.openemr.dispose()

    def rows(self) -> Sequence[sa.RowMapping]:
        """Give the outbox rows in seq order."""
        with self.source.connect() as connection:
            return list(connection.execute(_EVENTS, {"after": self.after}).mappings())

    def unfinished(self) -> int:
        """Count the rows that are neither done nor failed for a reason of their own."""
        sql = sa.text(f"SELECT count(*) FROM sync_outbox WHERE seq > :after AND {_UNFINISHED}")
        with self.source.connect() as connection:
            return int(connection.execute(sql, {"after": self.after}).scalar_one())

    def statuses(self) -> Mapping[str, int]:
        """Count the rows by status, outcome and error class."""
        sql = sa.text(
            "SELECT concat_ws(' ', status, outcome, error_class), count(*) FROM sync_outbox "
            "WHERE seq > :after GROUP BY 1"
        )
        with self.source.connect() as connection:
            return {str(name): int(count) for name, count in connection.execute(sql, {"after": self.after})}

    def oldest_unfinished_s(self) -> float:
        """Tell the age of the oldest of the unfinished rows, 0 if there is none."""
        sql = sa.text(
            "SELECT COALESCE(EXTRACT(EPOCH FROM clock_timestamp() - min(created_at)), 0) FROM sync_outbox "
            f"WHERE seq > :after AND {_UNFINISHED}"
        )
        with self.source.connect() as connection:
            return float(connection.execute(sql, {"after": self.after}).scalar_one())

    def lag(self) -> int:
        """Count the records that the group has not committed."""
        with self._looking() as consumer:
            ends, committed = _ends(consumer), _committed(consumer)
        return sum(end - committed.get(place, 0) for place, end in ends.items())

    def wait_at_rest(self, limit_s: float) -> None:
        """Wait until every row is done or failed and every offset is committed."""
        wait_for(lambda: self.unfinished() == 0, limit_s, self.statuses, interval_s=0.2)
        wait_for(lambda: self.lag() == 0, limit_s, lambda: f"lag {self.lag()}", interval_s=0.2)

    def violations(self, *, at_rest: bool, with_diary: bool = False, restored: bool = False) -> list[str]:
        """Check the invariants, and at rest also that OpenEMR's rows are what the newest events say.

        restored: OpenEMR came back from a backup meanwhile; what was applied then may be stale now, or the other way
        round, since it comes again beside other events, and the outbox keeps its first word.
        """
        # The order matters while things move: an effect may be newer than what is read of the events, never older.
        # At rest nothing moves.
        rows = self.rows()
        now = self.snapshot(rows)
        found = violations_at_rest(now) if at_rest else violations_at_any_time(now)
        if at_rest:
            done = {row["outbox_id"]: (row["seq"], row["outcome"]) for row in rows if row["status"] == "done"}
            found += disagreements(done, now.settled, restored=restored)
            found += self._wrong_rows(rows)
        if with_diary:
            found += effects.violations(self.openemr)
        return found[:TOLD_MAX]

    def snapshot(self, rows: Sequence[sa.RowMapping]) -> Snapshot:
        """Read all systems."""
        events = {row["outbox_id"]: _event(row) for row in rows}
        statuses = {row["outbox_id"]: row["status"] for row in rows}
        passed = self._passed()
        with self.openemr.connect() as connection:
            return read_snapshot(connection, LEDGER, after=self.after, events=events, statuses=statuses, passed=passed)

    def _passed(self) -> set[uuid.UUID]:
        """Read from the topics the ids of the events that the group's offsets have passed."""
        with self._looking() as consumer:
            committed = _committed(consumer)
            left = {place for place, end in committed.items() if end > self._begin[place]}
            parts = [confluent_kafka.TopicPartition(*place, self._begin[place]) for place in left]
            consumer.assign(parts)
            found: set[uuid.UUID] = set()
            while left:
                for message in consumer.consume(10_000, 0.5):
                    if (error := message.error()) is not None:
                        raise AssertionError(f"the topics cannot be read: {error.name()}")
                    place = str(message.topic()), int(message.partition() or 0)
                    offset = int(message.offset() or 0)
                    if offset < committed[place]:
                        found |= _outbox_id(message)
                    if offset + 1 >= committed[place]:
                        left.discard(place)
            return found

    def _wrong_rows(self, rows: Sequence[sa.RowMapping]) -> Iterator[str]:
        """Compare OpenEMR's columns with the newest payload; every row is there once, its uuid in the registry too."""
        newest: dict[EntityKey, sa.RowMapping] = {}
        for row in rows:
            if row["status"] == "done":
                newest[EntityKey(EntityType(row["entity_type"]), row["entity_id"])] = row
        with self.openemr.connect() as connection:
            shown = {key: value for place in effects.WORDS for key, value in _shown(connection, place, self.after)}
            doubles = [double for place in effects.WORDS for double in _doubles(connection, place)]
        yield from doubles
        for key, row in newest.items():
            deleted = row["operation"] == Operation.DELETE.value
            expected = (0, None, 0) if deleted else (1, _word(json.loads(row["payload"])), 1)
            if shown.get(key, (0, None, 0)) != expected:
                yield f"seq {row['seq']} wants {key} as {expected} (rows, word, uuids), OpenEMR has {shown.get(key)}"

    @contextlib.contextmanager
    def _looking(self) -> Iterator[confluent_kafka.Consumer]:
        # Never subscribed: it asks and reads, and the group knows nothing of it.
        consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": GROUP,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
            }
        )
        try:
            yield consumer
        finally:
            consumer.close()


def read_snapshot(
    connection: sa.Connection,
    ledger: str,
    *,
    after: int,
    events: Mapping[uuid.UUID, Event],
    statuses: Mapping[uuid.UUID, str],
    passed: Collection[uuid.UUID],
) -> Snapshot:
    """Add to what is known of the source and the stream what the ledger says of events with a seq above `after`."""
    keys = {event.key for event in events.values()}
    settled, held, mapped = (
        connection.exec_driver_sql(f"SELECT {columns} FROM {ledger}.{table} WHERE {seq} > %s", (after,)).all()
        for columns, table, seq in (
            ("outbox_id, outcome", "applied_event", "seq"),
            ("outbox_id", "waiting_event", "seq"),
            ("entity_type, entity_id, last_seq, content_hash", "entity_map", "last_seq"),
        )
    )
    entities = [(EntityKey(EntityType(row[0]), row[1]), row[2], row[3]) for row in mapped]
    # The ledger's hash is of OpenEMR's columns, which are compared apart; here it says whether there is a live row.
    digests = {(one.key, one.seq): hashlib.blake2b(one.payload, digest_size=16).digest() for one in events.values()}
    return Snapshot(
        events=events,
        statuses=statuses,
        settled={outbox_id: row[1] for row in settled if (outbox_id := uuid.UUID(bytes=row[0])) in events},
        waiting=frozenset(uuid.UUID(bytes=row[0]) for row in held),
        last_seqs={key: last_seq for key, last_seq, _ in entities if key in keys},
        contents={
            key: None if content_hash is None else digests.get((key, last_seq))
            for key, last_seq, content_hash in entities
            if key in keys
        },
        delivered=frozenset(outbox_id for outbox_id in passed if outbox_id in events),
    )


def disagreements(
    outcomes: Mapping[uuid.UUID, tuple[int, str | None]], settled: Mapping[uuid.UUID, str], *, restored: bool = False
) -> list[str]:
    """Find outbox rows that say another outcome than the ledger; outcomes: seq and outcome of those that are done."""
    either = {"applied", "stale"}
    fitting = {"applied": {"applied"}, "stale": {"stale"}, "duplicate": either}
    if restored:
        fitting |= {"applied": either, "stale": either}
    return [
        f"seq {seq} is {outcome} in the outbox and {settled.get(outbox_id)} in the ledger"
        for outbox_id, (seq, outcome) in outcomes.items()
        if settled.get(outbox_id) not in fitting.get(outcome or "", set())
    ]


def _ends(consumer: confluent_kafka.Consumer) -> dict[Place, int]:
    return {
        (one.topic, one.partition): consumer.get_watermark_offsets(one, timeout=10, cached=False)[1]
        for one in _parts(consumer)
    }


def _committed(consumer: confluent_kafka.Consumer) -> dict[Place, int]:
    return {(one.topic, one.partition): max(one.offset, 0) for one in consumer.committed(_parts(consumer), timeout=10)}


def _parts(consumer: confluent_kafka.Consumer) -> list[confluent_kafka.TopicPartition]:
    known = consumer.list_topics(timeout=10).topics
    return [
        confluent_kafka.TopicPartition(topic, number) for topic in entity_topics() for number in known[topic].partitions
    ]


def _outbox_id(message: confluent_kafka.Message) -> set[uuid.UUID]:
    try:
        value = dict(message.headers() or ())["id"]
        return {uuid.UUID(value.decode() if isinstance(value, bytes) else str(value))}
    except (KeyError, ValueError):
        # No event; it goes to the dead letters.
        return set()


def _event(row: sa.RowMapping) -> Event:
    return Event(
        outbox_id=row["outbox_id"],
        key=EntityKey(EntityType(row["entity_type"]), row["entity_id"]),
        operation=Operation(row["operation"]),
        target_system=TargetSystem(row["target_system"]),
        seq=row["seq"],
        payload_version=row["payload_version"],
        created_at=row["created_at"],
        payload=row["payload"].encode(),
    )


def _word(payload: Mapping[str, Any]) -> str:
    return str(payload.get("instructions") or payload.get("reason") or payload.get("middle_name"))


def _shown(connection: sa.Connection, place: str, after: int) -> Iterator[tuple[EntityKey, tuple[int, str, int]]]:
    """Give for each entity how many live rows OpenEMR holds, what one says, and how often its uuid is registered."""
    column = effects.WORDS[place]
    live = effects.LIVE[place] if effects.LIVE[place] == "1" else f"t.{effects.LIVE[place]} = 1"
    sql = (
        f"SELECT m.entity_type, m.entity_id, COUNT(DISTINCT t.{_ID[place]}), MAX(t.{column}), COUNT(DISTINCT r.uuid) "
        f"FROM {LEDGER}.entity_map m JOIN {place} t ON t.uuid = m.uuid AND {live} "
        "LEFT JOIN uuid_registry r ON r.uuid = t.uuid AND r.table_name = %s "
        "WHERE m.last_seq > %s GROUP BY 1, 2"
    )
    for entity_type, entity_id, count, word, registered in connection.exec_driver_sql(sql, (place, after)):
        yield EntityKey(EntityType(entity_type), entity_id), (count, word, registered)


def _doubles(connection: sa.Connection, place: str) -> Iterator[str]:
    """Find entities that have two rows, whatever the ledger knows of."""
    name = "pubpid" if place == "patient_data" else "external_id"
    sql = f"SELECT {name}, COUNT(*) FROM {place} WHERE {name} <> '' GROUP BY 1 HAVING COUNT(*) > 1"
    for entity_id, count in connection.exec_driver_sql(sql):
        yield f"{entity_id} has {count} rows in {place}"


_ID: Final = {
    "patient_data": "pid",
    "form_encounter": "id",
    "procedure_order": "procedure_order_id",
    "prescriptions": "id",
}
