"""The connector's plan and health as lines for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
from typing import Any

from connectors.connect_client import ConnectorStatus
from operations.connector_health import ConnectorHealth
from operations.connector_plan import Plan
from operations.flow import Flow
from operations.parts import Unavailable
from operations.source_log import SourceLog


def as_mapping(seen: ConnectorStatus) -> dict[str, object]:
    """Return a status for JSON, with the causes of a failure in place of its Java frames."""
    tasks = [{"number": task.number, "state": task.state, "worker": task.worker} for task in seen.tasks]
    return {
        "name": seen.name,
        "running": seen.running,
        "state": seen.state,
        "worker": seen.worker,
        "tasks": tasks,
        "failure": seen.failure,
    }


def plan_lines(plan: Plan) -> list[str]:
    """Tell a plan: what would be done, setting by setting, what stands against it, and the topics."""
    if plan.nothing_to_do:
        return [f"{plan.name}: as wanted, nothing to do"]
    lines = []
    if not plan.exists:
        lines.append(f"{plan.name}: would be created with {len(plan.changes)} settings")
    elif plan.changes:
        lines.append(f"{plan.name}: would be changed, which restarts its task:")
    else:
        lines.append(f"{plan.name}: as wanted")
    lines += [f"  {one}" for one in plan.changes]
    lines += [f"! another stream: {one}" for one in plan.consequences]
    lines += [f"! refused by the connector: {one}" for one in plan.objections]
    lines += [f"! topic {name}: missing; `emrsync provision` makes it" for name in plan.missing]
    lines += [f"! {one}" for one in plan.drift]
    if isinstance(plan.topics, Unavailable):
        lines.append(f"! topics: {plan.topics.reason}")
    return lines


def plan_mapping(plan: Plan) -> dict[str, Any]:
    """Return a plan for JSON; secrets are masked."""
    unknown = isinstance(plan.topics, Unavailable)
    return {
        "name": plan.name,
        "exists": plan.exists,
        "nothing_to_do": plan.nothing_to_do,
        "changes": [dataclasses.asdict(one) for one in plan.changes],
        "another_stream": list(plan.consequences),
        "objections": list(plan.objections),
        "topics_missing": None if unknown else list(plan.missing),
        "topic_drift": None if unknown else [dataclasses.asdict(one) for one in plan.drift],
    }


def health_lines(seen: ConnectorHealth) -> list[str]:
    """Tell how the connector is; a line that starts with ! needs a person."""
    lines = [f"{seen.status.name}: {seen.status.summary}"]
    lines += [f"task {task.number}: on {task.worker}" for task in seen.status.tasks]
    if isinstance(seen.flow, Flow):
        heartbeat = "none" if seen.flow.heartbeat_age_s is None else f"{seen.flow.heartbeat_age_s:.0f} s ago"
        oldest = "" if seen.flow.unsent_age_s is None else f", the oldest for {seen.flow.unsent_age_s:.0f} s"
        lines.append(f"flow: last heartbeat {heartbeat}; rows without a record: {seen.flow.unsent_rows}{oldest}")
    if isinstance(seen.source_log, SourceLog):
        log = seen.source_log
        limit = "no limit" if log.limit_bytes is None else f"limit {log.limit_bytes} bytes"
        left = "no end in sight" if log.hours_left is None else f"{log.hours_left:.1f} hours left if nothing is read"
        kept = "unknown" if log.retained_bytes is None else str(log.retained_bytes)
        lines.append(f"{log.reader}: {kept} bytes kept, {limit}, written at {log.rate_bytes_s:.0f} bytes/s, {left}")
    return [*lines, *(f"! {one}" for one in seen.findings)]


def health_mapping(seen: ConnectorHealth) -> dict[str, Any]:
    """Return the health for JSON; a part that could not be asked is {"unavailable": reason}."""
    return {
        **as_mapping(seen.status),
        "flow": _part(seen.flow),
        "source_log": _part(seen.source_log),
        "config_changes": _part(seen.plan)
        if isinstance(seen.plan, Unavailable)
        else [dataclasses.asdict(one) for one in seen.plan.changes],
        "topics": _part(seen.topics),
        "findings": list(seen.findings),
    }


def _part(value: Any) -> dict[str, Any] | None:
    if isinstance(value, Unavailable):
        return {"unavailable": value.reason}
    return None if value is None else dataclasses.asdict(value)
