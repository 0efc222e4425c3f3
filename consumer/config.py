"""Settings of the consumer, from EMRSYNC_… variables."""

from __future__ import annotations

import socket
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from connectors.config import Settings

Word = Annotated[str, Field(min_length=1)]


class ConsumerSettings(Settings):
    """What one member needs to run."""

    openemr_url: pydantic.SecretStr
    """SQLAlchemy URL of OpenEMR's database, account of the writer."""

    source_url: pydantic.SecretStr
    """SQLAlchemy URL of the application's database, account of the marker."""

    kafka_bootstrap_servers: Word
    """Comma-separated host:port."""

    topic_prefix: Word = "emrsync"
    """First part of the names of all topics."""

    consumer_group: Word = "emrsync"
    """Kafka group, and the ledger's name for its positions."""

    client_id: Word = Field(default_factory=socket.gethostname)
    """How this member shows up in the broker's logs and in group descriptions."""

    group_protocol: Literal["consumer", "classic"] = "consumer"
    """KIP-848, or the classic protocol for brokers before 4.0."""

    ledger_schema: Word = "emr_sync"
    """Schema of the ledger on OpenEMR's server."""

    openemr_username: Word = "emrsync"
    """The users row that our rows name as their author."""

    openemr_time_zone: str | None = None
    """IANA zone of the site, when OpenEMR's own global gbl_time_zone is not set."""

    openemr_facility: Word | None = None
    """Name of the facility of encounters that name none; OpenEMR's primary one when unset."""

    openemr_fallbacks: dict[str, str] = Field(default_factory=dict)
    """By coded field, the option id to write for a value that the site has no option for; JSON."""

    openemr_patient_deletes: Literal["keep", "remove"] = "keep"
    """What a patient's delete does: keep the chart, or remove the patient on whom nothing hangs."""

    batch_records_max: Annotated[int, Field(ge=1, le=500)] = 500
    """Most events of one transaction."""

    parent_wait_seconds: Annotated[float, Field(ge=0, le=30 * 86_400)] = 10.0
    """How long an event waits for its parent before its row says failed; it is applied whenever the parent comes."""

    log_format: Literal["console", "json"] = "json"
    """How log lines look on standard error."""
