"""Chooses the consumer's concrete classes and runs one member."""

from __future__ import annotations

import concurrent.futures
import contextlib
import datetime as dt
import gc
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import structlog

from connectors import topics
from consumer import kafka_options, source_database
from consumer.backoff import Backoff
from consumer.config import ConsumerSettings, RetrySettings, SettlingSettings
from consumer.dead_letters import DeadLetterLimits
from consumer.failed_rows import SqlFailedRows
from consumer.kafka import KafkaEventStream
from consumer.kafka_offsets import group_offsets
from consumer.loop import ConsumerLoop, LoopLimits
from consumer.metering import Unmetered, metering
from consumer.metrics_endpoint import serving
from consumer.openemr import session
from consumer.openemr.ledger_schema import checked_schema
from consumer.openemr.target import OpenEmrTarget
from consumer.outbox_marker import SqlOutboxMarker
from consumer.ports import ClientLostError, PausedError, RestoredError, StreamPosition, Target, TransientError
from consumer.retry_failed import Retrier, RetryLimits, StormBreaker, Told
from consumer.retry_role import STOP_SEEN_S, RetryRole


def run(settings: ConsumerSettings | None = None) -> None:
    """Run one member until SIGTERM or SIGINT, with the environment's settings unless others are given.

    A system that is away is waited for, at the start too, and so is, outside the group, whoever brings what a restored
    OpenEMR lacks. A signal lets the batch in hand finish (at most the statement time-outs, 60 s; usually well under
    1 s), commits its offsets and leaves the group, so that the others take over at once.

    Raises:
        MisconfiguredError: a system is there but set up wrongly; no event was lost or charged.
        TransientError: Kafka's client cannot go on and must be started anew; likewise.
    """
    settings = settings or ConsumerSettings.read()
    configure_logging(settings.log_format)
    with stop_signal() as stop, serving(settings.metrics_host, settings.metrics_port) as registry:
        meters = metering(registry)
        while (target := await_target(settings, stop, meters)) is not None:
            with member_again(), wired(settings, target, meters) as loop:
                stop.tell(loop.stop)
                tune_memory()
                structlog.get_logger().info("consumer runs", action="started", group=settings.consumer_group)
                loop.run()
                break
        else:
            return
    structlog.get_logger().info("consumer has left the group", action="stopped")


@contextlib.contextmanager
def member_again() -> Iterator[None]:
    """End the block quietly by what a new membership cures."""
    try:
        yield
    except RestoredError:
        pass  # told by who waits for the target
    except ClientLostError as error:
        structlog.get_logger().warning("joins the group anew", action="client_lost", reason=str(error))


def await_target(settings: ConsumerSettings, stop: StopSignal, meters: Unmetered) -> OpenEmrTarget | None:
    """Connect to OpenEMR as soon as it lacks nothing that the group has passed; None when asked to stop before that."""
    backoff = Backoff()
    told: str | None = None
    while not stop.is_set():
        try:
            return target_in_step(settings, meters)
        except TransientError as error:
            delay_s = backoff.failed(dt.datetime.now(dt.UTC))
            if not isinstance(error, PausedError) or told != str(error):  # a pause lasts for hours, and is told once
                structlog.get_logger().warning("waits to start", action="start_waits", reason=str(error))
            told = str(error)
            stop.wait(delay_s)
    return None


def target_in_step(settings: ConsumerSettings, meters: Unmetered) -> OpenEmrTarget:
    """Connect to OpenEMR's database, and see that its ledger is where the group is, or beyond.

    Raises:
        RestoredError: it is not; the group has passed what OpenEMR lacks.
        TransientError: a system is away, or somebody works on the site.
    """
    # Asked before the ledger: a position is never behind an offset that was committed before it was read.
    with meters.asking("kafka"):
        offsets = group_offsets(member_options(settings), topics.entity_topics(settings.topic_prefix))
    with meters.asking("openemr"), contextlib.ExitStack() as opened:
        target = open_target(settings)
        opened.callback(target.close)
        target.require([StreamPosition(topic, number, offset, offset) for (topic, number), offset in offsets.items()])
        opened.pop_all()
    return target


def member_options(settings: ConsumerSettings) -> Mapping[str, Any]:
    """Give the options of Kafka's client for a member."""
    return kafka_options.consumer_options(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        group_id=settings.consumer_group,
        client_id=settings.client_id,
        classic=settings.group_protocol == "classic",
        assignor=settings.group_assignor,
    )


