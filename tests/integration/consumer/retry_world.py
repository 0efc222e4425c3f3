"""A clinic's PostgreSQL, an OpenEMR site, and retriers between them: in this process, as commands, as processes."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from connectors.events import Event
from connectors.outbox import Operation, payload_text, sync_outbox
from consumer.outbox_marker import SqlOutboxMarker
from consumer.retry import RetryPolicy
from consumer.settle import settle_events
from consumer.source_database import create_engine
from tests.e2e.members import wait_for
from tests.integration.consumer.openemr.sites import Site
from tests.made_events import event
from tests.sources import outbox_columns

LIMIT_S = 60.0


@dataclasses.dataclass(frozen=True)
class RetryWorld:
    """Both databases; the settings name the accounts that the product uses."""

    site: Site
    admin: sa.Engine
    marker_engine: sa.Engine
    settings: Mapping[str, str]

    def failed(self, fields: Mapping[str, Any], operation: Operation = Operation.CREATE) -> Event:
        """Write an event and let it fail as the consumer does; it is due no more by itself."""
        one = self.settled(fields, operation)
        assert ("failed", 1) == self.state(one)[::2]
        self.change(one, next_attempt_at=None)
        return one

    def settled(self, fields: Mapping[str, Any], operation: Operation = Operation.CREATE) -> Event:
        """Write an event and settle it as the consumer does."""
        made = event(fields, operation)
        with self.admin.begin() as connection:
            connection.execute(sa.insert(sync_outbox), outbox_columns(made))
            where = sync_outbox.c.outbox_id == made.outbox_id
            kept = connection.execute(sa.select(sync_outbox.c.seq, payload_text.label("text")).where(where)).one()
        one = dataclasses.replace(made, seq=kept.seq, payload=kept.text.encode())
        marker = SqlOutboxMarker(self.marker_engine, RetryPolicy())
        settle_events(self.site.target, marker, [one], (), clock=lambda: dt.datetime.now(dt.UTC))
        return one

    def state(self, one: Event) -> tuple[str, str | None, int]:
        """Give status, outcome and number of attempts."""
        row = self.row(one)
        return row.status, row.outcome, row.retry_count

    def row(self, one: Event) -> sa.Row[Any]:
        """Give the outbox row."""
        with self.admin.connect() as connection:
            return connection.execute(sa.select(sync_outbox).where(sync_outbox.c.outbox_id == one.outbox_id)).one()

    def change(self, *events: Event, **values: Any) -> None:
        """Change outbox rows."""
        with self.admin.begin() as connection:
            where = sync_outbox.c.outbox_id.in_([one.outbox_id for one in events])
            connection.execute(sa.update(sync_outbox).where(where).values(**values))

    def be_due(self, *events: Event) -> None:
        """Let rows be due now."""
        self.change(*events, next_attempt_at=dt.datetime.now(dt.UTC))

    def clear(self) -> None:
        """Empty the outbox."""
        with self.admin.begin() as connection:
            connection.execute(sa.delete(sync_outbox))

    def add_option(self, option_id: str) -> None:
        """Add a marital status, as an administrator does on OpenEMR's screen."""
        columns = "list_id, option_id, title, seq, is_default, activity"
        self.site.change(
            f"INSERT INTO list_options ({columns}) VALUES ('marital', %s, %s, 99, 0, 1)", option_id, option_id
        )

    @contextlib.contextmanager
    def process(self, log: Path, **settings: str) -> Iterator[RetryProcess]:
        """Give a running `emrsync retry run`, and end it in every case."""
        started = RetryProcess({**os.environ, **self.settings, **settings}, log)
        try:
            wait_for(lambda: "retry_started" in started.log, LIMIT_S, lambda: started.log)
            yield started
        finally:
            started.kill()


class RetryProcess:
    """One `emrsync retry run`, its log in a file."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            argv = [sys.executable, "-m", "operations", "retry", "run"]
            self._process = subprocess.Popen(argv, env=environment, stdout=output, stderr=subprocess.STDOUT)

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text(encoding="utf-8")

    def kill(self) -> None:
        """End it with -9."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(LIMIT_S)

    def terminate(self) -> int:
        """Ask it to stop, and give its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(LIMIT_S)


@contextlib.contextmanager
def retry_world(site: Site, urls: Sequence[str]) -> Iterator[RetryWorld]:
    """Put the parts together."""
    url, marker_url = urls
    with contextlib.ExitStack() as held:
        admin, marker = sa.create_engine(url), create_engine(marker_url)
        held.callback(admin.dispose)
        held.callback(marker.dispose)
        settings = {
            "EMRSYNC_SOURCE_URL": marker_url,
            "EMRSYNC_OPENEMR_URL": site.writer_url,
            "EMRSYNC_LEDGER_SCHEMA": site.ledger,
            "EMRSYNC_RETRY_INTERVAL_SECONDS": "0.2",
        }
        yield RetryWorld(site, admin, marker, settings)
