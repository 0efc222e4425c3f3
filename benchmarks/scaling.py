"""What more members of the group bring: `python -m benchmarks.scaling --events 40000 --members 1 2 4 --rounds 3`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime as dt
import itertools
import json
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from benchmarks.chain import Chain, await_chain, running_chain
from benchmarks.processor import Processor
from benchmarks.workload import Row, insert, patient
from connectors.outbox import EntityType, Operation
from stack import Stack
from tests.chaos.load import WRITERS, Writer
from tests.e2e.members import Member, wait_for
from tests.scraping import Samples, free_port, scraped, value

FIRST_NUMBER: Final = 3_000_000
START_LIMIT_S: Final = 120.0
SETTLE_S: Final = 3.0
"""A group of several members is dealt out within this, when nothing comes."""

GATE_OPENS_S: Final = 0.02

_SHUT_GATE: Final = "SELECT name FROM emr_sync.site_state FOR UPDATE"
"""Every transaction of a member begins with a share of this row."""

_COUNTERS: Final = (
    "Innodb_row_lock_current_waits",
    "Innodb_deadlocks",
    "Innodb_row_lock_waits",
    "Innodb_row_lock_time",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Round:
    """A backlog drained by some members that began at the same moment.

    Attributes:
        seconds: until the last offset was committed.
        deadlocks, lock_waits, lock_wait_s: as InnoDB counted them, of all sessions together.
        races: transactions that members gave up because another writer was in the way, and repeated.
        apply_s, mark_s: what all members together spent in OpenEMR's transactions and in marking.
        cores: how many cores each part took; `others` are processes that are none of this chain, `idle` nobody.
    """

    members: int
    events: int
    seconds: float
    deadlocks: int
    lock_waits: int
    lock_wait_s: float
    races: int
    apply_s: float
    mark_s: float
    cores: Mapping[str, float]

    @property
    def events_per_s(self) -> float:
        """The throughput."""
        return self.events / self.seconds


def main() -> None:
    """Drain an equal backlog by each number of members, one after the other."""
    parser = argparse.ArgumentParser(prog="benchmarks.scaling", description=__doc__)
    parser.add_argument("--events", type=int, default=40_000)
    parser.add_argument("--members", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="of each number of members, in turn; the median, of two the better one, and the mean are shown",
    )
    parser.add_argument("--creates", action="store_true", help="only new patients, and no mix of all kinds")
    parser.add_argument("--home", type=Path, help="a provisioned stack that is up, and is left up; else one is made")
    parser.add_argument("--output", type=Path, default=Path("bench-results"), help="folder for the JSON file")
    chosen = parser.parse_args()
    console = Console()
    backlog = _new_patients if chosen.creates else _mix
    with _chain(chosen.home, console) as chain:
        # A broker and a database that have just started are not what anyone waits for later.
        _round(chain, 1, backlog, chosen.events // 4)
        rounds = []
        # In turn, so that a change of the machine's speed meets all of them alike.
        for members in chosen.members * chosen.rounds:
            rounds.append(_round(chain, members, backlog, chosen.events))
            console.print(f"{members} members: {rounds[-1].events_per_s:,.0f} events/s")
    medians = [_median(rounds, members) for members in chosen.members]
    console.print(_table(medians, rounds), _shares(medians), sep="\n")
    chosen.output.mkdir(parents=True, exist_ok=True)
    path = chosen.output / f"scaling-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps([dataclasses.asdict(one) for one in rounds], indent=2) + "\n")
    console.print(f"figures kept in {path}")


def _median(rounds: Sequence[Round], members: int) -> Round:
    own = sorted((one for one in rounds if one.members == members), key=lambda one: one.events_per_s)
    return own[len(own) // 2]


@contextlib.contextmanager
def _chain(home: Path | None, console: Console) -> Iterator[Chain]:
    if home is None:
        with running_chain(lambda line: console.print(line, style="dim")) as chain:
            yield chain
        return
    stack = Stack(home)
    with contextlib.closing(Chain(stack, stack.env())) as chain:
        yield chain


def _round(chain: Chain, members: int, backlog: Callable[[int, int], Iterator[Row]], events: int) -> Round:
    openemr = sa.create_engine(chain.variables["EMRSYNC_OPENEMR_ADMIN_URL"])
    ports = [free_port() for _ in range(members)]
    with _members(chain, ports) as started:
        with openemr.connect() as gate:
            gate.exec_driver_sql(_SHUT_GATE).all()
            before = chain.records()
            count = insert(chain.app, backlog(events, FIRST_NUMBER + before))
            await_chain(lambda: chain.records() >= before + count, chain.records)
            # Each has a first batch in hand, and all wait for the same lock.
            wait_for(lambda: _counters(openemr)[0] >= members, START_LIMIT_S, lambda: [one.log for one in started])
            processor = Processor({**chain.pids(), **{f"member {n}": one.pid for n, one in enumerate(started, 1)}})
            begun_s = time.monotonic()
            gate.rollback()
        # The waits for the gate have ended with it, and do not count.
        time.sleep(GATE_OPENS_S)
        counted = _counters(openemr)
        await_chain(lambda: chain.committed() >= before + count, lambda: [one.log[-2_000:] for one in started])
        seconds = time.monotonic() - begun_s
        cores = processor.cores()
        met = [after - at_first for after, at_first in zip(_counters(openemr), counted, strict=True)]
        spent = [scraped(port) for port in ports]
    openemr.dispose()
    if set(chain.statuses()) != {"done"}:
        raise AssertionError(f"not every row is done: {chain.statuses()}")
    return Round(
        members=members,
        events=count,
        seconds=seconds,
        deadlocks=met[1],
        lock_waits=met[2],
        lock_wait_s=met[3] / 1_000,
        races=int(_sum(spent, "emrsync_races_total")),
        apply_s=_sum(spent, "emrsync_apply_seconds_sum"),
        mark_s=_sum(spent, "emrsync_mark_seconds_sum"),
        cores=cores,
    )


@contextlib.contextmanager
def _members(chain: Chain, ports: Sequence[int]) -> Iterator[Sequence[Member]]:
    with tempfile.TemporaryDirectory(prefix="emrsync-bench-") as folder, contextlib.ExitStack() as held:
        started = []
        for number, port in enumerate(ports, 1):
            environment = {
                **chain.variables,
                "EMRSYNC_METRICS_PORT": str(port),
                "EMRSYNC_CLIENT_ID": f"member-{number}",
            }
            started.append(Member(environment, Path(folder) / f"{number}.log"))
            held.callback(started[-1].close)
        for one in started:
            one.wait_assigned()
        time.sleep(SETTLE_S if len(ports) > 1 else 0)
        yield started


def _new_patients(events: int, first_number: int) -> Iterator[Row]:
    return (Row(EntityType.PATIENT, Operation.CREATE, patient(first_number + number)) for number in range(events))


def _mix(events: int, first_number: int) -> Iterator[Row]:
    """Give the mixed load of the chaos tests: transactions about patients of their own, with visits and orders."""
    writers = [Writer(first_number + number, random.Random(number)) for number in range(WRITERS)]
    rows = itertools.chain.from_iterable(writer.transaction() for writer in itertools.cycle(writers))
    return itertools.islice(rows, events)


def _counters(openemr: sa.Engine) -> list[int]:
    """Read InnoDB's counters in the order of _COUNTERS."""
    with openemr.connect() as connection:
        names = ", ".join(f"'{name}'" for name in _COUNTERS)
        rows = connection.exec_driver_sql(f"SHOW GLOBAL STATUS WHERE Variable_name IN ({names})")
        found = {str(name).lower(): int(number) for name, number in rows}
    return [found[name.lower()] for name in _COUNTERS]


