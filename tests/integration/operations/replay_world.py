"""A clinic's outbox, its topics and an OpenEMR site, and the operator's commands on them, in this process or as one."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
import sqlalchemy as sa

import consumer.bootstrap
from connectors.events import Event
from connectors.outbox import Operation, payload_text, sync_outbox
from consumer.config import RetrySettings
from consumer.kafka_options import producer_options
from consumer.loop import ConsumerLoop, LoopLimits
from consumer.openemr.account import written_tables
from consumer.outbox_marker import SqlOutboxMarker
from consumer.retry import RetryPolicy
from consumer.settle import settle_events
from consumer.source_database import create_engine
from operations.kafka import KafkaAdmin
from tests.fakes import InlineExecutor
from tests.integration.consumer.openemr.sites import Site
from tests.integration.operations.charts import comparable
from tests.integration.operations.letters import LIMIT_S, Clinic, Said, emrsync
from tests.made_events import event, headers
from tests.sources import outbox_columns


@dataclasses.dataclass
class ReplayWorld:
    """All three systems; run is the operator's command line."""

    clinic: Clinic
    admin: sa.Engine
    marker: SqlOutboxMarker
    source_url: str
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    folder: Path

    @property
    def site(self) -> Site:
        """The OpenEMR database."""
        return self.clinic.site

    def write(self, *several: Mapping[str, Any], operation: Operation = Operation.CREATE) -> list[Event]:
        """Write outbox rows, and give their events as the connector reads them."""
        made = [event(fields, operation) for fields in several]
        with self.admin.begin() as connection:
            connection.execute(sa.insert(sync_outbox), [outbox_columns(one) for one in made])
            wanted = sync_outbox.c.outbox_id.in_([one.outbox_id for one in made])
            rows = connection.execute(
                sa.select(sync_outbox.c.outbox_id, sync_outbox.c.seq, payload_text).where(wanted)
            ).all()
        kept = {row[0]: row for row in rows}
        return [
            dataclasses.replace(one, seq=kept[one.outbox_id][1], payload=kept[one.outbox_id][2].encode())
            for one in made
        ]

    def send(self, events: Sequence[Event]) -> None:
        """Produce their records."""
        producer = confluent_kafka.Producer(
            dict(producer_options(bootstrap_servers=self.clinic.servers, client_id="test"))
        )
        for one in events:
            added = [(name, value) for name, value in headers(one)]
            producer.produce(
                self.clinic.topic(one), value=one.payload, key=one.key.entity_id.encode(), headers=list(added)
            )
            producer.poll(0)
        assert producer.flush(LIMIT_S) == 0

    def settle(self, events: Sequence[Event]) -> None:
        """Apply them and mark their rows, as the consumer does."""
        for start in range(0, len(events), 500):
            chunk = events[start : start + 500]
            settle_events(self.site.target, self.marker, chunk, (), clock=lambda: dt.datetime.now(dt.UTC))

    def happened(self, *several: Mapping[str, Any], operation: Operation = Operation.CREATE) -> list[Event]:
        """Write, send and settle."""
        events = self.write(*several, operation=operation)
        self.send(events)
        self.settle(events)
        return events

    def missed(self, *several: Mapping[str, Any], operation: Operation = Operation.CREATE) -> list[Event]:
        """Write and send, and settle nothing."""
        events = self.write(*several, operation=operation)
        self.send(events)
        return events

    def delete_records(self, events: Sequence[Event]) -> int:
        """Drop the first record of each partition of the events' topic, as retention does; give how many there were."""
        topic = self.clinic.topic(events[0])
        kept = KafkaAdmin(self.clinic.servers).kept(topic).offsets
        wanted = [
            confluent_kafka.TopicPartition(topic, number, first + 1)
            for number, (first, end) in enumerate(kept)
            if first < end
        ]
        for answer in self.clinic.admin.delete_records(wanted).values():
            answer.result(LIMIT_S)
        return len(wanted)

    def drain(self) -> None:
        """Let a member of the group work with the product's own parts until nothing is left to read."""
        for name, value in self.settings.items():
            self.monkeypatch.setenv(name, value)
        target = consumer.bootstrap.open_target(RetrySettings.read())
        stream = self.clinic.stream()
        try:
            loop = ConsumerLoop(stream, target, self.marker, InlineExecutor(), limits=LoopLimits())
            self.clinic.turn_until(loop, lambda: self.clinic.lag() == 0)
        finally:
            stream.close()
            target.close()

    def status(self, one: Event) -> str:
        """Give the status of an outbox row."""
        with self.admin.connect() as connection:
            wanted = sync_outbox.c.outbox_id == one.outbox_id
            return str(connection.scalar(sa.select(sync_outbox.c.status).where(wanted)))

    @property
    def settings(self) -> Mapping[str, str]:
        """What an operator's environment holds."""
        return {**self.clinic.settings(), "EMRSYNC_SOURCE_URL": self.source_url}

    def run(self, *words: str) -> Said:
        """Run a command in this process."""
        self.monkeypatch.chdir(self.folder)
        return emrsync(self.clinic, self.monkeypatch, self.capsys, *words, **self.settings)

    def json(self, *words: str) -> dict[str, Any]:
        """Run a command with --json, and give what it says."""
        said = self.run(*words, "--json")
        assert said.err == "", said.err
        found: dict[str, Any] = json.loads(said.out)
        return found

    @contextlib.contextmanager
    def process(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """Start a command as a process, and end it in every case."""
        started = subprocess.Popen(
            [sys.executable, "-m", "operations", *words],
            env={**os.environ, **self.settings, "PYTHONPATH": str(Path(__file__).parents[3])},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield started
        finally:
            started.kill()
            started.communicate()

    def openemr(self) -> Mapping[str, list[Mapping[str, Any]]]:
        """Give every row of every table of OpenEMR that is written, with times and all."""
        return {
            table: self.site.rows(f"SELECT * FROM {table}")
            for table in sorted(written_tables())
            if table != "sequences"
        }

    def chart(self) -> Mapping[str, list[str]]:
        """Give what OpenEMR shows, without numbers and times that hang on when and how it was written."""
        return comparable(self.openemr())


@contextlib.contextmanager
def replay_world(
    clinic: Clinic,
    urls: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
) -> Iterator[ReplayWorld]:
    """Put the parts together, with an outbox that is empty."""
    url, marker_url = urls
    with contextlib.ExitStack() as held:
        admin, marker = sa.create_engine(url), create_engine(marker_url)
        held.callback(admin.dispose)
        held.callback(marker.dispose)
        with admin.begin() as connection:
            connection.execute(sa.delete(sync_outbox))
        yield ReplayWorld(
            clinic, admin, SqlOutboxMarker(marker, RetryPolicy()), marker_url, monkeypatch, capsys, folder
        )
