"""What operator commands read from the environment; each command asks only for what it needs."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from typing import Literal, Self

import pydantic
import sqlalchemy as sa

from connectors.config import PREFIX, MetricsSettings, SettingsError
from connectors.connector_config import CONNECTOR_NAME
from connectors.events import RECORD_BYTES_MAX
from connectors.topics import BROKER_DEFAULT, MESSAGE_BYTES_MAX, PARTITIONS
from connectors.topics import PREFIX as TOPIC_PREFIX

_HOW = 'set what is missing, or eval "$(emrsync stack env)" for the servers of this machine'


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"  # a container may run as a number that has no name


class OperationsSettings(MetricsSettings):
    """Every address and account of the pipeline; all optional, as operators see only a part of it.

    Attributes:
        source_url: the source database by the marker account.
        source_admin_url: the same by an administrator; only provisioning uses it.
        app_url: the same by the application's account.
        openemr_url: the OpenEMR database by the writer account.
        openemr_admin_url: the same by an administrator; only provisioning uses it.
        cdc_host, cdc_port, cdc_database: the source database as the connector's worker sees it, from source_url when
            not given.
        connect_url: one or several workers of a group, separated by commas.
        source_log_bytes_max, source_log_hours_min: beyond them what the source keeps for the connector is a finding.
        source_log_disk_bytes: what the source's disk has for its log, where the source itself sets no limit.
        cdc_tls_mode: in the words of the connector's driver.
        group_assignor: how the members have partitions dealt out.
        operator: who is remembered as having decided something; the user of the operating system when not given.
        record_bytes_max: the consumers' own limit.
    """

    source_url: pydantic.SecretStr | None = None
    source_admin_url: pydantic.SecretStr | None = None
    app_url: pydantic.SecretStr | None = None
    openemr_url: pydantic.SecretStr | None = None
    openemr_admin_url: pydantic.SecretStr | None = None
    kafka_bootstrap_servers: str | None = None
    consumer_group: str = "emrsync"
    group_assignor: Literal["uniform", "range"] = "uniform"
    topic_prefix: str = TOPIC_PREFIX
    kafka_partitions: int = pydantic.Field(default=PARTITIONS, ge=1, le=1_000)
    kafka_replication_factor: int = pydantic.Field(default=BROKER_DEFAULT, ge=-1)
    kafka_min_insync_replicas: int = pydantic.Field(default=1, ge=1)
    openemr_patient_deletes: Literal["keep", "remove"] = "keep"
    ledger_schema: str = pydantic.Field(default="emr_sync", pattern=r"^[a-z][a-z0-9_]{0,47}$")  # stands in SQL
    connect_url: str | None = None
    connect_user: str | None = None
    connect_password: pydantic.SecretStr | None = None
    connector_name: str = CONNECTOR_NAME
    cdc_user: str | None = None
    cdc_password: pydantic.SecretStr | None = None
    cdc_host: str | None = None
    cdc_port: int | None = pydantic.Field(default=None, ge=1, le=65_535)
    cdc_database: str | None = None
    cdc_tls_mode: str | None = None
    cdc_slot: str = "emrsync"
    cdc_server_id: int = pydantic.Field(default=519_860, ge=1, le=4_294_967_295)
    source_log_bytes_max: int = pydantic.Field(default=512 * 1024**2, ge=1_048_576)
    source_log_hours_min: float = pydantic.Field(default=4.0, gt=0)
    source_log_disk_bytes: int | None = pydantic.Field(default=None, ge=1_048_576)
    operator: str = pydantic.Field(default_factory=_user, min_length=1)
    record_bytes_max: int = pydantic.Field(default=RECORD_BYTES_MAX, ge=1_024, le=MESSAGE_BYTES_MAX)

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> Self:
        """Read settings from the variables given, and the environment for the rest."""
        named = {name.removeprefix(PREFIX).lower(): value for name, value in variables.items()}
        return cls.read(**{name: value for name, value in named.items() if name in cls.model_fields})

    def text(self, name: str) -> str:
        """Return a setting that the command cannot do without.

        Raises:
            SettingsError: it is not set.
        """
        value = getattr(self, name)
        if value is None:
            raise SettingsError(f"{PREFIX}{name.upper()} is not set: {_HOW}")
        return value.get_secret_value() if isinstance(value, pydantic.SecretStr) else str(value)

    def check(self, *names: str) -> None:
        """Raise SettingsError with every one of these settings that is not set, before anything is begun."""
        absent = [f"{PREFIX}{name.upper()}" for name in names if getattr(self, name) is None]
        if absent:
            raise SettingsError(f"not set: {', '.join(absent)}; {_HOW}")

    def database_url(self, name: str) -> sa.URL:
        """Return a database setting as a SQLAlchemy URL.

        Raises:
            SettingsError: it is not set, or is no URL.
        """
        try:
            return sa.make_url(self.text(name))
        except sa.exc.ArgumentError:
            # The cause would show the text, which may hold a password.
            raise SettingsError(
                f"{PREFIX}{name.upper()} is no SQLAlchemy URL (dialect+driver://user@host/db)"
            ) from None
