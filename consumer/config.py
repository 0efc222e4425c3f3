"""Settings of the consumer and of the retrier, from EMRSYNC_… variables."""

from __future__ import annotations

import socket
from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field

from connectors.config import PREFIX, MetricsSettings
from connectors.events import RECORD_BYTES_MAX
from connectors.topics import MESSAGE_BYTES_MAX
from consumer.openemr.site import SiteChoices
from consumer.retry import ATTEMPTS_MAX, RetryPolicy

Word = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(gt=0, le=30 * 86_400)]


class SettlingSettings(MetricsSettings):
    """What every process needs that applies events and marks their rows."""

    openemr_url: pydantic.SecretStr
    """SQLAlchemy URL of OpenEMR's database, account of the writer."""

    source_url: pydantic.SecretStr
    """SQLAlchemy URL of the application's database, account of the marker."""

    consumer_group: Word = "emrsync"
    """Kafka group, and the ledger's name for its positions."""

    ledger_schema: Word = "emr_sync"
    """Schema of the ledger on OpenEMR's server."""

    openemr_username: Word = "emrsync"
    """The users row that our rows name as their author."""

    openemr_time_zone: str | None = None
    """IANA zone of the site; wins over OpenEMR's own global gbl_time_zone, and is needed where that is empty."""

    openemr_facility: Word | None = None
    """Name of the facility of encounters that name none; OpenEMR's primary one when unset."""

    openemr_fallbacks: dict[str, str] = Field(default_factory=dict)
    """By coded field, the option id to write for a value that the site has no option for; JSON."""

    openemr_patient_deletes: Literal["keep", "remove"] = "keep"
    """What a patient's delete does: keep the chart, or remove the patient on whom nothing hangs."""

    log_format: Literal["console", "json"] = "json"
    """How log lines look on standard error."""

    retry_delay_first_seconds: Seconds = 30.0
    """Bound of the delay after the first failure; nobody corrects anything in less."""

    retry_delay_growth: Annotated[float, Field(ge=1, le=10)] = 4.0
    """Each bound is this many times the one before; by 4, six attempts reach from seconds to hours."""

    retry_delay_max_seconds: Seconds = 14_400.0
    """No bound is longer, so that a correction is picked up within half a working day."""

    retry_attempts_rejected: Annotated[int, Field(ge=1, le=ATTEMPTS_MAX)] = 6
    """Attempts, the first included, of what OpenEMR or its rules refuse; 1 is no retry."""

    retry_attempts_ours: Annotated[int, Field(ge=1, le=ATTEMPTS_MAX)] = 10
    """The same of faults of ours, which an upgrade cures."""

    retry_total_seconds_max: Seconds = 86_400.0
    """The bounds before an attempt add up to no more; what a day has not cured needs a person."""

    @property
    def retry_policy(self) -> RetryPolicy:
        """The policy that the settings make."""
        return RetryPolicy(
            delay_first_s=self.retry_delay_first_seconds,
            delay_growth=self.retry_delay_growth,
            delay_max_s=self.retry_delay_max_seconds,
            attempts_rejected=self.retry_attempts_rejected,
            attempts_ours=self.retry_attempts_ours,
            total_max_s=self.retry_total_seconds_max,
        )

    @property
    def site_choices(self) -> SiteChoices:
        """What the settings choose of OpenEMR's site."""
        return SiteChoices(
            username=self.openemr_username,
            time_zone=self.openemr_time_zone,
            facility=self.openemr_facility,
            fallbacks=self.openemr_fallbacks,
            patient_removal=self.openemr_patient_deletes == "remove",
        )

    @pydantic.model_validator(mode="after")
    def _refuse_senseless(self) -> Self:
        """Refuse what is senseless together, at the start and not at the first failure."""
        try:
            _ = self.retry_policy
        except ValueError as error:
            raise ValueError(f"{PREFIX}RETRY_…: {error}") from None
        return self


class RetrySettings(SettlingSettings):
    """What one retrier needs to run."""

    retry_interval_seconds: Annotated[float, Field(ge=0.1, le=3_600)] = 5.0
    """How often it looks for due rows; a look is two reads of an index."""

    retry_rows_max: Annotated[int, Field(ge=1, le=500)] = 100
    """Most rows of one transaction, so that their locks are short."""

    retry_hold_seconds: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    """How long a row is one retrier's own; a killed one's rows are taken up after it. Longer than a batch may take."""

    retry_storm_failures: Annotated[int, Field(ge=1, le=10_000)] = 20
    """So many failures of one class in a row stop the retrying of that class."""

    retry_storm_pause_seconds: Seconds = 300.0
    """How long the role then leaves the class alone."""


class ConsumerSettings(SettlingSettings):
    """What one member needs to run."""

    kafka_bootstrap_servers: Word
    """Comma-separated host:port."""

    topic_prefix: Word = "emrsync"
    """First part of the names of all topics."""

    client_id: Word = Field(default_factory=socket.gethostname)
    """How this member shows up in the broker's logs and in group descriptions."""

    group_protocol: Literal["consumer", "classic"] = "consumer"
    """KIP-848, or the classic protocol for brokers before 4.0."""

    group_assignor: Literal["uniform", "range"] = "uniform"
    """How a KIP-848 group deals partitions out: all topics together, or each topic alike to all members."""

    batch_records_max: Annotated[int, Field(ge=1, le=500)] = 500
    """Most events of one transaction."""

    batch_slow_seconds: Annotated[float, Field(ge=0.05, le=60)] = 1.0
    """A batch that takes longer in OpenEMR halves the next ones; fast ones double them again."""

    lock_patience_seconds: Seconds = 10.0
    """How long a batch waits for rows that somebody holds in OpenEMR before it leaves their events to the retrier."""

    parent_wait_seconds: Annotated[float, Field(gt=0, le=30 * 86_400)] = 86_400.0
    """How long an event waits for its parent before its row says failed; it is applied whenever the parent comes."""

    record_bytes_max: Annotated[int, Field(ge=1_024, le=MESSAGE_BYTES_MAX)] = RECORD_BYTES_MAX
    """A record with a larger value is parked as a dead letter."""

    dead_letter_window_records: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    """Of how many of its newest records a member takes the share of dead letters."""

    dead_letter_share_max: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Beyond this share the member ends; 1 parks whatever comes."""