def _sum(spent: Sequence[Samples], name: str) -> float:
    return sum(value(one, name) or 0.0 for one in spent)


def _table(shown: Sequence[Round], rounds: Sequence[Round]) -> Table:
    means = [statistics.mean(one.events_per_s for one in rounds if one.members == each.members) for each in shown]
    table = Table(title=f"drain of {shown[0].events:,} events")
    for heading in (
        "members",
        "events/s",
        "ratio",
        "mean of all rounds",
        "ratio of means",
        "lag, drained in",
        "per core",
        "deadlocks",
        "races",
        "lock waits",
        "sessions",
    ):
        table.add_column(heading, justify="right")
    for one, mean in zip(shown, means, strict=True):
        busy = (one.apply_s + one.mark_s) / one.seconds
        taken = sum(share for name, share in one.cores.items() if name not in {"others", "idle"})
        table.add_row(
            str(one.members),
            f"{one.events_per_s:,.0f}",
            f"{one.events_per_s / shown[0].events_per_s:.2f}",
            f"{mean:,.0f}",
            f"{mean / means[0]:.2f}",
            f"{one.events:,}, {one.seconds:.1f} s",
            f"{one.events_per_s / taken:,.0f}",
            str(one.deadlocks),
            str(one.races),
            f"{one.lock_waits}, {one.lock_wait_s:.1f} s",
            f"{busy:.1f}",
        )
    return table


def _shares(rounds: Sequence[Round]) -> Table:
    table = Table(title="cores that each part took")
    table.add_column("members", justify="right")
    for part in _grouped(rounds[0].cores):
        table.add_column(part, justify="right")
    for one in rounds:
        table.add_row(str(one.members), *(f"{share:.2f}" for share in _grouped(one.cores).values()))
    return table


def _grouped(cores: Mapping[str, float]) -> Mapping[str, float]:
    """Add up what is there several times: members, workers."""
    found: dict[str, float] = {}
    for name, share in cores.items():
        word = re.sub(r"[- ]\d+$", "", name)
        found[word] = found.get(word, 0.0) + share
    return found


if __name__ == "__main__":
    main()
