"""Chooses the consumer's concrete classes and runs one member."""

from __future__ import annotations

import contextlib
import datetime as dt
import gc
import logging
import signal
import sys
from collections.abc import Iterator
from types import FrameType

import structlog

from connectors import topics
from consumer import kafka, outbox_marker
from consumer.config import ConsumerSettings
from consumer.kafka import KafkaEventStream
from consumer.loop import ConsumerLoop, LoopLimits
from consumer.openemr import session
from consumer.openemr.ledger_schema import checked_schema
from consumer.openemr.site import SiteChoices
from consumer.openemr.target import OpenEmrTarget
from consumer.outbox_marker import SqlOutboxMarker
from consumer.retry import RetryPolicy


def run(settings: ConsumerSettings | None = None) -> None:
    """Run one member until SIGTERM or SIGINT, with the environment's settings unless others are given.

    A signal lets the batch in hand finish (at most the statement time-outs, 60 s; usually well under 1 s), commits
    its offsets and leaves the group, so that the others take over at once.

    Raises:
        TransientError, MisconfiguredError: a system was lost or is set up wrongly; no event was lost or charged.
    """
    settings = settings or ConsumerSettings.read()
    configure_logging(settings.log_format)
    with wired(settings) as loop, _stopped_by_signals(loop):
        tune_memory()
        structlog.get_logger().info("consumer runs", action="started", group=settings.consumer_group)
        loop.run()
    structlog.get_logger().info("consumer has left the group", action="stopped")


def tune_memory() -> None:
    """Keep the garbage collector from walking the whole program for each batch.

    What a batch makes is freed by reference counts when the batch is done; the collector only looks for cycles, and
    with its defaults it took a fifth of the processor time (measured by make bench's apply path).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@contextlib.contextmanager
def wired(settings: ConsumerSettings) -> Iterator[ConsumerLoop]:
    """Give a loop on the real systems; what it holds is given back at the end."""
    with contextlib.ExitStack() as held:
        target = open_target(settings)
        held.callback(target.close)
        source = outbox_marker.create_engine(settings.source_url.get_secret_value())
        held.callback(source.dispose)
        stream = KafkaEventStream(
            kafka.consumer_options(
                bootstrap_servers=settings.kafka_bootstrap_servers,
                group_id=settings.consumer_group,
                client_id=settings.client_id,
                classic=settings.group_protocol == "classic",
            ),
            kafka.producer_options(bootstrap_servers=settings.kafka_bootstrap_servers, client_id=settings.client_id),
            topics=topics.entity_topics(settings.topic_prefix),
            dead_letter_topic=topics.dead_letter_topic(settings.topic_prefix),
        )
        limits = LoopLimits(
            records_max=settings.batch_records_max,
            parent_wait=dt.timedelta(seconds=settings.parent_wait_seconds),
        )
        yield ConsumerLoop(stream, target, SqlOutboxMarker(source, RetryPolicy()), limits=limits)


def open_target(settings: ConsumerSettings) -> OpenEmrTarget:
    """Connect to OpenEMR's database and read the site."""
    return OpenEmrTarget(
        session.create_engine(settings.openemr_url.get_secret_value()),
        ledger_schema=checked_schema(settings.ledger_schema),
        group_id=settings.consumer_group,
        choices=SiteChoices(
            username=settings.openemr_username,
            time_zone=settings.openemr_time_zone,
            facility=settings.openemr_facility,
            fallbacks=settings.openemr_fallbacks,
            patient_removal=settings.openemr_patient_deletes == "remove",
        ),
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


@contextlib.contextmanager
def _stopped_by_signals(loop: ConsumerLoop) -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        loop.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
