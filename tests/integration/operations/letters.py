"""A clinic's topics on the broker, a real OpenEMR database, members of a group, and the operator's commands."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient

from connectors.events import Event
from connectors.topics import dead_letter_topic, entity_topic, topics
from consumer.dead_letters import DeadLetterLimits
from consumer.kafka import KafkaEventStream
from consumer.kafka_options import consumer_options, producer_options
from consumer.loop import ConsumerLoop, LoopLimits
from operations import cli
from operations.errors import KafkaRefusedError
from operations.kafka import KafkaAdmin
from tests.fakes import FakeMarker, FakeRow, FakeSource, InlineExecutor
from tests.integration.consumer.openemr.sites import Site
from tests.made_events import headers

LIMIT_S: Final = 60.0

Headers = Sequence[tuple[str, bytes | None]]


@dataclasses.dataclass
class Clinic:
    """Topics under a prefix of their own, and what reads them."""

    servers: str
    site: Site
    prefix: str
    admin: AdminClient
    held: contextlib.ExitStack
    source: FakeSource = dataclasses.field(default_factory=FakeSource)

    def topic(self, one: Event) -> str:
        """Name the topic of an event."""
        return entity_topic(one.key.entity_type, self.prefix)

    def write(self, one: Event) -> Event:
        """Insert the outbox row."""
        self.source.outbox[one.outbox_id] = FakeRow(one)
        return one

    def produce(self, topic: str, key: bytes | None, value: bytes | None, added: Headers) -> None:
        """Produce a record, whatever it is."""
        options = producer_options(bootstrap_servers=self.servers, client_id="test")
        producer = confluent_kafka.Producer(dict(options))
        errors: list[object] = []
        told = lambda error, _message: errors.append(error)  # noqa: E731 - shorter than a function here
        producer.produce(topic, value=value, key=key, headers=list(added), on_delivery=told)
        assert producer.flush(LIMIT_S) == 0
        assert [None] == errors

    def produce_header_name(self, topic: str, name: bytes, times: int) -> None:
        """Produce records with a header of this name, which the client for Python does not let through."""
        folder = Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
        [library] = folder.glob("librdkafka*")
        rdkafka = ctypes.CDLL(str(library))
        rdkafka.rd_kafka_conf_new.restype = rdkafka.rd_kafka_new.restype = ctypes.c_void_p
        conf, error = ctypes.c_void_p(rdkafka.rd_kafka_conf_new()), ctypes.create_string_buffer(512)
        rdkafka.rd_kafka_conf_set(conf, b"bootstrap.servers", self.servers.encode(), error, ctypes.c_size_t(512))
        producer = ctypes.c_void_p(rdkafka.rd_kafka_new(0, conf, error, ctypes.c_size_t(512)))
        topic_tag, value_tag, header_tag, end_tag = (ctypes.c_int(tag) for tag in (1, 4, 9, 0))
        size = ctypes.c_size_t(2)
        header = header_tag, ctypes.c_char_p(name), ctypes.c_char_p(b"v"), ctypes.c_ssize_t(1)
        named = topic_tag, ctypes.c_char_p(topic.encode())
        value = value_tag, ctypes.c_char_p(b"{}"), size
        for _ in range(times):
            assert rdkafka.rd_kafka_producev(producer, *named, *value, *header, end_tag) == 0
        assert rdkafka.rd_kafka_flush(producer, 10_000) == 0
        rdkafka.rd_kafka_destroy(producer)

    def happen(self, one: Event, **changed: bytes | None) -> Event:
        """Write an event's row and produce its record, with some headers changed, and those that are None left out."""
        all_headers = {**dict(headers(self.write(one))), **changed}
        kept = [(name, value) for name, value in all_headers.items() if value is not None]
        self.produce(self.topic(one), one.key.entity_id.encode(), one.payload, kept)
        return one

    def stream(self, **options: Any) -> KafkaEventStream:
        """Join the group."""
        common = {"bootstrap_servers": self.servers, "client_id": uuid.uuid4().hex}
        stream = KafkaEventStream(
            consumer_options(**common, group_id=self.prefix, classic=False),
            {**producer_options(**common), **options},
            topics=[one.name for one in topics(prefix=self.prefix)[:3]],
            dead_letter_topic=dead_letter_topic(self.prefix),
        )
        self.held.callback(stream.close)
        return stream

    @contextlib.contextmanager
    def member(self, **limits: Any) -> Iterator[ConsumerLoop]:
        """Start a member with the limits of dead letters given, and let it leave."""
        stream = self.stream()
        loop_limits = LoopLimits(dead_letters=DeadLetterLimits(**limits))
        yield ConsumerLoop(stream, self.site.target, FakeMarker(self.source), InlineExecutor(), limits=loop_limits)
        stream.close()

    def drain(self, **limits: Any) -> None:
        """Let a member work until nothing is left to read."""
        with self.member(**limits) as loop:
            self.turn_until(loop, lambda: self.lag() == 0)

    def turn_until(self, loop: ConsumerLoop, done: Callable[[], bool]) -> None:
        """Let a member take turns until something is so."""
        deadline_s = time.monotonic() + LIMIT_S
        while not done():
            assert time.monotonic() < deadline_s, "the member does not come to it"
            loop.run_once()

    def lag(self) -> int:
        """Count what the group has not settled."""
        names = [one.name for one in topics(prefix=self.prefix)[:3]]
        return sum(one.lag for one in KafkaAdmin(self.servers).lag(self.prefix, names))

    def state(self, one: Event) -> tuple[str, str | None]:
        """Give status and outcome of an event's row."""
        row = self.source.outbox[one.outbox_id]
        return row.status, row.outcome

    def settings(self) -> Mapping[str, str]:
        """Give what an operator's environment holds."""
        return {
            "EMRSYNC_KAFKA_BOOTSTRAP_SERVERS": self.servers,
            "EMRSYNC_OPENEMR_URL": self.site.writer_url,
            "EMRSYNC_LEDGER_SCHEMA": self.site.ledger,
            "EMRSYNC_TOPIC_PREFIX": self.prefix,
            "EMRSYNC_CONSUMER_GROUP": self.prefix,
            "EMRSYNC_OPERATOR": "Robin",
        }


