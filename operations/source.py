"""Which source database there is, and where the connector finds it."""

from __future__ import annotations

import sqlalchemy as sa

from connectors.config import SettingsError
from connectors.connector_config import ConnectorPlace, SourceEngine
from operations.config import OperationsSettings

_PORTS = {SourceEngine.POSTGRESQL: 5432, SourceEngine.MYSQL: 3306, SourceEngine.MARIADB: 3306}


def source_engine(url: sa.URL) -> SourceEngine:
    """Tell the engine by the URL, and MySQL from MariaDB, which share a dialect, by asking the server.

    Raises:
        SettingsError: the pipeline has no connector for the dialect.
        sqlalchemy.exc.OperationalError: the server had to be asked and does not answer.
    """
    backend = url.get_backend_name()
    if backend != "mysql":
        try:
            return SourceEngine(backend)
        except ValueError:
            raise SettingsError(f"EMRSYNC_SOURCE_URL: {backend} is none of {', '.join(SourceEngine)}") from None
    engine = sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True)
    with engine.connect() as connection:
        version = str(connection.scalar(sa.text("SELECT VERSION()")))
    return SourceEngine.MARIADB if "mariadb" in version.lower() else SourceEngine.MYSQL


def connector_place(settings: OperationsSettings, *, asked_url: sa.URL | None = None) -> ConnectorPlace:
    """Return what the connector's template is filled with.

    Args:
        settings: EMRSYNC_SOURCE_URL, EMRSYNC_CDC_USER and EMRSYNC_KAFKA_BOOTSTRAP_SERVERS must be set.
        asked_url: by which account the server is asked for its kind, the marker's when None.
    """
    url = settings.database_url("source_url")
    engine = source_engine(asked_url or url)
    return ConnectorPlace(
        engine=engine,
        host=settings.cdc_host or url.host or "127.0.0.1",
        port=settings.cdc_port or url.port or _PORTS[engine],
        database=settings.cdc_database or url.database or "",
        user=settings.text("cdc_user"),
        kafka_bootstrap_servers=settings.text("kafka_bootstrap_servers"),
        topic_prefix=settings.topic_prefix,
        slot=settings.cdc_slot,
        server_id=settings.cdc_server_id,
        tls_mode=settings.cdc_tls_mode,
    )
