"""The state of the whole pipeline as metrics: what `emrsync connector watch` shows, once for all members."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from connectors.connect_client import ConnectorStatus
from connectors.connect_watch import WatchAction, WatchEvent
from consumer.metrics_endpoint import serving
from operations.config import OperationsSettings
from operations.flow import Flow
from operations.openemr_site import SiteReport
from operations.parts import Unavailable
from operations.source_log import SourceLog
from operations.status import OutboxState, PipelineStatus, SlotState, read_status

LOOK_S: Final = 15.0
"""How often the systems are asked: a scrape never asks them, so that it is quick while they are away."""

STAGES: Final = ("outbox", "slot", "connector", "lag", "dead_letters", "undecided", "openemr")


class PipelineState(Collector):
    """The last look at the pipeline; what could not be asked has no value instead of an old one."""

    def __init__(self) -> None:
        self._seen: PipelineStatus | None = None
        self._at_s = 0.0
        self._flow: Flow | None = None
        self._log: SourceLog | None = None

    def see(self, status: PipelineStatus, at_s: float) -> None:
        """Show this look from now on."""
        self._seen, self._at_s = status, at_s

    def forget(self) -> None:
        """Show no look, as before the first one."""
        self._seen = None

    def look(self, flow: Flow | Unavailable, log: SourceLog | Unavailable | None) -> None:
        """Show what the watch has seen of the flow and of the source's log, each look anew."""
        self._flow = None if isinstance(flow, Unavailable) else flow
        self._log = None if isinstance(log, Unavailable) else log

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give the families of one scrape."""
        seen = self._seen
        families = Families()
        if seen is not None:
            families.looked_at.add_metric((), self._at_s)
            for stage in STAGES:
                families.stage_up.add_metric((stage,), not isinstance(getattr(seen, stage), Unavailable))
            _fill(families, seen)
        _fill_flow(families, self._flow, self._log)
        yield from families.all


class Families:
    """Every gauge of the pipeline's state, empty."""

    def __init__(self) -> None:
        self.all: list[GaugeMetricFamily] = []
        self.looked_at = self._one("last_look_timestamp_seconds", "When the systems were last asked.")
        self.stage_up = self._one("stage_up", "Whether a stage could be asked: 1 or 0.", "stage")
        self.rows = self._one(
            "outbox_rows", "Rows of the outbox that are not done.", "entity_type", "status", "outcome", "error_class"
        )
        self.oldest = self._one("outbox_oldest_unfinished_seconds", "Age of the oldest unfinished row, 0 if none.")
        self.lag = self._one("group_lag_records", "Records that the group has not settled.", "topic", "partition")
        self.halted = self._one(
            "group_halted", "Whether a partition was given up for too many dead letters.", "topic", "partition"
        )
        self.kept = self._one("dead_letters_kept", "Dead letters that are kept.")
        self.undecided = self._one("dead_letters_undecided", "Dead letters that nobody has decided on.")
        self.connector = self._one("connector_running", "Whether the connector and its task run.", "connector")
        self.tasks = self._one("connector_task_running", "Whether a task runs.", "connector", "task")
        self.slot_active = self._one("slot_active", "Whether the connector reads its replication slot.", "slot")
        self.slot_bytes = self._one("slot_retained_bytes", "Log that PostgreSQL keeps for the connector.", "slot")
        self.maintenance = self._one("openemr_maintenance", "Whether somebody has paused the writing into OpenEMR.")
        self.differences = self._one(
            "openemr_table_differences",
            "Changes of OpenEMR's tables that nobody has accepted, which pause the writing.",
        )
        self.heartbeat = self._one("heartbeat_age_seconds", "Since the connector's newest heartbeat.")
        self.unsent_rows = self._one("unsent_rows", "Pending rows that have no record in Kafka.")
        self.unsent_age = self._one("unsent_oldest_seconds", "Age of the oldest of them, 0 if there is none.")
        self.log_bytes = self._one("source_log_retained_bytes", "Log that the source keeps unread.", "reader")
        self.log_left = self._one(
            "source_log_left_seconds", "Until that log is gone, at the present rate, if nothing is read.", "reader"
        )
        self.log_lost = self._one("source_log_lost", "Whether log was dropped before it was read.", "reader")

    def _one(self, name: str, meaning: str, *labels: str) -> GaugeMetricFamily:
        self.all.append(GaugeMetricFamily(f"emrsync_{name}", meaning, labels=labels))
        return self.all[-1]


