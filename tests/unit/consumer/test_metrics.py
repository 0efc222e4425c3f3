"""Counted is what the rows say: metered members on fakes, scraped over HTTP."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from connectors.outbox import EntityType
from connectors.topics import entity_topic
from consumer.loop import ConsumerLoop
from consumer.metered import MeteredFailedRows, MeteredMarker, MeteredStream, MeteredTarget
from consumer.metering import metering
from consumer.metrics import RetryMetrics, SettlingMetrics, StreamMetrics
from consumer.metrics_endpoint import serving
from consumer.outcome import ErrorClass
from consumer.ports import MisconfiguredError, PausedError, Place, RaceError, Record, StreamPosition, TransientError
from tests import clinic
from tests.fakes import FakeBroker, FakeEventStream, FakeMarker, FakeTarget, InlineExecutor
from tests.invariants import violations_at_rest
from tests.pipeline import Pipeline
from tests.scraping import Samples, free_port, scraped, value


class MeteredMember:
    """A member of a pipeline of fakes, with its metrics."""

    def __init__(self, world: Pipeline, registry: CollectorRegistry) -> None:
        settling = SettlingMetrics(registry)
        stream = FakeEventStream(world.broker, world.faults)

        def now_s() -> float:
            return world.clock.now.timestamp()

        self.loop = ConsumerLoop(
            MeteredStream(
                stream, StreamMetrics(registry), settling, stream.ends, clock=now_s, is_troubled=stream.is_troubled
            ),
            MeteredTarget(FakeTarget(world.openemr, world.faults), settling),
            MeteredMarker(FakeMarker(world.source, world.faults), settling),
            InlineExecutor(),
            limits=world.limits,
            clock=world.clock,
        )


@pytest.fixture
def endpoint() -> Iterator[tuple[int, CollectorRegistry]]:
    """Serve a registry on a free port."""
    port = free_port()
    with serving("127.0.0.1", port) as registry:
        assert registry is not None
        yield port, registry


@pytest.fixture
def world() -> Pipeline:
    """Give empty systems."""
    return Pipeline()


def outcomes(samples: Samples) -> dict[tuple[str, str, str], float]:
    """Give the counted events by entity, outcome and error class; what was never counted is left out."""
    found = {}
    for (name, labels), count in samples.items():
        if name == "emrsync_events_total" and count:
            by_name = dict(labels)
            found[by_name["entity_type"], by_name["outcome"], by_name["error_class"]] = count
    return found


def test_every_series_is_there_before_its_first_event(endpoint: tuple[int, CollectorRegistry]) -> None:
    """Prometheus sees no increase in one that begins at 1."""
    port, registry = endpoint
    SettlingMetrics(registry)
    RetryMetrics(registry)

    samples = scraped(port)

    for one in EntityType:
        by_type = {"entity_type": one.value}
        for kind in ErrorClass:
            failed = {"outcome": "failed", "error_class": kind.value}
            assert value(samples, "emrsync_events_total", **by_type, **failed) == 0
            assert value(samples, "emrsync_retries_total", **by_type, error_class=kind.value) == 0
        for outcome, error_class in (("applied", ""), ("duplicate", ""), ("stale", ""), ("waiting", "parent_missing")):
            assert value(samples, "emrsync_events_total", **by_type, outcome=outcome, error_class=error_class) == 0
    counted = [name for name, _labels in samples if name == "emrsync_events_total"]
    assert len(counted) == len(EntityType) * (4 + len(ErrorClass))


def rows(world: Pipeline) -> dict[tuple[str, str, str], float]:
    """Give the same of the outbox."""
    found: dict[tuple[str, str, str], float] = {}
    for row in world.source.outbox.values():
        key = row.event.key.entity_type.value, row.outcome or "", row.error_class or ""
        found[key] = found.get(key, 0) + 1
    return found


def test_what_is_scraped_is_what_the_rows_say(world: Pipeline, endpoint: tuple[int, CollectorRegistry]) -> None:
    """A thousand events, every tenth of them one that fails, through outages of both databases."""
    port, registry = endpoint
    member = MeteredMember(world, registry)
    world.faults.plan("target.commit", TransientError("away"))
    world.faults.plan("marker.mark", TransientError("away"))
    for number in range(1_000):
        world.happen(clinic.patient(given_name="x" * 300) if number % 10 == 0 else clinic.patient())

    world.drain([member.loop])

    samples = scraped(port)
    assert {("patient", "applied", ""): 900.0, ("patient", "failed", "too_long"): 100.0} == rows(world)
    assert rows(world) == outcomes(samples)
    assert [] == violations_at_rest(world.snapshot())
    assert 900 == value(samples, "emrsync_end_to_end_seconds_count", entity_type="patient")
    assert 1 == value(samples, "emrsync_system_failures_total", system="openemr")
    assert 1 == value(samples, "emrsync_system_failures_total", system="source")
    assert 0 == value(samples, "emrsync_system_failures_total", system="kafka")
    assert 1_000 == value(samples, "emrsync_batch_records_sum")
    lags = [count for (name, _labels), count in samples.items() if name == "emrsync_lag_records"]
    assert [0.0] * 2 == lags


def test_a_child_is_counted_as_waiting_and_then_as_applied(
    world: Pipeline, endpoint: tuple[int, CollectorRegistry]
) -> None:
    """Both were written into its row."""
    port, registry = endpoint
    member = MeteredMember(world, registry)
    patient = clinic.patient()
    world.happen(clinic.encounter(patient["patient_id"]))
    world.drain([member.loop])
    world.happen(patient)
    world.drain([member.loop])

    counted = outcomes(scraped(port))
    assert {
        ("encounter", "waiting", "parent_missing"): 1.0,
        ("encounter", "applied", ""): 1.0,
        ("patient", "applied", ""): 1.0,
    } == counted


def test_an_outage_and_its_end_are_seen(world: Pipeline, endpoint: tuple[int, CollectorRegistry]) -> None:
    """The lag grows with it, and partitions are paused."""
    port, registry = endpoint
    member = MeteredMember(world, registry)
    world.happen(clinic.patient())
    world.faults.plan("target.begin", *[TransientError("away")] * 3)
    member.loop.run_once()
    world.clock.now += dt.timedelta(seconds=60)
    member.loop.run_once()

    away = scraped(port)
    assert 0 == value(away, "emrsync_system_up", system="openemr")
    assert 1 == value(away, "emrsync_paused")
    lag = {dict(labels)["topic"]: count for (name, labels), count in away.items() if name == "emrsync_lag_records"}
    assert {entity_topic(EntityType.PATIENT): 1.0} == lag
    age = {count for (name, _labels), count in away.items() if name == "emrsync_lag_seconds"}
    assert all(count >= 60 for count in age)

    world.drain([member.loop])
    back = scraped(port)
    assert 1 == value(back, "emrsync_system_up", system="openemr")
    assert 0 == value(back, "emrsync_paused")
    assert {0.0} == {count for (name, _labels), count in back.items() if name == "emrsync_lag_seconds"}


def test_a_pause_is_no_outage(world: Pipeline, endpoint: tuple[int, CollectorRegistry]) -> None:
    """Nobody is called because of a maintenance."""
    port, registry = endpoint
    member = MeteredMember(world, registry)
    world.happen(clinic.patient())
    world.faults.plan("target.commit", *[PausedError("maintenance")] * 2)
    for _ in range(2):
        member.loop.run_once()

    samples = scraped(port)
    assert 1 == value(samples, "emrsync_paused")
    assert 1 == value(samples, "emrsync_system_up", system="openemr")
    assert 0 == value(samples, "emrsync_system_failures_total", system="openemr")


def test_a_lost_race_is_no_outage(world: Pipeline, endpoint: tuple[int, CollectorRegistry]) -> None:
    """Another member was faster: the database has answered."""
    port, registry = endpoint
    member = MeteredMember(world, registry)
    world.happen(clinic.patient())
    world.faults.plan("target.commit", RaceError("duplicate key"))
    world.drain([member.loop])

    samples = scraped(port)
    assert 1 == value(samples, "emrsync_races_total")
    assert 1 == value(samples, "emrsync_system_up", system="openemr")
    assert 0 == value(samples, "emrsync_system_failures_total", system="openemr")


def test_a_pause_by_a_person_is_no_outage_and_its_end_is_seen(
    world: Pipeline, endpoint: tuple[int, CollectorRegistry]
) -> None:
    """The database answers; the reason is in the log and in `emrsync status`."""
    port, registry = endpoint
    member = MeteredMember(world, registry)
    world.happen(clinic.patient())
    world.faults.plan("target.begin", PausedError("in maintenance"))
    member.loop.run_once()

    paused = scraped(port)
    assert 1 == value(paused, "emrsync_writing_paused")
    assert 1 == value(paused, "emrsync_system_up", system="openemr")
    assert 0 == value(paused, "emrsync_system_failures_total", system="openemr")

    world.drain([member.loop])
    assert 0 == value(scraped(port), "emrsync_writing_paused")


def test_dead_letters_are_counted(world: Pipeline, endpoint: tuple[int, CollectorRegistry]) -> None:
    """A record without headers."""
    port, registry = endpoint
    member = MeteredMember(world, registry)
    world.broker.produce(entity_topic(EntityType.PATIENT), b"P-1", b"{}", [])
    world.drain([member.loop])

    assert 1 == value(scraped(port), "emrsync_dead_letters_total")


def test_a_partition_that_went_to_another_member_has_no_lag_here(
    world: Pipeline, endpoint: tuple[int, CollectorRegistry]
) -> None:
    """A sum over members would count it twice."""
    port, registry = endpoint
    member = MeteredMember(world, registry)
    for _ in range(20):
        world.happen(clinic.patient())
    world.drain([member.loop])
    assert 6 == value(scraped(port), "emrsync_partitions")

    other = world.member()
    world.drain([member.loop, other])

    samples = scraped(port)
    assert 3 == value(samples, "emrsync_partitions")
    assert 1 == sum(name == "emrsync_lag_records" for name, _labels in samples)


def metered_at(
    stream: ScriptedStream, registry: CollectorRegistry, ends: Mapping[Place, int], clock: Callable[[], float]
) -> MeteredStream:
    """Give a stream whose partitions end there, and that has no trouble."""
    return MeteredStream(
        stream,  # type: ignore[arg-type]  # what a poll needs
        StreamMetrics(registry),
        SettlingMetrics(registry),
        lambda: ends,
        clock,
        is_troubled=lambda: False,
    )


def test_the_lag_of_a_partition_is_the_age_of_its_oldest_uncommitted_record() -> None:
    """Batch by batch, as commits come."""
    registry = CollectorRegistry()
    place = "emrsync.patient", 0
    now = [1_000.0]
    stream = ScriptedStream([[Record(*place, 5, b"k", b"", (), 900_000)], [Record(*place, 6, b"k", b"", (), 950_000)]])
    metered = metered_at(stream, registry, {place: 7}, lambda: now[0])

    def lag() -> tuple[float | None, float | None]:
        now[0] += 10
        metered.poll(records_max=10, timeout_s=0)
        labels = {"topic": place[0], "partition": "0"}
        return (
            registry.get_sample_value("emrsync_lag_records", labels),
            registry.get_sample_value("emrsync_lag_seconds", labels),
        )

    assert (2.0, 110.0) == lag()
    assert (2.0, 120.0) == lag()
    metered.commit([StreamPosition(*place, 6)])
    assert (1.0, 80.0) == lag()
    metered.commit([StreamPosition(*place, 7)])
    assert (0.0, 0.0) == lag()


def test_what_was_known_of_a_partition_is_forgotten_when_it_goes() -> None:
    """Another member went on there: if it comes back at once, the old lag would be a wrong one."""
    registry = CollectorRegistry()
    place = "emrsync.patient", 0
    now = [1_000.0]
    stream = ScriptedStream([[Record(*place, 5, b"k", b"", (), 900_000)], [], [Record(*place, 19, b"k", b"", (), 0)]])
    metered = metered_at(stream, registry, {place: 20}, lambda: now[0])
    settled: list[Any] = []
    metered.before_revoke(settled.append)
    labels = {"topic": place[0], "partition": "0"}
    lags = []
    for turn in range(3):
        now[0] += 10
        if turn == 1:
            stream.settle([place])
        metered.poll(records_max=10, timeout_s=0)
        lags.append(registry.get_sample_value("emrsync_lag_records", labels))

    assert lags == [15.0, None, 1.0]
    assert settled == [[place]]


class ScriptedStream:
    """Polls that bring what is written here."""

    def __init__(self, polls: list[list[Record]]) -> None:
        self._polls = polls
        self.settle: Callable[[Any], None] = lambda _places: None

    def before_revoke(self, settle: Callable[[Any], None]) -> None:
        """Remember it."""
        self.settle = settle

    def poll(self, **_bounds: Any) -> list[Record]:
        """Give the next, or nothing."""
        return self._polls.pop(0) if self._polls else []

    def commit(self, positions: list[StreamPosition]) -> None:
        """Take it."""


def test_a_port_that_is_taken_ends_the_process_with_a_word(endpoint: tuple[int, CollectorRegistry]) -> None:
    """Two members of one machine with one setting."""
    port, _registry = endpoint

    with pytest.raises(MisconfiguredError, match="its own EMRSYNC_METRICS_PORT"), serving("127.0.0.1", port):
        pass


def test_without_a_port_nothing_is_served() -> None:
    """Off unless asked for."""
    with serving("127.0.0.1", None) as registry:
        assert registry is None


def test_the_port_is_free_again_after_the_block() -> None:
    """A restarted member finds it."""
    port = free_port()
    with serving("127.0.0.1", port):
        pass
    with serving("127.0.0.1", port), contextlib.suppress(OSError):
        assert scraped(port) == {}


def test_retries_are_counted_by_what_the_rows_had_failed_with() -> None:
    """And classes that storm are shown as left alone."""
    registry = CollectorRegistry()
    metrics = RetryMetrics(registry)
    rows_taken = MeteredFailedRows(NoRows(), metrics, SettlingMetrics(registry))  # type: ignore[arg-type]  # what is called
    now = dt.datetime.now(dt.UTC)
    rows_taken.claim_due(10, now=now, held_until=now, paused=[ErrorClass.TOO_LONG])
    metrics.taken("patient", ErrorClass.CONFLICT)
    metrics.taken("patient", None)

    assert 1 == registry.get_sample_value("emrsync_retry_paused", {"error_class": "too_long"})
    assert 0 == registry.get_sample_value("emrsync_retry_paused", {"error_class": "conflict"})
    labels = {"entity_type": "patient", "error_class": "conflict"}
    assert 1 == registry.get_sample_value("emrsync_retries_total", labels)


class NoRows:
    """Nothing is due."""

    def claim_due(self, _limit: int, **_rest: Any) -> list[Place]:
        """Give none."""
        return []


def test_a_process_may_be_a_member_more_than_once() -> None:
    """After a restore it leaves the group and comes back, and owns nothing in between."""
    registry = CollectorRegistry()
    meters = metering(registry)
    for _ in range(2):
        meters.stream(FakeEventStream(FakeBroker())).close()  # type: ignore[arg-type]  # what is metered of it

    assert 0 == registry.get_sample_value("emrsync_partitions")
