"""What a consumer and a retrier count and time; docs/metrics.md has the table."""

from __future__ import annotations

import contextlib
import time
from collections import Counter as Tally
from collections.abc import Collection, Iterator, Sequence
from typing import Final, assert_never

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from connectors.outbox import EntityType
from consumer.outcome import Applied, Duplicate, ErrorClass, Failed, Outcome, Stale, Waiting
from consumer.ports import OutdatedError, PausedError, Place, RaceError, Settlement, TransientError

TRANSACTION_BUCKETS_S: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
"""From one row on an idle server to the statements' time limit."""

END_TO_END_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3_600)
"""From the fastest way through the chain to an outage of an hour."""

BATCH_BUCKETS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500)
"""Up to the most events of one transaction."""

SYSTEMS: Final = ("openemr", "source", "kafka")

OUTCOMES: Final = (
    ("applied", ""),
    ("duplicate", ""),
    ("stale", ""),
    ("waiting", ErrorClass.PARENT_MISSING.value),
    *(("failed", one.value) for one in ErrorClass),
)
"""What words() can say: the labels outcome and error_class."""


class SettlingMetrics:
    """The metrics of one process that settles events; a consumer and a retrier have the same ones.

    No label holds what comes from a record: every value is one of a closed list, a topic or a partition's number.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._events = Counter(
            "emrsync_events",
            "Events whose outcome was written into their outbox rows.",
            ("entity_type", "outcome", "error_class"),
            registry=registry,
        )
        self._end_to_end = Histogram(
            "emrsync_end_to_end_seconds",
            "From an applied event's outbox row to OpenEMR's commit, by the clocks of both servers.",
            ("entity_type",),
            buckets=END_TO_END_BUCKETS_S,
            registry=registry,
        )
        self._apply = Histogram(
            "emrsync_apply_seconds",
            "One committed transaction in OpenEMR's database.",
            buckets=TRANSACTION_BUCKETS_S,
            registry=registry,
        )
        self._mark = Histogram(
            "emrsync_mark_seconds",
            "One marking of outbox rows that was committed.",
            buckets=TRANSACTION_BUCKETS_S,
            registry=registry,
        )
        self._writing_paused = Gauge(
            "emrsync_writing_paused",
            "Whether a person has paused the writing into OpenEMR, or must act before it can go on.",
            registry=registry,
        )
        self._races = Counter(
            "emrsync_races", "Transactions given up because another writer was in the way.", registry=registry
        )
        self._up = Gauge(
            "emrsync_system_up",
            "Whether the last call of a system was answered: 1, or 0 during an outage.",
            ("system",),
            registry=registry,
        )
        self._failures = Counter(
            "emrsync_system_failures",
            "Calls that failed because a system was away or busy; no event was charged.",
            ("system",),
            registry=registry,
        )
        self._begin()

    def _begin(self) -> None:
        # Prometheus sees no increase in a series that begins at 1: the first failure of a process would alert nobody.
        for system in SYSTEMS:
            self._failures.labels(system)
        for entity_type in EntityType:
            for outcome in OUTCOMES:
                self._events.labels(entity_type.value, *outcome)

    def marked(self, settlements: Sequence[Settlement]) -> None:
        """Count events whose rows say now what became of them, and time those that were applied."""
        counted: Tally[tuple[str, str, str]] = Tally()
        timed = {one.value: self._end_to_end.labels(one.value) for one in EntityType}
        for one in settlements:
            entity_type = one.event.key.entity_type.value
            counted[entity_type, *words(one.outcome)] += 1
            if isinstance(one.outcome, Applied):
                # Two clocks: a small step backwards is no time.
                took_s = max(0.0, (one.settled_at - one.event.created_at).total_seconds())
                timed[entity_type].observe(took_s)
        for labels, count in counted.items():
            self._events.labels(*labels).inc(count)

    @contextlib.contextmanager
    def applying(self) -> Iterator[None]:
        """Time a block that is one transaction in OpenEMR's database, unless it fails."""
        began_s = time.perf_counter()
        with self.asking("openemr"):
            yield
        self._writing_paused.set(0)
        self._apply.observe(time.perf_counter() - began_s)

    @contextlib.contextmanager
    def marking(self) -> Iterator[None]:
        """Time a block that marks outbox rows, unless it fails."""
        began_s = time.perf_counter()
        with self.asking("source"):
            yield
        self._mark.observe(time.perf_counter() - began_s)

    @contextlib.contextmanager
    def asking(self, system: str) -> Iterator[None]:
        """Note by a block's end whether a system answers; a lost race is an answer."""
        try:
            yield
        except RaceError:
            self._races.inc()
            self.answers(system)
            raise
        except (PausedError, OutdatedError) as error:
            # It has answered: a person has paused the writing, or the tables were read anew.
            self.answers(system)
            self._writing_paused.set(isinstance(error, PausedError))
            raise
        except TransientError:
            self.away(system)
            raise
        self.answers(system)

    def answers(self, system: str) -> None:
        """Note that a system has answered."""
        self._up.labels(system).set(1)

    def away(self, system: str) -> None:
        """Note that a system did not answer."""
        self._failures.labels(system).inc()
        self._up.labels(system).set(0)


