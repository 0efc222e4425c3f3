"""The connector's configuration for one source database, filled into the template of its engine."""

from __future__ import annotations

import dataclasses
import enum
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Final

from connectors.topics import PREFIX

CONNECTOR_NAME: Final = "emrsync-outbox"

_PLACEHOLDER: Final = re.compile(r"@([A-Z][A-Z0-9_]*)@")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+")


class ConnectorConfigError(ValueError):
    """A template cannot be filled; the message names the placeholder or value."""


class SourceEngine(enum.StrEnum):
    """Which database the application uses; there is one template for each."""

    POSTGRESQL = "postgresql"
    MYSQL = "mysql"
    MARIADB = "mariadb"


_TLS_MODES: Final[Mapping[SourceEngine, str]] = {
    SourceEngine.POSTGRESQL: "prefer",
    SourceEngine.MYSQL: "preferred",
    SourceEngine.MARIADB: "disable",
}


@dataclasses.dataclass(frozen=True, slots=True)
class ConnectorPlace:
    """Where one connector reads and writes, as its worker sees it; the password is not here but at the worker.

    Attributes:
        engine: which template.
        host: the source database's host.
        port: and its port.
        database: the database that holds sync_outbox.
        user: the cdc account.
        kafka_bootstrap_servers: for signals, and for the schema history of MySQL and MariaDB.
        topic_prefix: first part of the topics; the connector's positions hang on it.
        slot: the replication slot (PostgreSQL), one per connector.
        server_id: unique among all that read this server's binlog (MySQL, MariaDB).
        tls_mode: in the driver's own words; None for TLS where the server offers it, as far as the driver can.
    """

    engine: SourceEngine
    host: str
    port: int
    database: str
    user: str
    kafka_bootstrap_servers: str
    topic_prefix: str = PREFIX
    slot: str = "emrsync"
    server_id: int = 519_860
    tls_mode: str | None = None


def connector_config(place: ConnectorPlace) -> dict[str, str]:
    """Return the configuration that Kafka Connect is given.

    Raises:
        ConnectorConfigError: database or prefix cannot be used in the connector's patterns.
    """
    for name in ("database", "topic_prefix"):
        if not _PLAIN.fullmatch(getattr(place, name)):
            # Both stand in regular expressions of the connector.
            raise ConnectorConfigError(f"{name} may hold letters, digits, _ and - only")
    values = {
        "CDC_HOST": place.host,
        "CDC_PORT": str(place.port),
        "CDC_DATABASE": place.database,
        "CDC_USER": place.user,
        "CDC_SERVER_ID": str(place.server_id),
        "CDC_TLS_MODE": place.tls_mode or _TLS_MODES[place.engine],
        "KAFKA_BOOTSTRAP_SERVERS": place.kafka_bootstrap_servers,
        "TOPIC_PREFIX": place.topic_prefix,
        "SLOT": place.slot,
    }
    return fill(template(place.engine), values)


def template(engine: SourceEngine) -> dict[str, str]:
    """Return the template of one engine, with its @NAME@ placeholders."""
    text = resources.files("connectors.connect").joinpath(f"outbox-{engine}.json").read_text(encoding="utf-8")
    read: dict[str, str] = json.loads(text)
    return read


def fill(unfilled: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """Replace @NAME@ in keys and values; ${…} is Connect's own and stays.

    Raises:
        ConnectorConfigError: a placeholder has no value, or an empty one.
    """

    def replace(text: str) -> str:
        for name in _PLACEHOLDER.findall(text):
            if not values.get(name):
                raise ConnectorConfigError(f"the connector's template needs a value for {name}")
        return _PLACEHOLDER.sub(lambda match: values[match[1]], text)

    return {replace(key): replace(value) for key, value in unfilled.items()}
