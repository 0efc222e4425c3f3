"""The state of the pipeline as the watch shows it: nothing old, nothing for a stage that could not be asked."""

from __future__ import annotations

import dataclasses

import pytest
from prometheus_client import CollectorRegistry

from connectors.connect_client import ConnectorStatus, TaskStatus
from connectors.connect_progress import Progress
from connectors.connect_watch import WatchAction, WatchEvent
from operations.config import OperationsSettings
from operations.flow import Flow
from operations.kafka import PartitionLag
from operations.openemr_site import SiteReport
from operations.parts import Unavailable
from operations.pipeline_metrics import PipelineState, WatchMetrics, watch_metrics
from operations.source_log import SourceLog
from operations.status import Count, OutboxState, PipelineStatus, SlotState
from tests.e2e.members import wait_for
from tests.scraping import free_port, scraped, value

DOWN = Unavailable("Connection refused")
OUTBOX = OutboxState(
    (Count("patient", "failed", "failed", "too_long", 2), Count("order", "processing", "waiting", "parent_missing", 3)),
    unfinished=3,
    failed=2,
    oldest_unfinished_s=12.5,
)
RUNS = ConnectorStatus("emrsync-outbox", "RUNNING", "w1", (TaskStatus(0, "FAILED", "w1"),))
LAG = (PartitionLag("emrsync.patient", 2, committed=7, end=9, lag=2, halted=True),)
SITE = SiteReport(None, None, ("patient_data.fname: is gone", "users: is new"), "in maintenance since noon")
STATUS = PipelineStatus(OUTBOX, SlotState("emrsync", True, 56, "reserved"), RUNS, LAG, 4, 1, SITE)
FLOW = Flow(Progress(heartbeats=1, records=2, unsent=None), heartbeat_age_s=3.0, unsent_rows=0, unsent_age_s=None)
LOG = SourceLog("binlog:mysql-bin.000042", None, False, 99, None, 10.0, 2.0)


@pytest.fixture
def registry() -> CollectorRegistry:
    """Give a registry of its own."""
    return CollectorRegistry()


@pytest.fixture
def state(registry: CollectorRegistry) -> PipelineState:
    """Give a state that has seen nothing."""
    made = PipelineState()
    registry.register(made)
    return made


def test_every_stage_is_shown(registry: CollectorRegistry, state: PipelineState) -> None:
    """By hand, from one look."""
    state.see(STATUS, 1_000.0)

    def sample(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"emrsync_{name}", labels)

    failed = {"entity_type": "patient", "status": "failed", "outcome": "failed", "error_class": "too_long"}
    assert sample("outbox_rows", **failed) == 2
    assert sample("outbox_oldest_unfinished_seconds") == 12.5
    assert sample("group_lag_records", topic="emrsync.patient", partition="2") == 2
    assert sample("group_halted", topic="emrsync.patient", partition="2") == 1
    assert (sample("dead_letters_kept"), sample("dead_letters_undecided")) == (4, 1)
    assert sample("connector_running", connector="emrsync-outbox") == 0
    assert sample("connector_task_running", connector="emrsync-outbox", task="0") == 0
    assert (sample("slot_active", slot="emrsync"), sample("slot_retained_bytes", slot="emrsync")) == (1, 56)
    assert (sample("openemr_maintenance"), sample("openemr_table_differences")) == (1, 2)
    assert sample("stage_up", stage="lag") == 1
    assert sample("last_look_timestamp_seconds") == 1_000.0


def test_a_stage_that_cannot_be_asked_has_no_value(registry: CollectorRegistry, state: PipelineState) -> None:
    """An old one would look as if all were well."""
    state.see(STATUS, 1_000.0)
    state.see(dataclasses.replace(STATUS, outbox=DOWN, lag=DOWN, dead_letters=DOWN, undecided=DOWN), 1_015.0)

    assert registry.get_sample_value("emrsync_outbox_oldest_unfinished_seconds") is None
    assert registry.get_sample_value("emrsync_dead_letters_kept") is None
    assert registry.get_sample_value("emrsync_stage_up", {"stage": "outbox"}) == 0
    assert registry.get_sample_value("emrsync_stage_up", {"stage": "connector"}) == 1


