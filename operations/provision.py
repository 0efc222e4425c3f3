"""Making the servers ready for the pipeline: schemas, accounts, topics, group, connector; safe to run again."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import sqlalchemy as sa

import connectors.accounts
import connectors.migrations
import consumer.openemr.account
import consumer.openemr.ledger_schema
import producer_app.migrations
from connectors.connect_errors import ConnectError
from connectors.connector_config import ConnectorConfigError, connector_config
from consumer.openemr.installation import InstallationError, install
from operations.config import OperationsSettings
from operations.connect import connect_client
from operations.database_errors import reason
from operations.errors import KafkaRefusedError, OperationError, ProvisionError
from operations.kafka import KafkaAdmin
from operations.kafka_group import GROUP_SETTINGS, GroupAdmin
from operations.source import connector_place, source_engine
from operations.topic_check import wanted_topics
from producer_app.errors import UnavailableError
from producer_app.tables import metadata as app_metadata

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Choices:
    """What a caller may choose.

    Attributes:
        openemr_version: create an OpenEMR-shaped database of this version where there are no tables; None for never.
        connector_limit_s: how long to wait for the connector to run.
    """

    openemr_version: str | None = None
    connector_limit_s: float = 60.0


def provision(settings: OperationsSettings, choices: Choices, *, report: Report) -> None:
    """Do every step that the settings allow, and say what was done; what is done already is left as it is.

    Without EMRSYNC_SOURCE_ADMIN_URL or EMRSYNC_OPENEMR_ADMIN_URL the steps on that server are left to its owner.

    Raises:
        ProvisionError: a step failed; it names the step and the reason.
        SettingsError: a variable that a step needs is not set.
    """
    settings.check("source_url", "kafka_bootstrap_servers", "connect_url", "cdc_user")
    if settings.source_admin_url is not None:
        settings.check("app_url", "cdc_password")
    if settings.openemr_admin_url is not None:
        settings.check("openemr_url")
    if settings.source_admin_url is None:
        report("source database: left as it is (EMRSYNC_SOURCE_ADMIN_URL is not set)")
    else:
        _source_schema(settings, report)
        _source_accounts(settings, report)
    if settings.openemr_admin_url is None:
        report("OpenEMR: left as it is (EMRSYNC_OPENEMR_ADMIN_URL is not set)")
    else:
        _openemr(settings, choices, report)
    _topics(settings, report)
    _group(settings, report)
    _connector(settings, choices, report)


@contextlib.contextmanager
def _step(name: str, report: Report) -> Iterator[Report]:
    """Report the lines of one step under its name, and name it when it fails."""
    report(f"{name} …")
    try:
        yield lambda line: report(f"{name}: {line}")
    except sa.exc.DBAPIError as error:
        raise ProvisionError(f"{name}: the database says: {reason(error)}") from error
    except (
        connectors.accounts.AccountsError,
        connectors.migrations.MigrationError,
        ConnectError,
        ConnectorConfigError,
        InstallationError,
        OperationError,
        UnavailableError,
    ) as error:
        raise ProvisionError(f"{name}: {error}") from error
    report(f"{name}: ready")


def _source_schema(settings: OperationsSettings, report: Report) -> None:
    url = settings.text("source_admin_url")
    with _step("outbox schema", report) as say:
        connectors.migrations.upgrade(url, report=say)
    with _step("application schema", report):
        producer_app.migrations.upgrade(url)


def _source_accounts(settings: OperationsSettings, report: Report) -> None:
    accounts = connectors.accounts.SourceAccounts(
        app=_login(settings, "app_url"),
        cdc=connectors.accounts.Login(settings.text("cdc_user"), settings.text("cdc_password")),
        marker=_login(settings, "source_url"),
        app_tables=tuple(sorted(app_metadata.tables)),
    )
    engine = sa.create_engine(settings.text("source_admin_url"), poolclass=sa.NullPool, hide_parameters=True)
    with _step("source accounts", report) as say, engine.connect() as connection:
        connectors.accounts.apply(connection, accounts, report=say)


def _openemr(settings: OperationsSettings, choices: Choices, report: Report) -> None:
    url = settings.text("openemr_admin_url")
    database = settings.database_url("openemr_url").database or "openemr"
    with _step("OpenEMR database", report) as say:
        if not _is_empty(url, database):
            say("has tables and is left as it is")
        elif choices.openemr_version is None:
            raise ProvisionError(
                f"database {database} has no tables: install OpenEMR into it, or give --openemr-version for a database"
                " of its shape"
            )
        else:
            install(url, version=choices.openemr_version, database=database)
            say(f"created with the tables and first rows of version {choices.openemr_version}")
    with _step("ledger schema", report):
        consumer.openemr.ledger_schema.upgrade(url, schema=settings.ledger_schema)
    writer = _login(settings, "openemr_url")
    with _step("OpenEMR writer account", report):
        consumer.openemr.account.apply(
            url,
            user=writer.user,
            password=writer.password,
            database=database,
            ledger_schema=settings.ledger_schema,
            patient_removal=settings.openemr_patient_deletes == "remove",
        )


def _is_empty(admin_url: str, database: str) -> bool:
    engine = sa.create_engine(admin_url, poolclass=sa.NullPool, hide_parameters=True)
    count = "SELECT count(*) FROM information_schema.tables WHERE table_schema = :database"
    with engine.connect() as connection:
        return bool(connection.scalar(sa.text(count), {"database": database}) == 0)


def _login(settings: OperationsSettings, name: str) -> connectors.accounts.Login:
    url = settings.database_url(name)
    if not url.username or url.password is None:
        raise ProvisionError(f"EMRSYNC_{name.upper()}: must hold user and password of the account to be made")
    return connectors.accounts.Login(url.username, str(url.password))


def _topics(settings: OperationsSettings, report: Report) -> None:
    with _step("topics", report) as say:
        asked = settings.database_url("source_admin_url" if settings.source_admin_url else "source_url")
        wanted = wanted_topics(settings, source_engine(asked))
        for drift in KafkaAdmin(settings.text("kafka_bootstrap_servers")).ensure_topics(wanted, report=say):
            say(f"{drift}; it is left as it is, change it with Kafka's own tools if that is not meant")


def _group(settings: OperationsSettings, report: Report) -> None:
    with _step("consumer group", report) as say:
        try:
            kafka = GroupAdmin(settings.text("kafka_bootstrap_servers"))
            kafka.ensure_settings(settings.consumer_group, GROUP_SETTINGS, report=say)
        except KafkaRefusedError as error:
            # It works by the brokers' own settings too, only slower when members come and go.
            say(f"left as the brokers have it: {error}")


def _connector(settings: OperationsSettings, choices: Choices, report: Report) -> None:
    with _step("connector", report) as say, connect_client(settings, retry_limit_s=15.0) as client:
        asked = settings.database_url("source_admin_url") if settings.source_admin_url else None
        config = connector_config(connector_place(settings, asked_url=asked))
        seen = client.apply(settings.connector_name, config, limit_s=choices.connector_limit_s)
        say(f"{settings.connector_name}: {seen.summary}")