class StreamMetrics:
    """What a member of the group adds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._batch = Histogram(
            "emrsync_batch_records",
            "Records of one poll that brought any; one transaction unless they are very large.",
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self._batch_max = Gauge(
            "emrsync_batch_records_max",
            "Most records of the next batch; fewer while OpenEMR is slow.",
            registry=registry,
        )
        self._dead_letters = Counter(
            "emrsync_dead_letters", "Records parked because they were no events.", registry=registry
        )
        self._paused = Gauge(
            "emrsync_paused",
            "Whether fetching is paused: a system is away, marks wait, or a person has paused it.",
            registry=registry,
        )
        self._partitions = Gauge("emrsync_partitions", "Partitions that this member owns.", registry=registry)
        place = ("topic", "partition")
        self._lag_records = Gauge(
            "emrsync_lag_records", "Records of an owned partition whose offset is not committed.", place,
            registry=registry,
        )  # fmt: skip
        self._lag_seconds = Gauge(
            "emrsync_lag_seconds", "Age of the oldest record of an owned partition that is not committed.", place,
            registry=registry,
        )  # fmt: skip
        self._shown: set[Place] = set()

    def polls(self, records_max: int) -> None:
        """Note how many records a poll may bring."""
        self._batch_max.set(records_max)

    def polled(self, records: int) -> None:
        """Note how many records a poll brought."""
        self._batch.observe(records)

    def parked(self) -> None:
        """Count a dead letter."""
        self._dead_letters.inc()

    def pause(self, *, paused: bool) -> None:
        """Note whether fetching is paused."""
        self._paused.set(paused)

    def owned(self, partitions: int, known: Collection[Place]) -> None:
        """Note how many partitions are this member's, and forget the lag of all but those where it is known."""
        self._partitions.set(partitions)
        for topic, partition in self._shown - set(known):
            self._lag_records.remove(topic, str(partition))
            self._lag_seconds.remove(topic, str(partition))
        self._shown &= set(known)

    def lag(self, place: Place, *, records: int, seconds: float) -> None:
        """Note the lag of an owned partition."""
        topic, partition = place
        self._shown.add(place)
        self._lag_records.labels(topic, str(partition)).set(records)
        self._lag_seconds.labels(topic, str(partition)).set(seconds)


class RetryMetrics:
    """What a retrier adds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._retries = Counter(
            "emrsync_retries", "Failed rows taken for another attempt.", ("entity_type", "error_class"),
            registry=registry,
        )  # fmt: skip
        self._returned = Counter(
            "emrsync_retries_returned", "Rows given back untried, because a system was away.", registry=registry
        )
        self._paused = Gauge(
            "emrsync_retry_paused", "Whether an error class is left alone after a storm of failures.", ("error_class",),
            registry=registry,
        )  # fmt: skip
        for entity_type in EntityType:
            for error_class in ErrorClass:
                self._retries.labels(entity_type.value, error_class.value)
        self.pause(())

    def taken(self, entity_type: str, error_class: ErrorClass | None) -> None:
        """Count a row; a class that is not known here has no word."""
        self._retries.labels(entity_type, "" if error_class is None else error_class.value).inc()

    def returned(self, rows: int) -> None:
        """Count rows that were given back."""
        self._returned.inc(rows)

    def pause(self, classes: Collection[ErrorClass]) -> None:
        """Note which classes are left alone."""
        for one in ErrorClass:
            self._paused.labels(one.value).set(one in classes)


def words(outcome: Outcome) -> tuple[str, str]:
    """Give an outcome as the labels outcome and error_class, as the outbox row says it."""
    match outcome:
        case Applied():
            return "applied", ""
        case Duplicate():
            return "duplicate", ""
        case Stale():
            return "stale", ""
        case Waiting():
            return "waiting", ErrorClass.PARENT_MISSING.value
        case Failed():
            return "failed", outcome.error_class.value
    assert_never(outcome)