def tune_memory() -> None:
    """Keep the garbage collector from walking the whole program for each batch.

    What a batch makes is freed by reference counts when the batch is done; the collector only looks for cycles, and
    with its defaults it took a fifth of the processor time (measured by make bench's apply path).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@contextlib.contextmanager
def wired(settings: ConsumerSettings, target: OpenEmrTarget, meters: Unmetered) -> Iterator[ConsumerLoop]:
    """Give a loop on the real systems; what it holds, the target too, is given back at the end."""
    servers, client_id = settings.kafka_bootstrap_servers, settings.client_id
    with contextlib.ExitStack() as held:
        held.callback(target.close)
        source = source_database.create_engine(settings.source_url.get_secret_value())
        held.callback(source.dispose)
        stream = KafkaEventStream(
            member_options(settings),
            kafka_options.producer_options(bootstrap_servers=servers, client_id=client_id),
            topics=topics.entity_topics(settings.topic_prefix),
            dead_letter_topic=topics.dead_letter_topic(settings.topic_prefix),
        )
        limits = LoopLimits(
            records_max=settings.batch_records_max,
            slow_s=settings.batch_slow_seconds,
            lock_patience=dt.timedelta(seconds=settings.lock_patience_seconds),
            parent_wait=dt.timedelta(seconds=settings.parent_wait_seconds),
            dead_letters=DeadLetterLimits(
                value_bytes_max=settings.record_bytes_max,
                window_records=settings.dead_letter_window_records,
                share_max=settings.dead_letter_share_max,
            ),
        )
        # Beside a batch's way into OpenEMR, the one before is marked and the one behind is drafted: one task of each.
        executor = held.enter_context(concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="beside"))
        marker = SqlOutboxMarker(source, settings.retry_policy)
        yield ConsumerLoop(meters.stream(stream), meters.target(target), meters.marker(marker), executor, limits=limits)


def open_target(settings: SettlingSettings) -> OpenEmrTarget:
    """Connect to OpenEMR's database and read the site."""
    return OpenEmrTarget(
        session.create_engine(settings.openemr_url.get_secret_value()),
        ledger_schema=checked_schema(settings.ledger_schema),
        group_id=settings.consumer_group,
        choices=settings.site_choices,
    )


def configure_logging(log_format: str) -> None:
    """Write one line per event to standard error: ids and reasons, never values."""
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if log_format == "console":
        renderer = structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def run_retry(settings: RetrySettings | None = None) -> None:
    """Run one retrier until SIGTERM or SIGINT; a signal lets the batch in hand finish.

    Raises:
        MisconfiguredError: a system is set up wrongly; no row was charged.
    """
    settings = settings or RetrySettings.read()
    configure_logging(settings.log_format)
    with stop_signal() as stop, contextlib.ExitStack() as held:
        registry = held.enter_context(serving(settings.metrics_host, settings.metrics_port))
        meters = metering(registry)
        source = source_database.create_engine(settings.source_url.get_secret_value())
        held.callback(source.dispose)
        rows, marker = SqlFailedRows(source), SqlOutboxMarker(source, settings.retry_policy)

        def open_late() -> Target:
            with meters.asking("openemr"):
                target = open_target(settings)
            held.callback(target.close)
            return meters.target(target)

        role = RetryRole(
            meters.failed_rows(rows),
            open_late,
            meters.marker(marker),
            limits=retry_limits(settings),
            interval_s=settings.retry_interval_seconds,
        )
        stop.tell(role.stop)
        structlog.get_logger().info("retrier runs", action="retry_started")
        role.run()
    structlog.get_logger().info("retrier has stopped", action="retry_stopped")


@contextlib.contextmanager
def wired_retrier(settings: RetrySettings, told: Told) -> Iterator[Retrier]:
    """Give a retrier on the real systems for what a person asks for.

    Raises:
        TransientError, MisconfiguredError: a system is away or set up wrongly.
    """
    with contextlib.ExitStack() as held:
        source = source_database.create_engine(settings.source_url.get_secret_value())
        held.callback(source.dispose)
        target = open_target(settings)
        held.callback(target.close)
        limits = retry_limits(settings)
        marker = SqlOutboxMarker(source, settings.retry_policy)
        clock = lambda: dt.datetime.now(dt.UTC)  # noqa: E731 - a value like the others
        yield Retrier(SqlFailedRows(source), target, marker, StormBreaker(limits), limits, clock, told)


def retry_limits(settings: RetrySettings) -> RetryLimits:
    """Give the bounds that the settings make."""
    return RetryLimits(
        rows_max=settings.retry_rows_max,
        hold=dt.timedelta(seconds=settings.retry_hold_seconds),
        storm_failures=settings.retry_storm_failures,
        storm_pause=dt.timedelta(seconds=settings.retry_storm_pause_seconds),
    )


class StopSignal:
    """SIGTERM or SIGINT as a state that can be waited for, and told to one listener.

    A plain flag: a handler runs between any two steps of the main thread, and a lock that this holds just then would
    never be given back.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._listener: Callable[[], None] = lambda: None

    def is_set(self) -> bool:
        """Tell whether a signal has come."""
        return self._is_set

    def wait(self, timeout_s: float) -> None:
        """Wait for a signal, at most so long."""
        until_s = time.monotonic() + timeout_s
        while not self._is_set and (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, STOP_SEEN_S))

    def tell(self, listener: Callable[[], None]) -> None:
        """Call this when a signal comes, and at once when one has come."""
        self._listener = listener
        if self._is_set:
            listener()

    def set(self) -> None:
        """Note that a signal has come."""
        self._is_set = True
        self._listener()


@contextlib.contextmanager
def stop_signal(*others: signal.Signals) -> Iterator[StopSignal]:
    """Catch SIGTERM and SIGINT within the block, and the others that are named."""
    stop = StopSignal()

    def caught(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, caught) for number in (signal.SIGTERM, signal.SIGINT, *others)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
