"""`make chaos`: a soak of all faults, each outage alone, or the group's scaling; prints and keeps a report."""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import json
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from stack import Stack
from tests.chain import scratch_stack
from tests.chaos.arena import Arena, arena
from tests.chaos.faults import FAULTS
from tests.chaos.outage import Outage, endure
from tests.chaos.scaling import NORMAL_FACTOR, WINDOW_S, Scaling, scale
from tests.chaos.soak import Soak, soak


def main() -> int:
    """Run what was asked for; return 0 when nothing is wrong, 1 when something is."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the same seed injects the same faults in the same order")
    parser.add_argument("--seconds", type=float, default=600.0, help="length of the soak")
    parser.add_argument("--outages", action="store_true", help="instead of the soak: every fault alone, under load")
    parser.add_argument("--scaling", action="store_true", help="instead of the soak: scale and restart the group")
    parser.add_argument("--hold-s", type=float, default=60.0, help="length of each outage")
    parser.add_argument("--home", type=Path, help="a provisioned stack that is up, and is left up; else one is made")
    parser.add_argument("--output", type=Path, default=Path("bench-results"), help="folder for the JSON file")
    chosen = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Also where a shell has its background jobs ignore it: everything that was started is stopped.
        signal.signal(number, signal.default_int_handler)
    console = Console()
    with _arena(chosen.home, console, scaling=chosen.scaling) as opened:
        if chosen.scaling:
            scaled = scale(opened, seed=chosen.seed, report=console.print)
            console.print(_scaling_table(scaled))
            figures: object = dataclasses.asdict(scaled)
            complaints, name = scaled.complaints(), "scaling"
        elif chosen.outages:
            outages = {name: _endure(opened, name, chosen.hold_s, console) for name in FAULTS}
            console.print(_outage_table(outages))
            figures = {name: dataclasses.asdict(one) for name, one in outages.items()}
            complaints = [f"{name}: {one}" for name, found in outages.items() for one in found.complaints()]
            name = "outages"
        else:
            done = soak(opened, seed=chosen.seed, seconds=chosen.seconds, report=console.print)
            console.print(_soak_table(done))
            figures, complaints, name = dataclasses.asdict(done), done.complaints(), f"soak-{chosen.seed}"
        # Before anything is stopped: a part that does not stop must not cost what was measured.
        _keep(chosen.output, name, figures, complaints, console)
    return 1 if complaints else 0


def _keep(folder: Path, name: str, figures: object, complaints: Sequence[str], console: Console) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"chaos-{name}-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps({"complaints": complaints, "figures": figures}, indent=2) + "\n")
    for one in complaints:
        console.print(f"wrong: {one}", style="red")
    console.print(f"{'something is wrong' if complaints else 'all is well'}; figures kept in {path}")


@contextmanager
def _arena(home: Path | None, console: Console, *, scaling: bool) -> Iterator[Arena]:
    # Scaling begins with one member, and takes one of two Connect workers away.
    members, workers = (1, 2) if scaling else (2, 1)
    with tempfile.TemporaryDirectory(prefix="emrsync-chaos-") as folder:
        if home is not None:
            with arena(Stack(home), Path(folder), members=members) as opened:
                yield opened
            return
        with (
            scratch_stack(lambda line: console.print(line, style="dim"), workers=workers) as stack,
            arena(stack, Path(folder), members=members) as opened,
        ):
            yield opened


def _endure(opened: Arena, name: str, hold_s: float, console: Console) -> Outage:
    console.print(f"{name} for {hold_s:.0f} s")
    return endure(opened, FAULTS[name], hold_s)


def _outage_table(outages: dict[str, Outage]) -> Table:
    table = Table(title="outages under load")
    for heading in ("fault", "outage s", "recovery s", "events", "commits meanwhile", "charged", "reassigned", "wrong"):
        table.add_column(heading, justify="left" if heading == "fault" else "right")
    for name, one in outages.items():
        cells = (one.events, one.commits_meanwhile, one.charged, one.reassigned, len(one.complaints()))
        table.add_row(name, f"{one.outage_s:.1f}", f"{one.recovery_s:.1f}", *(str(cell) for cell in cells))
    return table


def _scaling_table(done: Scaling) -> Table:
    title = (
        f"{done.events_per_s:.0f} events/s; p99 {done.p99_calm_s * 1_000:.0f} ms before the first change;"
        f" normal is up to {done.p99_normal_s * 1_000:.0f} ms; all in seconds"
    )
    table = Table(title=title)
    table.add_column("change", no_wrap=True)
    for heading in (
        "took",
        "p99 normal again after",
        f"p99 {NORMAL_FACTOR:.0f} times the calm's after",
        f"worst p99 of {WINDOW_S:.0f} s",
        "longest time with nothing settled",
    ):
        table.add_column(heading, justify="right")
    for one in done.steps:
        backs = ("never" if back_s is None else f"{back_s:.1f}" for back_s in (one.back_s, one.back_to_calm_s))
        table.add_row(
            one.name, f"{one.ended_s - one.begun_s:.1f}", *backs, f"{one.p99_worst_s:.2f}", f"{one.gap_s:.2f}"
        )
    return table


def _soak_table(done: Soak) -> Table:
    table = Table(title=f"soak with seed {done.seed}")
    table.add_column("what")
    table.add_column("measured", justify="right")
    calm, after = done.latency_calm_s * 1_000, done.latency_after_s * 1_000
    for what, measured in (
        ("events", f"{done.events} in {done.seconds:.0f} s = {done.events_per_s:.0f}/s"),
        ("transactions the application lost with its own database", str(done.commits_lost)),
        ("faults injected", f"{len(done.faults)} of {len({one.fault for one in done.faults})} kinds"),
        ("latency p95 before the first fault / from 10 s after the last", f"{calm:.0f} / {after:.0f} ms"),
        ("latency of the whole run, median / worst", f"{done.latency_median_s:.2f} / {done.latency_worst_s:.1f} s"),
        ("rows by status", ", ".join(f"{status} {count}" for status, count in done.statuses.items())),
        ("rows charged with an attempt", str(done.charged)),
        ("members that ended by themselves", str(len(done.ended))),
        ("violated invariants", str(len(done.violations))),
    ):
        table.add_row(what, measured)
    return table


if __name__ == "__main__":
    sys.exit(main())
