"""What a resync does to live events: `python -m benchmarks.resync --rows 50000`."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping

import sqlalchemy as sa

from benchmarks.chain import Chain, await_chain, consumer, running_chain
from benchmarks.workload import Row, insert, outbox_row, patient
from connectors.outbox import EntityType, Operation, sync_outbox

COMMITS_PER_S = 50
WARM_UP_S = 5.0
QUIET_S = 30.0
GOAL = 3.0


def main() -> None:
    """Settle so many patients, then measure live commits alone, and while all the rows are sent again."""
    parser = argparse.ArgumentParser(prog="benchmarks.resync", description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rate", type=float, default=None, help="Of the resync; its own default when left out.")
    parser.add_argument("--slice", type=int, default=None, help="Rows of a slice; the default when left out.")
    parser.add_argument("--from-tables", action="store_true", help="Purge the rows, and send from the tables.")
    given = parser.parse_args()
    with running_chain(print) as chain, consumer(chain):
        insert(chain.app, (Row(EntityType.PATIENT, Operation.CREATE, patient(n)) for n in range(given.rows)))
        await_chain(lambda: chain.statuses().get("pending", 0) == 0, chain.statuses)
        arguments = [] if given.rate is None else ["--rate", str(given.rate)]
        arguments += [] if given.slice is None else ["--slice", str(given.slice)]
        if given.from_tables:
            _purge_into_tables(chain)
            arguments.append("--from-tables")
        _measure(chain, given.rows, arguments)


def _measure(chain: Chain, rows: int, arguments: list[str]) -> None:
    last = _last_seq(chain)
    numbers = iter(range(10 * rows, 100 * rows))
    with chain.app.connect() as connection:
        _commit(connection, numbers.__next__, WARM_UP_S, lambda: False)
        quiet = _commit(connection, numbers.__next__, QUIET_S, lambda: False)
        records = chain.records()
        chosen = [] if "--from-tables" in arguments else ["--to-seq", str(last)]
        command = [sys.executable, "-m", "operations", "resync", *chosen, *arguments, "--apply", "--why", "measured"]
        started_s = time.monotonic()
        running = subprocess.Popen([*command, "--json"], env={**os.environ, **chain.variables}, stdout=subprocess.PIPE)
        ended = threading.Event()
        waiter = threading.Thread(target=_await_end, args=(running, ended))
        waiter.start()
        during = _commit(connection, numbers.__next__, 3_600, ended.is_set)
        waiter.join()
        took_s = time.monotonic() - started_s
        # Others share the machine: what it does alone is taken before and after.
        quiet = {**quiet, **_commit(connection, numbers.__next__, QUIET_S, lambda: False)}
    await_chain(lambda: chain.statuses().get("pending", 0) == 0, chain.statuses)
    assert running.returncode == 0
    assert chain.records() - records >= rows
    before, while_it_ran = _latencies_ms(chain, quiet), _latencies_ms(chain, during)
    print(f"load of the machine: {os.getloadavg()[0]:.1f}")
    print(f"resync of {rows:,} rows: {took_s:.0f} s, {rows / took_s:.0f} rows/s")
    print(f"live commits alone: {_shown(before)}")
    print(f"live commits during the resync: {_shown(while_it_ran)}")
    print(f"p99 during / alone: {_p99(while_it_ran) / _p99(before):.2f} (goal: at most {GOAL:g})")


def _await_end(running: subprocess.Popen[bytes], ended: threading.Event) -> None:
    running.communicate()
    ended.set()


def _commit(
    connection: sa.Connection, number: Callable[[], int], limit_s: float, ended: Callable[[], bool]
) -> Mapping[object, float]:
    """Commit new patients one by one at a steady rate; give when each was committed, by its id."""
    sent: dict[object, float] = {}
    started_s = time.monotonic()
    while time.monotonic() - started_s < limit_s and not ended():
        time.sleep(max(0.0, started_s + len(sent) / COMMITS_PER_S - time.monotonic()))
        row = outbox_row(Row(EntityType.PATIENT, Operation.CREATE, patient(number())))
        connection.execute(sa.insert(sync_outbox), row)
        committed_at = time.time()
        connection.commit()
        sent[row["outbox_id"]] = committed_at
    return sent


def _last_seq(chain: Chain) -> int:
    with chain.source.connect() as connection:
        return connection.scalar(sa.select(sa.func.max(sync_outbox.c.seq))) or 0


def _purge_into_tables(chain: Chain) -> None:
    """Make the outbox rows business rows, and remove them."""
    sql = """INSERT INTO patient_cache
        (patient_id, family_name, given_name, birth_date, state, created_at, updated_at)
        SELECT entity_id, payload->>'family_name', payload->>'given_name', (payload->>'birth_date')::date, payload,
               created_at, created_at FROM sync_outbox"""
    with chain.source.begin() as connection:
        connection.exec_driver_sql(sql)
        connection.exec_driver_sql("DELETE FROM sync_outbox")


def _latencies_ms(chain: Chain, sent: Mapping[object, float]) -> list[float]:
    with chain.source.connect() as connection:
        rows = connection.execute(sa.select(sync_outbox.c.outbox_id, sync_outbox.c.processed_at)).all()
    return sorted((row.processed_at.timestamp() - sent[row.outbox_id]) * 1_000 for row in rows if row.outbox_id in sent)


def _p99(took_ms: list[float]) -> float:
    return statistics.quantiles(took_ms, n=100)[98]


def _shown(took_ms: list[float]) -> str:
    centiles = statistics.quantiles(took_ms, n=100)
    return (
        f"{len(took_ms):,} commits, p50 {centiles[49]:.1f}, p95 {centiles[94]:.1f}, p99 {centiles[98]:.1f},"
        f" max {took_ms[-1]:.1f} ms"
    )


if __name__ == "__main__":
    main()
