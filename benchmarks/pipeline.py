"""What the whole chain does: latency at a steady rate, and the drain of a backlog."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa

from benchmarks.chain import Chain, await_chain, consumer, cpu_seconds
from benchmarks.workload import Mix, Row, insert, outbox_row, patient
from connectors.outbox import EntityType, Operation, sync_outbox

COMMITS_PER_S: Final = 50
WARM_UP_COMMITS: Final = 250
LATENCY_COMMITS: Final = 2_000
IDLE_S: Final = 10.0
ROUND_TRIPS: Final = 200
REST_S: Final = 0.02


@dataclasses.dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from just before the source's commit to just after OpenEMR's.

    round_trip_ms is this machine's own pace: the median of `SELECT 1` to OpenEMR's server after 20 ms of rest, taken
    just before. An event needs about a dozen such wake-ups of a resting process on its way.
    """

    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    commits: int
    round_trip_ms: float


@dataclasses.dataclass(frozen=True, slots=True)
class Drain:
    """A backlog drained by one consumer process: applied, recorded, marked done, offsets committed."""

    events: int
    seconds: float
    events_per_s: float
    memory_start_mib: float
    memory_max_mib: float
    memory_growth_second_half_mib: float


@dataclasses.dataclass(frozen=True, slots=True)
class Idle:
    """Processor time of the idle chain, in per cent of one core, by process."""

    percent: dict[str, float]

    @property
    def total_percent(self) -> float:
        """All processes together."""
        return sum(self.percent.values())


def measure_latency(chain: Chain, first_number: int) -> tuple[Latency, Idle]:
    """Commit new patients one by one at a steady rate, and take the idle chain's processor time before."""
    with consumer(chain) as member:
        idle = _idle(chain, member.pid)
        round_trip_ms = _round_trip_ms(chain)
        sent = _commit_steadily(chain, first_number)
        await_chain(lambda: chain.statuses().get("pending", 0) == 0, chain.statuses)
    with chain.source.connect() as connection:
        rows = connection.execute(
            sa.select(sync_outbox.c.outbox_id, sync_outbox.c.processed_at).where(sync_outbox.c.outbox_id.in_(sent))
        )
        took_ms = sorted((row.processed_at.timestamp() - sent[row.outbox_id]) * 1_000 for row in rows)
    centiles = statistics.quantiles(took_ms, n=100)
    return Latency(centiles[49], centiles[94], centiles[98], took_ms[-1], len(took_ms), round_trip_ms), idle


def _commit_steadily(chain: Chain, first_number: int) -> dict[object, float]:
    sent: dict[object, float] = {}
    started = time.monotonic()
    with chain.app.connect() as connection:
        for index in range(WARM_UP_COMMITS + LATENCY_COMMITS):
            time.sleep(max(0.0, started + index / COMMITS_PER_S - time.monotonic()))
            row = outbox_row(Row(EntityType.PATIENT, Operation.CREATE, patient(first_number + index)))
            connection.execute(sa.insert(sync_outbox), row)
            committed_at = time.time()
            connection.commit()
            if index >= WARM_UP_COMMITS:
                sent[row["outbox_id"]] = committed_at
    return sent


def _round_trip_ms(chain: Chain) -> float:
    engine = sa.create_engine(chain.variables["EMRSYNC_OPENEMR_ADMIN_URL"])
    took_ms: list[float] = []
    with engine.connect() as connection:
        for _ in range(ROUND_TRIPS):
            time.sleep(REST_S)
            started = time.perf_counter()
            connection.exec_driver_sql("SELECT 1").scalar()
            took_ms.append((time.perf_counter() - started) * 1_000)
    engine.dispose()
    return statistics.median(took_ms)


def _idle(chain: Chain, consumer_pid: int) -> Idle:
    pids = {**chain.pids(), "consumer": consumer_pid}
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    time.sleep(IDLE_S)
    return Idle({name: (cpu_seconds(pid) - before[name]) / IDLE_S * 100 for name, pid in pids.items()})


def drain_creates(chain: Chain, events: int, first_number: int) -> Drain:
    """Drain a backlog of new patients."""
    rows = (Row(EntityType.PATIENT, Operation.CREATE, patient(first_number + index)) for index in range(events))
    return _drain(chain, rows)


def drain_mix(chain: Chain, mix: Mix) -> Drain:
    """Bring the base population in, unmeasured, then drain the mixed events."""
    _drain(chain, mix.base())
    return _drain(chain, mix.rows())


def _drain(chain: Chain, rows: Iterator[Row]) -> Drain:
    before = chain.records()
    count = insert(chain.app, rows)
    await_chain(lambda: chain.records() >= before + count, chain.records)
    with consumer(chain) as member:
        started = time.monotonic()
        await_chain(lambda: chain.committed() >= before + count, chain.committed)
        seconds = time.monotonic() - started
        memory = [value for value in member.memory_mib if value > 0]
    if set(chain.statuses()) != {"done"}:
        raise AssertionError(f"not every row is done: {chain.statuses()}")
    half = memory[len(memory) // 2 :]
    return Drain(count, seconds, count / seconds, memory[0], max(memory), half[-1] - half[0])
