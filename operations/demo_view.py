"""How the demo looks: live on a terminal, plain lines elsewhere, tables at the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from connectors.outbox import EntityType, Status
from operations.demo import Seen, Show
from operations.demo_outbox import Timing
from operations.demo_result import DemoResult, KindResult

_LINE_EVERY_S: Final = 2.0
_WIDTH_ELSEWHERE: Final = 110


class Screen:
    """Progress on standard error, so that the results alone can be redirected."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._started = time.monotonic()

    def say(self, line: str) -> None:
        """Print one line with the time since the start."""
        elapsed_s = time.monotonic() - self._started
        self._console.print(f"{elapsed_s:6.1f} s  {line}", highlight=False, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def watch(self) -> Iterator[Show]:
        """Give a function that shows one look at the outbox."""
        if self._console.is_terminal:
            with Live(console=self._console, auto_refresh=False) as live:
                yield lambda seen: live.update(_picture(seen), refresh=True)
            return
        printed = -_LINE_EVERY_S
        last: Seen | None = None

        def show(seen: Seen) -> None:
            nonlocal printed, last
            last = seen
            if time.monotonic() - printed >= _LINE_EVERY_S:
                self.say(_line(seen))
                printed = time.monotonic()

        yield show
        if last is not None:
            self.say(_line(last))


def print_result(result: DemoResult) -> None:
    """Print what arrived, how long it took, and what did not arrive."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_ELSEWHERE)
    console.print(_arrived(result.kinds))
    console.print(_times(result))
    console.print(
        "Times: from created_at, which the application writes just before its commit, to the consumer's clock just"
        " after OpenEMR's commit.",
        style="dim",
    )
    phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.seconds.items())
    console.print(f"Took: {phases}", highlight=False)
    for file in result.imported.files:
        for reason, count in (*file.refused.items(), *file.notes.items()):
            console.print(f"import: {file.file}: {reason} ({count:,})", highlight=False, markup=False, soft_wrap=True)
    for problem in result.problems:
        console.print(f"! {problem}", highlight=False, markup=False, soft_wrap=True)
    if not result.problems:
        console.print("Every row arrived.", style="bold")


def _picture(seen: Seen) -> Table:
    done = seen.standing.count(None, Status.DONE)
    table = Table(title=f"{seen.phase}, {seen.elapsed_s:.0f} s, {done:,} rows done", title_justify="left", box=None)
    table.add_column("outbox rows")
    for heading in ("recorded", "pending", "processing", "done", "failed"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for entity_type in EntityType:
        counts = [seen.standing.count(entity_type, status) for status in Status]
        recorded = sum(counts)
        total = max(recorded, seen.totals.get(entity_type, 0), 1)
        done = seen.standing.count(entity_type, Status.DONE)
        numbers = (f"{count:,}" for count in (recorded, *counts))
        table.add_row(f"{entity_type}s", *numbers, ProgressBar(total=total, completed=done, width=30))
    return table


def _line(seen: Seen) -> str:
    counts = ", ".join(f"{seen.standing.count(None, status):,} {status}" for status in Status)
    return f"{seen.phase}: {seen.standing.count():,} rows recorded: {counts}"


def _arrived(kinds: tuple[KindResult, ...]) -> Table:
    table = Table(title="What arrived", title_justify="left")
    table.add_column("record")
    for heading in ("outbox rows", "done", "failed", "live in the app", "in OpenEMR", "on its screens", "by FHIR"):
        table.add_column(heading, justify="right")
    for one in kinds:
        failed = sum(failure.rows for failure in one.outbox.failures)
        fhir = one.openemr.fhir
        counts = (one.outbox.rows, one.outbox.done, failed, one.in_app, one.openemr.mapped, one.openemr.screens)
        table.add_row(one.kind, *(f"{count:,}" for count in counts), "no resource" if fhir is None else f"{fhir:,}")
    return table


def _times(result: DemoResult) -> Table:
    table = Table(title="Source commit to OpenEMR commit", title_justify="left")
    table.add_column("phase")
    for heading in ("rows", "rows/s", "p50 ms", "p95 ms", "p99 ms", "max ms"):
        table.add_column(heading, justify="right")
    _time_row(table, "import (rows queue up)", result.backlog)
    _time_row(table, f"single changes, {result.single_rate_per_s:g}/s", result.single)
    return table


def _time_row(table: Table, name: str, timing: Timing | None) -> None:
    if timing is None:
        table.add_row(name, "0")
        return
    times = (timing.p50_ms, timing.p95_ms, timing.p99_ms, timing.max_ms)
    table.add_row(name, f"{timing.rows:,}", f"{timing.rows_per_s:,.0f}", *(f"{value:,.1f}" for value in times))
