"""The stack that the measurements run on, and one consumer process under observation."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import confluent_kafka
import sqlalchemy as sa

from connectors.topics import PARTITIONS, entity_topics
from stack import Stack
from tests.chain import scratch_stack
from tests.e2e.members import member, wait_for

LIMIT_S: Final = 300.0
PROBE_INTERVAL_S: Final = 0.2
MEMORY_INTERVAL_S: Final = 0.25


class Chain:
    """A provisioned stack with connections to look at it."""

    def __init__(self, stack: Stack, variables: Mapping[str, str]) -> None:
        self.stack = stack
        self.variables = variables
        self.app = sa.create_engine(variables["EMRSYNC_APP_URL"])
        self.source = sa.create_engine(variables["EMRSYNC_SOURCE_ADMIN_URL"])
        # Never subscribed: it only asks for offsets.
        self._look = confluent_kafka.Consumer(
            {
                "bootstrap.servers": variables["EMRSYNC_KAFKA_BOOTSTRAP_SERVERS"],
                "group.id": "emrsync",
                "enable.auto.commit": False,
            }
        )

    def close(self) -> None:
        """Give the connections back."""
        self._look.close()
        self.app.dispose()
        self.source.dispose()

    def pids(self) -> Mapping[str, int]:
        """Return the process ids of the servers."""
        return {one.name: one.pid for one in self.stack.status() if one.pid}

    def records(self) -> int:
        """Count the records of the entity topics."""
        return sum(self._look.get_watermark_offsets(part, timeout=10, cached=False)[1] for part in self._parts())

    def committed(self) -> int:
        """Count the records that the group has committed: applied, marked and committed are behind it."""
        return sum(max(part.offset, 0) for part in self._look.committed(self._parts(), timeout=10))

    def _parts(self) -> list[confluent_kafka.TopicPartition]:
        # As provisioned; asking each time would take processor time from what is measured.
        return [
            confluent_kafka.TopicPartition(topic, number) for topic in entity_topics() for number in range(PARTITIONS)
        ]

    def statuses(self) -> Mapping[str, int]:
        """Count the outbox rows by status."""
        sql = sa.text("SELECT status, count(*) FROM sync_outbox GROUP BY 1")
        with self.source.connect() as connection:
            return {str(status): int(count) for status, count in connection.execute(sql)}


@contextlib.contextmanager
def running_chain(report: Callable[[str], None]) -> Iterator[Chain]:
    """Start a stack of its own, provisioned, and leave nothing of it."""
    with scratch_stack(report) as stack, contextlib.closing(Chain(stack, stack.env())) as chain:
        yield chain


@dataclasses.dataclass(slots=True)
class Observed:
    """One consumer process: its resident memory in MiB over time, sampled by a thread."""

    pid: int
    memory_mib: list[float] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def consumer(chain: Chain) -> Iterator[Observed]:
    """Run one member until the block ends; it owns all partitions when the block begins."""
    with (
        tempfile.TemporaryDirectory(prefix="emrsync-bench-") as folder,
        member(chain.variables, Path(folder) / "consumer.log") as running,
    ):
        ended = threading.Event()
        observed = Observed(running.pid)
        sampler = threading.Thread(target=_sample, args=(observed, ended))
        sampler.start()
        try:
            yield observed
        finally:
            ended.set()
            sampler.join()


def _sample(observed: Observed, ended: threading.Event) -> None:
    while not ended.wait(MEMORY_INTERVAL_S):
        with contextlib.suppress(FileNotFoundError):
            observed.memory_mib.append(resident_mib(observed.pid))


def resident_mib(pid: int) -> float:
    """Return a process's resident memory in MiB, by /proc."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(kib) / 1024


def cpu_seconds(pid: int) -> float:
    """Return the processor time a process and its reaped children used, in seconds, by /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def await_chain(condition: Callable[[], bool], tell: Callable[[], object]) -> None:
    """Wait until a condition holds, and look seldom: what looks takes processor time from what is measured."""
    wait_for(condition, LIMIT_S, tell, interval_s=PROBE_INTERVAL_S)
