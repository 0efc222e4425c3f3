"""The application under load: transactions with outbox rows of three entity types at a steady rate, whatever fails."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Final

import sqlalchemy as sa

from benchmarks.workload import Row, encounter, order, outbox_row, patient
from connectors.outbox import EntityType, Operation, sync_outbox

WRITERS: Final = 2
EVENTS_PER_COMMIT: Final = 4
"""On the average; a new patient comes with a visit and an order, which Kafka may bring before the patient."""

RECONNECT_S: Final = 0.5
_NEW: Final = 0.4
_DELETED: Final = 0.03


@dataclasses.dataclass(slots=True)
class Written:
    """What the writers did: events committed, the instants (monotonic seconds) of commits, and transactions lost."""

    events: int = 0
    committed_at_s: list[float] = dataclasses.field(default_factory=list)
    lost: int = 0

    def commits_between(self, start_s: float, end_s: float) -> int:
        """Count the commits of a span of time."""
        return sum(start_s <= at_s <= end_s for at_s in self.committed_at_s)


class Writer:
    """One session of the application, with patients of its own: its order is their order."""

    def __init__(self, first_number: int, chance: random.Random) -> None:
        self._next = first_number
        self._chance = chance
        self._revisions: dict[tuple[EntityType, int], int] = {}
        # Its keys in their order: making the list anew for each row takes longer than the row.
        self._known: list[tuple[EntityType, int]] = []
        self._new: list[int] = []

    def forget_new(self) -> None:
        """Leave those alone that the last transaction made: nobody knows whether it was committed."""
        for number in self._new:
            for entity_type in EntityType:
                del self._revisions[entity_type, number]
        self._known = list(self._revisions)

    def transaction(self) -> list[Row]:
        """Give the rows of one transaction; every one of an entity has a higher revision than the one before."""
        rows: list[Row] = []
        self._new = []
        while len(rows) < EVENTS_PER_COMMIT:
            if not self._revisions or self._chance.random() < _NEW / EVENTS_PER_COMMIT:
                number, self._next = self._next, self._next + WRITERS
                self._new.append(number)
                rows += [self._row(entity_type, number, Operation.CREATE) for entity_type in EntityType]
            else:
                entity_type, number = self._chance.choice(self._known)
                # An order that was deleted comes back with its next update.
                gone = entity_type is EntityType.ORDER and self._chance.random() < _DELETED
                rows.append(self._row(entity_type, number, Operation.DELETE if gone else Operation.UPDATE))
        return rows

    def _row(self, entity_type: EntityType, number: int, operation: Operation) -> Row:
        revision = self._revisions[entity_type, number] = self._revisions.get((entity_type, number), -1) + 1
        if revision == 0:
            self._known.append((entity_type, number))
        match entity_type:
            case EntityType.PATIENT:
                return Row(entity_type, operation, patient(number, revision))
            case EntityType.ENCOUNTER:
                return Row(entity_type, operation, encounter(number, number, revision))
            case EntityType.ORDER:
                return Row(entity_type, operation, order(number, number, number, revision))


class Load:
    """Writers that begin at once and go on until the block ends."""

    def __init__(self, app_url: str, *, events_per_s: float, seed: int, first_number: int) -> None:
        self._app_url = app_url
        self._interval_s = EVENTS_PER_COMMIT * WRITERS / events_per_s
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self.written = Written()
        self._threads = [
            threading.Thread(
                target=self._write,
                args=(Writer(first_number + number, random.Random(f"{seed}/{number}")),),
            )
            for number in range(WRITERS)
        ]

    @contextlib.contextmanager
    def running(self) -> Iterator[Written]:
        """Write for the time of a block."""
        for one in self._threads:
            one.start()
        try:
            yield self.written
        finally:
            self._ended.set()
            for one in self._threads:
                one.join()

    def _write(self, writer: Writer) -> None:
        engine = sa.create_engine(self._app_url, pool_size=1, max_overflow=0, connect_args={"connect_timeout": 5})
        due_s = time.monotonic()
        while not self._ended.wait(max(0.0, due_s - time.monotonic())):
            rows = writer.transaction()
            try:
                with engine.begin() as connection:
                    connection.execute(sa.insert(sync_outbox), [outbox_row(row) for row in rows])
            except sa.exc.OperationalError:
                # Its own database is away: an application would tell its user. Whether the commit was lost or only
                # its answer, the outbox says; the next transaction is about newer revisions in both cases.
                writer.forget_new()
                with self._lock:
                    self.written.lost += 1
                self._ended.wait(RECONNECT_S)
                due_s = time.monotonic()
                continue
            with self._lock:
                self.written.events += len(rows)
                self.written.committed_at_s.append(time.monotonic())
            # What the machine could not keep up with is not caught up in a burst.
            due_s = max(due_s + self._interval_s * len(rows) / EVENTS_PER_COMMIT, time.monotonic() - self._interval_s)
        engine.dispose()


def write(app_url: str, rows: Iterable[Row]) -> None:
    """Commit rows in one transaction of the application."""
    engine = sa.create_engine(app_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.insert(sync_outbox), [outbox_row(row) for row in rows])