def _fill(families: Families, seen: PipelineStatus) -> None:
    if isinstance(seen.outbox, OutboxState):
        for one in seen.outbox.counts:
            families.rows.add_metric((one.entity_type, one.status, one.outcome or "", one.error_class or ""), one.rows)
        families.oldest.add_metric((), seen.outbox.oldest_unfinished_s or 0.0)
    if not isinstance(seen.lag, Unavailable):
        for place in seen.lag:
            families.lag.add_metric((place.topic, str(place.partition)), place.lag)
            families.halted.add_metric((place.topic, str(place.partition)), place.halted)
    if isinstance(seen.dead_letters, int):
        families.kept.add_metric((), seen.dead_letters)
    if isinstance(seen.undecided, int):
        families.undecided.add_metric((), seen.undecided)
    _fill_source_side(families, seen)


def _fill_source_side(families: Families, seen: PipelineStatus) -> None:
    if isinstance(seen.connector, ConnectorStatus):
        name = seen.connector.name
        families.connector.add_metric((name,), seen.connector.running)
        for task in seen.connector.tasks:
            families.tasks.add_metric((name, str(task.number)), task.state == "RUNNING")
    if isinstance(seen.openemr, SiteReport):
        families.maintenance.add_metric((), seen.openemr.maintenance is not None)
        families.differences.add_metric((), len(seen.openemr.differences))
    if isinstance(seen.slot, SlotState):
        families.slot_active.add_metric((seen.slot.name,), seen.slot.active)
        if seen.slot.retained_bytes is not None:
            families.slot_bytes.add_metric((seen.slot.name,), seen.slot.retained_bytes)


def _fill_flow(families: Families, flow: Flow | None, log: SourceLog | None) -> None:
    if flow is not None:
        if flow.heartbeat_age_s is not None:
            families.heartbeat.add_metric((), flow.heartbeat_age_s)
        families.unsent_rows.add_metric((), flow.unsent_rows)
        families.unsent_age.add_metric((), flow.unsent_age_s or 0.0)
    if log is not None:
        # Only the kind: the name of a binlog is another one every day.
        reader = (log.reader.split(":")[0],)
        families.log_lost.add_metric(reader, log.lost)
        if log.retained_bytes is not None:
            families.log_bytes.add_metric(reader, log.retained_bytes)
        if log.hours_left is not None:
            families.log_left.add_metric(reader, log.hours_left * 3600)


class WatchMetrics:
    """What the watch itself does."""

    def __init__(self, registry: CollectorRegistry, state: PipelineState) -> None:
        self._state = state
        self._restarts = Counter(
            "emrsync_connector_restarts", "Restarts that the watch has asked for.", registry=registry
        )
        self._in_a_row = Gauge(
            "emrsync_connector_restarts_in_a_row",
            "Restarts since the connector was last seen running.",
            registry=registry,
        )

        self._given_up = Gauge(
            "emrsync_connector_given_up",
            "Whether the watch has given the connector up, and restarts nothing.",
            registry=registry,
        )

    def look(self, flow: Flow | Unavailable, log: SourceLog | Unavailable | None) -> None:
        """Show a look of the watch."""
        self._state.look(flow, log)

    def see(self, event: WatchEvent) -> None:
        """Count a restart, forget a row of them when it runs, and show whether the watch has given up."""
        if event.action is WatchAction.RESTARTED:
            self._restarts.inc()
            self._in_a_row.set(event.restarts)
        elif event.action is WatchAction.RUNNING:
            self._in_a_row.set(0)
        elif event.action in {WatchAction.GAVE_UP, WatchAction.RESUMED}:
            self._given_up.set(event.action is WatchAction.GAVE_UP)


@contextlib.contextmanager
def watch_metrics(
    settings: OperationsSettings,
    *,
    look: Callable[[OperationsSettings], PipelineStatus] | None = None,
    look_s: float = LOOK_S,
) -> Iterator[WatchMetrics | None]:
    """Serve the pipeline's state within the block, looked at every look_s seconds; None without EMRSYNC_METRICS_PORT.

    Raises:
        MisconfiguredError: the port cannot be had.
    """
    with serving(settings.metrics_host, settings.metrics_port) as registry:
        if registry is None:
            yield None
            return
        state = PipelineState()
        registry.register(state)
        ended = threading.Event()
        read = look or (lambda asked: read_status(asked, settled=False, hours=False))

        def look_on() -> None:
            while not ended.is_set():
                try:
                    state.see(read(settings), time.time())
                except BaseException:
                    # A fault of ours ends this thread: what it saw last would stand for ever.
                    state.forget()
                    raise
                ended.wait(look_s)

        thread = threading.Thread(target=look_on, name="metrics-look", daemon=True)
        thread.start()
        try:
            yield WatchMetrics(registry, state)
        finally:
            ended.set()
