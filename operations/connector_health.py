"""How the connector is: states, whether events flow, what the source keeps for it, what differs from the plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from connectors.connect_client import ConnectClient, ConnectorStatus
from connectors.connect_errors import ConnectBusyError, ConnectUnreachableError
from connectors.connect_progress import STALL_S
from connectors.connect_watch import Look
from connectors.connector_config import SourceEngine
from operations.config import OperationsSettings
from operations.connector_plan import Plan, read_plan
from operations.flow import Flow, FlowReader
from operations.kafka import KafkaAdmin
from operations.parts import Unavailable, part
from operations.source import source_engine
from operations.source_log import BinlogReader, SlotReader, SourceLog
from operations.topic_check import TopicCheck

_ANSWER_LIMIT_S: Final = 5.0

Told: TypeAlias = Callable[[Flow | Unavailable, SourceLog | Unavailable | None], None]


@dataclasses.dataclass(frozen=True, slots=True)
class ConnectorHealth:
    """Every part, or why it could not be asked; source_log is None where there is no slot or no position yet."""

    status: ConnectorStatus
    plan: Plan | Unavailable
    topics: TopicCheck | Unavailable
    flow: Flow | Unavailable
    source_log: SourceLog | Unavailable | None
    log_findings: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[str, ...]:
        """What a person should look at, in words; empty when all is well."""
        found = [
            f"{name.replace('_', ' ')}: {value.reason}"
            for name in ("plan", "topics", "flow", "source_log")
            if isinstance(value := getattr(self, name), Unavailable)
        ]
        if not self.status.running:
            found.append(f"connector: {self.status.failure or self.status.summary}; `emrsync connector restart`")
        if isinstance(self.plan, Plan) and self.plan.changes:
            names = ", ".join(one.name for one in self.plan.changes)
            found.append(f"configuration: {names}: not as wanted; `emrsync connector diff` shows it")
        if isinstance(self.topics, TopicCheck):
            found += [f"topic {name}: missing; `emrsync provision` makes it" for name in self.topics.missing]
            found += [str(one) for one in self.topics.drift]
        if isinstance(self.flow, Flow):
            found += _flow_findings(self.flow)
        return (*found, *self.log_findings)


def _flow_findings(flow: Flow) -> list[str]:
    found = []
    if flow.unsent_age_s is not None and flow.unsent_age_s > STALL_S:
        found.append(f"flow: {flow.unsent_rows} rows have no record, the oldest for {flow.unsent_age_s:.0f} s")
    if flow.heartbeat_age_s is None or flow.heartbeat_age_s > STALL_S:
        age = "none yet" if flow.heartbeat_age_s is None else f"the newest is {flow.heartbeat_age_s:.0f} s old"
        found.append(f"flow: heartbeats: {age}; `emrsync connector restart --all` helps what runs and moves nothing")
    return found


def read_health(settings: OperationsSettings, client: ConnectClient) -> ConnectorHealth:
    """Ask everything; only a worker that does not answer, or an absent connector, is an error."""
    status = client.status(settings.connector_name)
    plan = part(lambda: read_plan(settings, client, objections=False))
    log = part(lambda: SourceLogReader(settings, client).read())
    return ConnectorHealth(
        status=status,
        plan=plan,
        topics=plan if isinstance(plan, Unavailable) else plan.topics,
        flow=part(lambda: FlowReader(settings, _admin(settings)).read()),
        source_log=log,
        log_findings=_log_findings(settings, log),
    )


class SourceLogReader:
    """Looks again and again at what the source keeps for the connector; errors are the caller's."""

    def __init__(self, settings: OperationsSettings, client: ConnectClient) -> None:
        self._name = settings.connector_name
        self._client = client
        self._slot: SlotReader | None = None
        if source_engine(settings.database_url("source_url")) is SourceEngine.POSTGRESQL:
            self._slot = SlotReader(settings)
        self._binlog = BinlogReader(settings)
        self._position: Mapping[str, Any] | None = None

    def read(self) -> SourceLog | None:
        """Ask the source, and for MySQL and MariaDB Connect; None where there is no slot, or no position yet."""
        if self._slot is not None:
            return self._slot.read()
        try:
            offsets = [one["offset"] or {} for one in self._client.offsets(self._name)]
            self._position = next((one for one in offsets if "file" in one), None)
        except (ConnectUnreachableError, ConnectBusyError):
            if self._position is None:
                raise
            # While no worker answers the connector stands where it was, and the binlogs go by their age.
        return None if self._position is None else self._binlog.read(self._position)


class FlowLook:
    """What `emrsync connector watch` sees of the flow at each look."""

    def __init__(self, settings: OperationsSettings, client: ConnectClient, told: Told | None = None) -> None:
        self._told = told
        self._settings = settings
        self._reader = FlowReader(settings, _admin(settings))
        self._log_reader = SourceLogReader(settings, client)

    def __call__(self) -> Look:
        """Look at progress, and at what the source keeps; what does not answer is told as a warning."""
        flow = part(self._reader.read)
        if isinstance(flow, Unavailable):
            self._reader.ask_with(_admin(self._settings))
        log = part(self._log_reader.read)
        if self._told is not None:
            self._told(flow, log)
        unknown = [f"{name} unknown: {one.reason}" for name, one in (("flow", flow), ("source log", log))
                   if isinstance(one, Unavailable)]  # fmt: skip
        return Look(
            progress=None if isinstance(flow, Unavailable) else flow.progress,
            warnings=(*unknown, *_log_findings(self._settings, log)),
            lost=log.findings(bytes_max=0, hours_min=0.0)[0] if isinstance(log, SourceLog) and log.lost else None,
        )


def _log_findings(settings: OperationsSettings, log: SourceLog | Unavailable | None) -> tuple[str, ...]:
    if not isinstance(log, SourceLog):
        return ()
    return log.findings(bytes_max=settings.source_log_bytes_max, hours_min=settings.source_log_hours_min)


def _admin(settings: OperationsSettings) -> KafkaAdmin:
    return KafkaAdmin(settings.text("kafka_bootstrap_servers"), answer_limit_s=_ANSWER_LIMIT_S)
