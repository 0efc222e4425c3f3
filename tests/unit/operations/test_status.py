"""What `status` finds worth a person's attention, and what it does when systems are away."""

from __future__ import annotations

import pytest

from connectors.connect_client import ConnectorStatus, TaskStatus
from operations.config import OperationsSettings
from operations.kafka import PartitionLag
from operations.openemr_site import SiteReport
from operations.parts import Unavailable
from operations.status import Count, OutboxState, PipelineStatus, SlotState, read_status
from tests.made_events import NOON

RUNS = ConnectorStatus("emrsync-outbox", "RUNNING", "w1", (TaskStatus(0, "RUNNING", "w1"),))
STOPPED = ConnectorStatus("emrsync-outbox", "STOPPED", "w1", ())
FINE = OutboxState((Count("patient", "done", "applied", None, 7),), unfinished=0, failed=0, oldest_unfinished_s=None)
FAILURES = OutboxState((Count("patient", "failed", "failed", "too_long", 2),), 0, 2, None)
SLOT = SlotState("emrsync", active=True, retained_bytes=56, wal_status="reserved")
IDLE_SLOT = SlotState("emrsync", active=False, retained_bytes=56, wal_status="reserved")
LARGE_SLOT = SlotState("emrsync", True, 56, "reserved", retained_bytes_max=50, hours_left=2.04)
LARGE_SLOT_WITHOUT_END = SlotState("emrsync", True, 56, "reserved", retained_bytes_max=50)
LOST_SLOT = SlotState("emrsync", active=True, retained_bytes=None, wal_status="lost")
HALTED = PartitionLag("emrsync.patient", 2, committed=7, end=9, lag=2, halted=True)
DOWN = Unavailable("Connection refused")
SITE = SiteReport(NOON, "first start", (), None)
UPGRADED = SiteReport(NOON, "first start", ("version.v_patch: 3 -> 4",), None)
CLOSED = SiteReport(NOON, "first start", (), "maintenance by the operator since 2026-01-02T12:00:00+00:00")


@pytest.mark.parametrize(
    ("status", "beginnings"),
    [
        (PipelineStatus(FINE, SLOT, RUNS, (), 0, 0, SITE), []),
        (PipelineStatus(FINE, None, RUNS, (), 0, 0, SITE), []),
        (PipelineStatus(FAILURES, SLOT, RUNS, (), 0, 0, SITE), ["outbox: 2 rows have failed"]),
        (
            PipelineStatus(FINE, IDLE_SLOT, STOPPED, (), 0, 0, SITE),
            ["slot emrsync: nobody reads", "connector: connector STOPPED"],
        ),
        (
            PipelineStatus(FINE, LARGE_SLOT, RUNS, (), 0, 0, SITE),
            ["slot emrsync: PostgreSQL keeps 56 bytes for it, above 50, 2.0 hours left if nothing is read"],
        ),
        (
            PipelineStatus(FINE, LARGE_SLOT_WITHOUT_END, RUNS, (), 0, 0, SITE),
            ["slot emrsync: PostgreSQL keeps 56 bytes for it, above 50, no end in sight"],
        ),
        (PipelineStatus(FINE, LOST_SLOT, RUNS, (), 0, 0, SITE), ["slot emrsync: lost"]),
        (PipelineStatus(FINE, SLOT, RUNS, (), 3, 2, SITE), ["dead letters: 2 are undecided"]),
        (PipelineStatus(FINE, SLOT, RUNS, (), 3, 0, SITE), []),
        (PipelineStatus(FINE, SLOT, RUNS, (), 3, DOWN, SITE), ["dead letters: 3; what was decided is not known"]),
        (PipelineStatus(FINE, SLOT, RUNS, (HALTED,), 0, 0, SITE), ["emrsync.patient partition 2: stopped at offset 7"]),
        (PipelineStatus(DOWN, DOWN, RUNS, (), 0, 0, SITE), ["outbox: Connection refused", "slot: Connection refused"]),
        (PipelineStatus(FINE, SLOT, RUNS, (), 0, 0, UPGRADED), ["openemr: its tables have changed (differences: 1)"]),
        (PipelineStatus(FINE, SLOT, RUNS, (), 0, 0, CLOSED), ["openemr: maintenance by the operator since"]),
        (PipelineStatus(FINE, SLOT, RUNS, (), 0, 0, DOWN), ["openemr: Connection refused"]),
        (PipelineStatus(FINE, SLOT, RUNS, (), 0, 0, SITE, 7), ["openemr: the ledger beside it lacks 7 records"]),
        (
            PipelineStatus(FINE, SLOT, DOWN, DOWN, DOWN, DOWN, SITE),
            ["connector: Connection refused", "lag: Connection refused"],
        ),
    ],
    ids=[
        "fine",
        "no slot",
        "failures",
        "idle slot",
        "large slot",
        "large slot without a limit",
        "lost slot",
        "dead letters",
        "decided",
        "ledger down",
        "halted",
        "source down",
        "upgraded",
        "maintenance",
        "openemr down",
        "restored",
        "kafka down",
    ],
)
def test_each_finding_is_told(status: PipelineStatus, beginnings: list[str]) -> None:
    """Exit code 1 hangs on this list."""
    assert [found[: len(wanted)] for found, wanted in zip(status.findings, beginnings, strict=True)] == beginnings


@pytest.mark.usefixtures("bare")
def test_a_system_without_address_takes_nothing_from_the_others() -> None:
    """Each part says which variable it misses."""
    status = read_status(OperationsSettings.read())

    assert [found.split(":")[0] for found in status.findings] == ["outbox", "slot", "connector", "lag", "openemr"]
    assert "EMRSYNC_CONNECT_URL is not set" in status.findings[2]