@contextlib.contextmanager
def clinic_topics(servers: str, site: Site) -> Iterator[Clinic]:
    """Make the topics of a clinic as provisioning does, and remove them."""
    prefix = f"letters-{uuid.uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": servers})
    with contextlib.ExitStack() as held:
        held.callback(remove_topics, admin, [one.name for one in topics(prefix=prefix)[:4]])
        make_topics(servers, prefix)
        yield Clinic(servers, site, prefix, admin, held)


def make_topics(servers: str, prefix: str) -> None:
    """Make those that are missing, and wait until the broker tells of them, which is a moment later."""
    kafka = KafkaAdmin(servers)
    wanted = topics(prefix=prefix, partitions=2)[:4]
    kafka.ensure_topics(wanted, report=lambda _line: None)
    deadline_s = time.monotonic() + LIMIT_S
    for one in wanted:
        while True:
            try:
                kafka.kept(one.name)
                break
            except KafkaRefusedError:
                assert time.monotonic() < deadline_s, f"{one.name} does not appear"
                time.sleep(0.05)


def remove_topics(admin: AdminClient, names: Sequence[str]) -> None:
    """Remove topics, and wait until they are gone."""
    present = set(admin.list_topics(timeout=LIMIT_S).topics) & set(names)
    for removed in admin.delete_topics(sorted(present)).values() if present else ():
        removed.result(LIMIT_S)


@dataclasses.dataclass(frozen=True)
class Said:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


def emrsync(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str, **more: str
) -> Said:
    """Run an operator's command in this process."""
    for name, value in {**clinic.settings(), "COLUMNS": "300", **more}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["emrsync", *words])
    capsys.readouterr()
    code = 0
    try:
        cli.main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    shown = capsys.readouterr()
    return Said(code, shown.out, shown.err)
