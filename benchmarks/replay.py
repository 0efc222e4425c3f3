"""How fast a replay passes what was applied before, and that it writes nothing: `python -m benchmarks.replay`."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import confluent_kafka
import sqlalchemy as sa

from benchmarks.workload import patient
from connectors.outbox import EntityType
from consumer.apply import apply_events
from consumer.bootstrap import tune_memory
from consumer.kafka_options import producer_options
from operations.bootstrap import wired_replay
from operations.config import OperationsSettings
from operations.kafka_times import TopicTimes
from operations.record_source import TopicSource, merged
from operations.recovery_ledger import RecoveryLedger
from operations.replay import Replay, make_plan
from operations.replay_pace import Pace
from operations.replay_selection import Selection
from tests.chain import OPENEMR_VERSION, running_chain
from tests.integration.consumer.openemr.sites import installed_site
from tests.integration.operations.letters import Clinic, clinic_topics
from tests.made_events import event, headers

BATCH = 500


def main() -> None:
    """Apply new patients, produce their records, and then plan and apply a replay of all of them."""
    parser = argparse.ArgumentParser(prog="benchmarks.replay", description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    events = parser.parse_args().events
    with (
        running_chain() as chain,
        installed_site(chain["EMRSYNC_OPENEMR_ADMIN_URL"], OPENEMR_VERSION) as site,
        clinic_topics(chain["EMRSYNC_KAFKA_BOOTSTRAP_SERVERS"], site) as clinic,
    ):
        os.environ.update(chain)
        os.environ.update(clinic.settings())
        admin = sa.create_engine(chain["EMRSYNC_OPENEMR_ADMIN_URL"])
        with admin.connect() as connection:
            connection.execute(sa.text("SET GLOBAL userstat = 1"))
            _fill(clinic, events)
            filled = _rows_changed(connection, site.database)
            assert filled >= events, "the server does not count what is written"
            _measure(clinic, events)
            written = _rows_changed(connection, site.database) - filled
        admin.dispose()
    print(f"rows of OpenEMR's tables that the server counted as written: {filled:,} before, {written:,} by the replay")
    assert written == 0


def _fill(clinic: Clinic, events: int) -> None:
    producer = confluent_kafka.Producer(dict(producer_options(bootstrap_servers=clinic.servers, client_id="bench")))
    for start in range(0, events, BATCH):
        chunk = [event(patient(number)) for number in range(start, min(start + BATCH, events))]
        for one in chunk:
            added: list[tuple[str, str | bytes | None]] = list(headers(one))
            producer.produce(clinic.topic(one), value=one.payload, key=one.key.entity_id.encode(), headers=added)
        apply_events(clinic.site.target, chunk, (), clock=lambda: dt.datetime.now(dt.UTC))
        assert producer.flush(60) == 0


def _measure(clinic: Clinic, events: int) -> None:
    settings = OperationsSettings.read()
    source = TopicSource(TopicTimes(clinic.servers), clinic.prefix)
    spans = [one.span for one in source.kept(tuple(EntityType))]
    tune_memory()
    with wired_replay() as parts:
        with _timed("read alone", events):
            assert events == sum(1 for _ in merged(source.records, spans))
        with _timed("plan", events):
            plan = make_plan(
                settings, parts, source, Selection(), plan_id="bench", force_rewrite=False, stop=_never, told=_nobody
            )
        ledger = RecoveryLedger(settings)
        with ledger.alone(plan.plan_id) as hold, _timed("`replay apply`: check and apply together", events):
            replay = Replay(settings, parts, source, plan, ledger=ledger, hold=hold)
            with _timed("  its check", events):
                replay.check(_never, _nobody)
            with _timed("  its apply", events):
                ended = replay.apply(Pace(), _never, _nobody)
    assert {"duplicate": events} == {word: count for word, count in ended.counts.items() if count}


def _rows_changed(connection: sa.Connection, database: str) -> int:
    """Ask the server itself, which counts the rows that are written in every table, whoever writes them."""
    counted = sa.text("SELECT SUM(rows_changed) FROM information_schema.table_statistics WHERE table_schema = :name")
    return int(connection.scalar(counted, {"name": database}) or 0)


@contextmanager
def _timed(what: str, events: int) -> Iterator[None]:
    started_s, processor_s = time.perf_counter(), time.process_time()
    yield
    wall_s, own_s = time.perf_counter() - started_s, time.process_time() - processor_s
    own = f"{own_s / events * 1e6:.1f} µs of this process's processor time each"
    print(f"{what}: {events / wall_s:,.0f} events/s, {own}, load of the machine {os.getloadavg()[0]:.1f}")


def _nobody(_count: int) -> None: ...


def _never() -> bool:
    return False


if __name__ == "__main__":
    main()
