"""`make bench`: measure everything in one run, print a table, and keep the figures as JSON."""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.chain import Chain, running_chain
from benchmarks.pipeline import Drain, Idle, Latency, drain_creates, drain_mix, measure_latency
from benchmarks.target import apply_rate, populate, raw_limit, scratch
from benchmarks.workload import Mix

ROUNDS: Final = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured; `quick` only shows that everything runs."""

    backlog: int
    mix_base: int
    target_rows: int
    population: int


FULL: Final = Sizes(backlog=50_000, mix_base=15_000, target_rows=20_000, population=1_000_000)
QUICK: Final = Sizes(backlog=2_000, mix_base=1_500, target_rows=1_000, population=10_000)


@dataclasses.dataclass(frozen=True, slots=True)
class TargetRates:
    """Medians of rounds taken in turn, new patients per second."""

    raw_limit_per_s: float
    apply_per_s: float
    apply_populated_per_s: float
    population: int


@dataclasses.dataclass(frozen=True, slots=True)
class Figures:
    """All figures of one run."""

    latency: Latency
    idle: Idle
    creates: Drain
    mix: Drain
    target: TargetRates


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, measures nothing")
    parser.add_argument("--output", type=Path, default=Path("bench-results"), help="folder for the JSON file")
    chosen = parser.parse_args()
    console = Console()
    with running_chain(lambda line: console.print(line, style="dim")) as chain:
        figures = _measure(chain, QUICK if chosen.quick else FULL, console)
    console.print(_table(figures))
    chosen.output.mkdir(parents=True, exist_ok=True)
    path = chosen.output / f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps({"machine": _machine(), **dataclasses.asdict(figures)}, indent=2) + "\n")
    console.print(f"figures kept in {path}")


def _measure(chain: Chain, sizes: Sizes, console: Console) -> Figures:
    # The backlog first: a Java process that has just started is not what anyone waits for later.
    console.print("drain of a backlog of creates")
    creates = drain_creates(chain, sizes.backlog, first_number=5_000_000)
    console.print("latency at 50 commits/s, and the idle chain")
    latency, idle = measure_latency(chain, first_number=8_000_000)
    console.print("drain of a mixed backlog")
    mix = drain_mix(chain, Mix(patients=sizes.mix_base, events=sizes.backlog))
    console.print("raw limit and apply path of the same server")
    return Figures(latency, idle, creates, mix, _target_rates(chain, sizes))


def _target_rates(chain: Chain, sizes: Sizes) -> TargetRates:
    """Take the rates in turn, so that a change of the machine's speed meets all of them alike."""
    admin_url = chain.variables["EMRSYNC_OPENEMR_ADMIN_URL"]
    raw: list[float] = []
    empty: list[float] = []
    populated: list[float] = []
    with scratch(admin_url) as full:
        populate(full, sizes.population)
        for turn in range(ROUNDS):
            with scratch(admin_url) as place:
                raw.append(raw_limit(place, sizes.target_rows))
            with scratch(admin_url) as place:
                empty.append(apply_rate(place, sizes.target_rows, first_number=1))
            populated.append(apply_rate(full, sizes.target_rows, first_number=1 + turn * sizes.target_rows))
    return TargetRates(statistics.median(raw), statistics.median(empty), statistics.median(populated), sizes.population)


def _table(figures: Figures) -> Table:
    table = Table(title="emrsync, one consumer process, everything on one machine")
    table.add_column("what")
    table.add_column("measured", justify="right")
    for what, measured in _lines(figures):
        table.add_row(what, measured)
    return table


def _lines(figures: Figures) -> Sequence[tuple[str, str]]:
    latency, target = figures.latency, figures.target
    raw = target.raw_limit_per_s
    idle = ", ".join(f"{name} {percent:.0f}" for name, percent in figures.idle.percent.items())
    memory = max(figures.creates.memory_max_mib, figures.mix.memory_max_mib)
    return (
        (
            f"commit in source → committed in OpenEMR, {latency.commits} commits at 50/s: p50 / p95 / p99",
            f"{latency.p50_ms:.1f} / {latency.p95_ms:.1f} / {latency.p99_ms:.1f} ms",
        ),
        ("one round trip to OpenEMR's server on this machine, after a rest", f"{latency.round_trip_ms:.2f} ms"),
        (f"backlog of {figures.creates.events} new patients", f"{figures.creates.events_per_s:,.0f} events/s"),
        (f"backlog of {figures.mix.events} mixed events", f"{figures.mix.events_per_s:,.0f} events/s"),
        ("raw SQL limit, new patients in batches of 500", f"{raw:,.0f} patients/s"),
        ("apply path (no Kafka) / raw limit", f"{target.apply_per_s:,.0f}/s = {target.apply_per_s / raw:.2f}"),
        ("whole chain / raw limit", f"{figures.creates.events_per_s / raw:.2f}"),
        (
            f"apply path at {target.population:,} patients / on an empty database",
            f"{target.apply_populated_per_s:,.0f}/s = {target.apply_populated_per_s / target.apply_per_s:.2f}",
        ),
        ("memory of the consumer, highest", f"{memory:.0f} MiB"),
        ("memory growth, second half of the creates", f"{figures.creates.memory_growth_second_half_mib:.1f} MiB"),
        (f"idle chain, per cent of one core ({idle})", f"{figures.idle.total_percent:.0f} %"),
    )


def _machine() -> dict[str, object]:
    return {"cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}


if __name__ == "__main__":
    main()
