"""How much is where, and how far behind each stage is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import sqlalchemy as sa

from connectors.connect_client import ConnectorStatus
from connectors.outbox import CurrentInstant, Status, sync_outbox
from connectors.topics import dead_letter_topic, entity_topics
from operations.config import OperationsSettings
from operations.connect import connect_client
from operations.dead_letter_actions import DeadLetterActions
from operations.engines import ANSWER_LIMIT_S, reading_engine, source
from operations.kafka import KafkaAdmin, KeptRecords, PartitionLag
from operations.kafka_times import TopicTimes
from operations.ledger_positions import read_positions, records_behind
from operations.openemr_site import SiteReport, read_report
from operations.parts import Unavailable, part
from operations.source_log import SlotReader

_UNFINISHED = (Status.PENDING.value, Status.PROCESSING.value)


@dataclasses.dataclass(frozen=True, slots=True)
class Count:
    """Rows of the outbox that are alike."""

    entity_type: str
    status: str
    outcome: str | None
    error_class: str | None
    rows: int


@dataclasses.dataclass(frozen=True, slots=True)
class OutboxState:
    """The outbox in numbers; oldest_unfinished_s is None when everything is settled."""

    counts: tuple[Count, ...]
    unfinished: int
    failed: int
    oldest_unfinished_s: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class SlotState:
    """The replication slot: what PostgreSQL keeps for a connector that has not read it yet.

    hours_left: until it is lost if nothing is read; None when that is never, is not known, or was not asked for.
    """

    name: str
    active: bool
    retained_bytes: int | None
    wal_status: str | None
    retained_bytes_max: int | None = None
    hours_left: float | None = None

    @property
    def time_left(self) -> str:
        """For how long that can go on, in words."""
        return "no end in sight" if self.hours_left is None else f"{self.hours_left:.1f} hours left if nothing is read"

    @property
    def keeps_too_much(self) -> bool:
        """Whether more is kept than EMRSYNC_SOURCE_LOG_BYTES_MAX."""
        return self.retained_bytes_max is not None and (self.retained_bytes or 0) > self.retained_bytes_max


@dataclasses.dataclass(frozen=True, slots=True)
class PipelineStatus:
    """Every stage, or why it could not be asked; slot is None on MySQL and MariaDB, and where there is none.

    dead_letters: all that are kept; undecided: those of them that nobody has replayed or discarded.
    behind: records that the group has passed and OpenEMR's ledger lacks.
    replayable: by topic, since when (ms since 1970) it holds every record; None when it has dropped none yet.
    """

    outbox: OutboxState | Unavailable
    slot: SlotState | Unavailable | None
    connector: ConnectorStatus | Unavailable
    lag: tuple[PartitionLag, ...] | Unavailable
    dead_letters: int | Unavailable
    undecided: int | Unavailable
    openemr: SiteReport | Unavailable
    behind: int | Unavailable = 0
    replayable: Mapping[str, int | None] | Unavailable = dataclasses.field(default_factory=dict)

    @property
    def findings(self) -> tuple[str, ...]:
        """What a person should look at, in words; empty when all is well."""
        found = [
            f"{name}: {value.reason}"
            for name in ("outbox", "slot", "connector", "lag", "openemr")
            if isinstance(value := getattr(self, name), Unavailable)
        ]
        if isinstance(self.outbox, OutboxState) and self.outbox.failed:
            found.append(f"outbox: {self.outbox.failed} rows have failed; `emrsync retry select --dry-run` lists them")
        if isinstance(self.slot, SlotState) and not self.slot.active:
            found.append(f"slot {self.slot.name}: nobody reads it, and PostgreSQL keeps what it has not read")
        if isinstance(self.slot, SlotState) and self.slot.wal_status == "lost":
            found.append(f"slot {self.slot.name}: lost; `emrsync connector reset-offsets` sends unfinished rows again")
        if isinstance(self.slot, SlotState) and self.slot.keeps_too_much:
            found.append(
                f"slot {self.slot.name}: PostgreSQL keeps {self.slot.retained_bytes} bytes for it, above"
                f" {self.slot.retained_bytes_max}, {self.slot.time_left}"
            )
        if isinstance(self.connector, ConnectorStatus) and not self.connector.running:
            found.append(f"connector: {self.connector.failure or self.connector.summary}; `emrsync connector restart`")
        if not isinstance(self.lag, Unavailable):
            found += [
                f"{one.topic} partition {one.partition}: stopped at offset {one.committed or 0}, because too many"
                " records are no events; the consumer's last line says how to go on"
                for one in self.lag
                if one.halted
            ]
        if isinstance(self.undecided, int) and self.undecided:
            found.append(f"dead letters: {self.undecided} are undecided; `emrsync dead-letter list` shows them")
        elif isinstance(self.undecided, Unavailable) and isinstance(self.dead_letters, int) and self.dead_letters:
            found.append(f"dead letters: {self.dead_letters}; what was decided is not known: {self.undecided.reason}")
        return *found, *self._openemr_findings()

    def _openemr_findings(self) -> Iterator[str]:
        if isinstance(self.openemr, SiteReport):
            yield from (f"openemr: {one}" for one in self.openemr.findings)
        if isinstance(self.behind, int) and self.behind:
            yield (
                f"openemr: the ledger beside it lacks {self.behind} records that the group has passed, as after a"
                " restore; consumers wait for `emrsync resume --from-ledger`"
            )


def read_status(settings: OperationsSettings, *, settled: bool = True, hours: bool = True) -> PipelineStatus:
    """Ask every stage; one that does not answer takes nothing from the others.

    settled: count the rows that are done too, which reads the whole outbox.
    hours: tell for how long the slot can go on, which takes a second.
    """
    topics = entity_topics(settings.topic_prefix)
    lag = part(lambda: _kafka(settings).lag(settings.consumer_group, topics))
    if isinstance(lag, Unavailable):
        # Asking again would only wait as long again.
        dead_letters: int | Unavailable = lag
        undecided: int | Unavailable = lag
    else:
        topic = dead_letter_topic(settings.topic_prefix)
        kept = part(lambda: _kafka(settings).kept(topic))
        dead_letters = kept if isinstance(kept, Unavailable) else kept.count
        undecided = kept if isinstance(kept, Unavailable) else part(lambda: _undecided(settings, kept))
    replayable: Mapping[str, int | None] | Unavailable = (
        lag if isinstance(lag, Unavailable) else part(lambda: _replayable(settings, topics))
    )
    outbox = part(lambda: _outbox(settings, settled=settled))
    return PipelineStatus(
        outbox=outbox,
        slot=outbox if isinstance(outbox, Unavailable) else part(lambda: _slot(settings, hours=hours)),
        connector=part(lambda: _connector(settings)),
        lag=lag,
        dead_letters=dead_letters,
        undecided=undecided,
        openemr=part(lambda: read_report(settings)),
        behind=lag if isinstance(lag, Unavailable) else part(lambda: records_behind(lag, read_positions(settings))),
        replayable=replayable,
    )


def _kafka(settings: OperationsSettings) -> KafkaAdmin:
    return KafkaAdmin(settings.text("kafka_bootstrap_servers"), answer_limit_s=ANSWER_LIMIT_S)


def _replayable(settings: OperationsSettings, topics: Sequence[str]) -> Mapping[str, int | None]:
    times = TopicTimes(settings.text("kafka_bootstrap_servers"), answer_limit_s=ANSWER_LIMIT_S)
    return {topic: times.replayable_ms(topic) for topic in topics}


def _undecided(settings: OperationsSettings, kept: KeptRecords) -> int:
    if kept.count == 0:
        return 0
    actions = DeadLetterActions(reading_engine(settings.database_url("openemr_url")), settings, kept.topic_id)
    return max(0, kept.count - actions.count(kept.offsets))


def _outbox(settings: OperationsSettings, *, settled: bool) -> OutboxState:
    row = sync_outbox.c
    kinds = (row.entity_type, row.status, row.outcome, row.error_class)
    counting = sa.select(*kinds, sa.func.count()).group_by(*kinds).order_by(*kinds)
    if not settled:
        counting = counting.where(row.status.in_((*_UNFINISHED, Status.FAILED.value)))
    oldest = sa.select(CurrentInstant(), sa.func.min(row.created_at)).where(row.status.in_(_UNFINISHED))
    with source(settings).connect() as connection:
        counts = tuple(Count(*found) for found in connection.execute(counting))
        now, since = connection.execute(oldest).one()
    return OutboxState(
        counts=counts,
        unfinished=sum(one.rows for one in counts if one.status in _UNFINISHED),
        failed=sum(one.rows for one in counts if one.status == Status.FAILED),
        oldest_unfinished_s=None if since is None else max(0.0, (now - since).total_seconds()),
    )


def _slot(settings: OperationsSettings, *, hours: bool) -> SlotState | None:
    with source(settings).connect() as connection:
        if connection.dialect.name != "postgresql":
            return None
        found = connection.execute(
            sa.text(
                "SELECT slot_name, active, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint, wal_status"
                " FROM pg_replication_slots WHERE slot_name = :name"
            ),
            {"name": settings.cdc_slot},
        ).one_or_none()
    if found is None:
        return None
    log = SlotReader(settings).read() if hours else None
    hours_left = None if log is None else log.hours_left
    name, active, retained, wal_status = found
    return SlotState(name, active, retained, wal_status, settings.source_log_bytes_max, hours_left)


def _connector(settings: OperationsSettings) -> ConnectorStatus:
    with connect_client(settings, retry_limit_s=2.0) as client:
        return client.status(settings.connector_name)