def test_the_flow_and_the_sources_log_are_shown_and_forgotten(
    registry: CollectorRegistry, state: PipelineState
) -> None:
    """The name of a binlog is no label."""
    metrics = WatchMetrics(CollectorRegistry(), state)
    metrics.look(FLOW, LOG)

    assert registry.get_sample_value("emrsync_heartbeat_age_seconds") == 3.0
    assert registry.get_sample_value("emrsync_unsent_oldest_seconds") == 0.0
    assert registry.get_sample_value("emrsync_source_log_retained_bytes", {"reader": "binlog"}) == 99
    assert registry.get_sample_value("emrsync_source_log_left_seconds", {"reader": "binlog"}) == 7_200.0

    metrics.look(DOWN, DOWN)
    assert registry.get_sample_value("emrsync_heartbeat_age_seconds") is None
    assert registry.get_sample_value("emrsync_source_log_retained_bytes", {"reader": "binlog"}) is None


def test_restarts_are_counted_and_a_row_of_them_ends_when_it_runs(registry: CollectorRegistry) -> None:
    """The counter goes on."""
    metrics = WatchMetrics(registry, PipelineState())
    for number in (1, 2):
        metrics.see(WatchEvent(WatchAction.RESTARTED, "a reason", restarts=number))
    assert registry.get_sample_value("emrsync_connector_restarts_in_a_row") == 2

    metrics.see(WatchEvent(WatchAction.RUNNING, "RUNNING"))
    assert registry.get_sample_value("emrsync_connector_restarts_in_a_row") == 0
    assert registry.get_sample_value("emrsync_connector_restarts_total") == 2


def test_a_watch_that_has_given_up_is_shown_until_it_resumes(registry: CollectorRegistry) -> None:
    """From its start on, so that an alert has something to compare."""
    metrics = WatchMetrics(registry, PipelineState())
    shown = [registry.get_sample_value("emrsync_connector_given_up")]
    for action in (WatchAction.GAVE_UP, WatchAction.NOT_RUNNING, WatchAction.RUNNING, WatchAction.RESUMED):
        metrics.see(WatchEvent(action, "a reason"))
        shown.append(registry.get_sample_value("emrsync_connector_given_up"))

    assert shown == [0, 1, 1, 1, 0]


@pytest.mark.usefixtures("bare")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_while_looking_leaves_no_old_values() -> None:
    """They would look as if all were well."""
    port = free_port()
    looks = iter([STATUS])

    with watch_metrics(OperationsSettings.read(metrics_port=port), look=lambda _settings: next(looks), look_s=0.2):
        wait_for(lambda: value(scraped(port), "emrsync_dead_letters_kept") == 4, 10, lambda: scraped(port))
        wait_for(lambda: value(scraped(port), "emrsync_dead_letters_kept") is None, 10, lambda: scraped(port))
        assert value(scraped(port), "emrsync_last_look_timestamp_seconds") is None


@pytest.mark.usefixtures("bare")
def test_the_watch_serves_what_it_last_saw() -> None:
    """Over HTTP, without asking anybody at the scrape."""
    port = free_port()
    settings = OperationsSettings.read(metrics_port=port)
    looks = []

    def look(_settings: OperationsSettings) -> PipelineStatus:
        looks.append(1)
        return STATUS

    with watch_metrics(settings, look=look) as metrics:
        assert metrics is not None
        wait_for(lambda: bool(looks) and value(scraped(port), "emrsync_dead_letters_kept") == 4, 10, lambda: looks)
        scraped(port)
        assert len(looks) == 1

    with watch_metrics(OperationsSettings.read()) as metrics:
        assert metrics is None
