"""Plan and health, told to people and programs."""

from __future__ import annotations

import dataclasses

import pytest

from connectors.connect_client import ConnectorStatus, TaskStatus
from connectors.connect_progress import Progress
from connectors.connector_changes import SettingChange
from connectors.connector_config import SourceEngine
from operations.connector_health import ConnectorHealth
from operations.connector_plan import Plan, check_identity
from operations.connector_words import health_lines, health_mapping, plan_lines, plan_mapping
from operations.errors import ConnectorGuardError
from operations.flow import Flow
from operations.kafka import TopicDrift
from operations.parts import Unavailable
from operations.source_log import SourceLog
from operations.topic_check import TopicCheck

SAME = Plan("outbox", exists=True, engine=SourceEngine.POSTGRESQL, wanted={})
SLOT = SettingChange("slot.name", "emrsync", "other")
HEALTHY = ConnectorHealth(
    status=ConnectorStatus("outbox", "RUNNING", "w1:8083", (TaskStatus(0, "RUNNING", "w2:8083"),)),
    plan=SAME,
    topics=SAME.topics,
    flow=Flow(Progress(7, 9, None), heartbeat_age_s=3.2, unsent_rows=0, unsent_age_s=None),
    source_log=SourceLog("slot:emrsync", True, False, 288, 2048, 10.0, 0.5),
)


def test_a_plan_without_anything_to_do_says_so() -> None:
    """One line."""
    assert SAME.nothing_to_do
    assert plan_lines(SAME) == ["outbox: as wanted, nothing to do"]


def test_everything_that_a_plan_holds_is_told() -> None:
    """What would change, what hangs on it, what stands against it, and the topics."""
    drift = TopicDrift("emrsync.patient", "cleanup.policy", "delete", "compact")
    plan = dataclasses.replace(
        SAME,
        changes=(SLOT,),
        objections=("database.hostname: no such host",),
        topics=TopicCheck(("emrsync.order",), (drift,)),
    )

    lines = plan_lines(plan)

    assert not plan.nothing_to_do
    assert lines[:2] == ["outbox: would be changed, which restarts its task:", "  ~ slot.name = emrsync -> other"]
    assert lines[2].startswith("! another stream: slot.name: the old slot stays")
    assert lines[3:] == [
        "! refused by the connector: database.hostname: no such host",
        "! topic emrsync.order: missing; `emrsync provision` makes it",
        "! topic emrsync.patient: cleanup.policy is compact, not delete",
    ]
    assert plan_mapping(plan)["changes"] == [{"name": "slot.name", "live": "emrsync", "wanted": "other"}]


@pytest.mark.parametrize("exists", [True, False])
def test_topics_that_cannot_be_asked_are_something_to_look_at(exists: bool) -> None:
    """Not knowing is not being well."""
    plan = dataclasses.replace(SAME, exists=exists, topics=Unavailable("Kafka does not answer"))

    assert not plan.nothing_to_do
    assert plan_lines(plan)[-1] == "! topics: Kafka does not answer"
    assert plan_mapping(plan)["topic_drift"] is None


def test_another_stream_is_refused_unless_it_is_meant() -> None:
    """With what hangs on it, and the way on."""
    plan = dataclasses.replace(SAME, changes=(SLOT,))

    check_identity(plan, allowed=True)
    with pytest.raises(ConnectorGuardError, match=r"the old slot stays.*emrsync connector remove.*--new-identity"):
        check_identity(plan, allowed=False)


def test_a_healthy_connector_has_four_lines_and_no_finding() -> None:
    """States, worker, flow, and what the source keeps."""
    assert HEALTHY.findings == ()
    assert health_lines(HEALTHY) == [
        "outbox: connector RUNNING, task 0 RUNNING",
        "task 0: on w2:8083",
        "flow: last heartbeat 3 s ago; rows without a record: 0",
        "slot:emrsync: 288 bytes kept, limit 2048 bytes, written at 10 bytes/s, 0.5 hours left if nothing is read",
    ]
    assert health_mapping(HEALTHY)["source_log"]["retained_bytes"] == 288


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param({"plan": dataclasses.replace(SAME, changes=(SLOT,))}, "configuration: slot.name", id="changed"),
        pytest.param({"topics": TopicCheck(("emrsync.order",), ())}, "topic emrsync.order: missing", id="topic"),
        pytest.param({"flow": Flow(Progress(1, 1, None), None, 0, None)}, "heartbeats: none yet", id="no heartbeat"),
        pytest.param({"flow": Flow(Progress(1, 1, None), 99.0, 0, None)}, "the newest is 99 s old", id="silent"),
        pytest.param(
            {"flow": Flow(Progress(1, 1, ("order", 4)), 1.0, 6, 31.0)}, "6 rows have no record, the oldest for 31 s",
            id="rows without a record",
        ),
        pytest.param({"source_log": Unavailable("no right")}, "source log: no right", id="unknown"),
        pytest.param({"log_findings": ("slot:emrsync: too much",)}, "slot:emrsync: too much", id="log"),
        pytest.param(
            {"status": ConnectorStatus("outbox", "STOPPED", "w1", ())}, "connector STOPPED, no task", id="stopped"
        ),
    ],
)  # fmt: skip
def test_each_thing_that_needs_a_person_is_a_finding(changed: dict[str, object], said: str) -> None:
    """And ends the command with 1."""
    found = dataclasses.replace(HEALTHY, **changed).findings  # type: ignore[arg-type]  # one field at a time

    assert len(found) == 1
    assert said in found[0]
