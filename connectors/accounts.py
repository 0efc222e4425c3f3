"""The three accounts of the source database, each with the rights it needs and no others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from connectors.outbox import LAST_SYNCED

MARKED_COLUMNS: Final = (
    "status",
    "outcome",
    "retry_count",
    "next_attempt_at",
    "error_class",
    "error_message",
    "processed_at",
)
"""The columns of sync_outbox that the consumer may change."""


class AccountsError(Exception):
    """An account cannot be made or granted its rights; the message says why and never holds a password."""


@dataclasses.dataclass(frozen=True, slots=True)
class Login:
    """User name and password of one database account."""

    user: str
    password: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class SourceAccounts:
    """Who may do what in the source database.

    Attributes:
        app: reads and writes its own tables, and inserts into and reads the outbox.
        cdc: streams changes and reads the outbox; the connector's account.
        marker: reads the outbox, marks what became of a row, and signals; the account of consumers and operators.
        app_tables: the application's own tables, without the outbox.
        client_host: from where they connect (MySQL and MariaDB only), % is everywhere.
    """

    app: Login
    cdc: Login
    marker: Login
    app_tables: tuple[str, ...] = ()
    client_host: str = "%"


def apply(connection: sa.Connection, accounts: SourceAccounts, *, report: Callable[[str], None]) -> None:
    """Create or alter the accounts and grant their rights; running it again changes nothing but the passwords.

    The tables must exist; connection is an administrator's, and is committed.

    Raises:
        AccountsError: two accounts are one, or the database refuses.
    """
    _check_apart(connection, accounts)
    present = set(sa.inspect(connection).get_table_names())
    statements = _grants_of_postgresql if connection.dialect.name == "postgresql" else _grants_of_mysql
    try:
        for role, login in (("app", accounts.app), ("cdc", accounts.cdc), ("marker", accounts.marker)):
            _create(connection, login, accounts.client_host)
            report(f"account {login.user} ({role}) is set")
        for statement in statements(connection, accounts, present):
            connection.exec_driver_sql(statement)
        connection.commit()
    except sa.exc.DBAPIError as error:
        connection.rollback()
        # The full error would show the statement with what was bound into it.
        reason = str(error.orig).splitlines()[0]
        raise AccountsError(f"the database refuses to set the source accounts: {reason}") from None
    for clause in LAST_SYNCED.values():
        if clause.name not in present:
            report(f"no table {clause.name}: nothing of it is granted, and last_synced_at is not kept for it")


def _check_apart(connection: sa.Connection, accounts: SourceAccounts) -> None:
    users = [accounts.app.user, accounts.cdc.user, accounts.marker.user]
    if len(set(users)) != len(users):
        raise AccountsError(f"app, cdc and marker must be three accounts, but are {', '.join(users)}")
    own = str(connection.scalar(sa.text("SELECT CURRENT_USER"))).split("@", maxsplit=1)[0]
    if own in users:
        raise AccountsError(f"{own} is the administrator's own account; name another one for the pipeline")


def _create(connection: sa.Connection, login: Login, client_host: str) -> None:
    if connection.dialect.name != "postgresql":
        account = {"user": login.user, "host": client_host, "password": login.password}
        connection.execute(sa.text("CREATE USER IF NOT EXISTS :user@:host IDENTIFIED BY :password"), account)
        connection.execute(sa.text("ALTER USER :user@:host IDENTIFIED BY :password"), account)
        return
    user = connection.dialect.identifier_preparer.quote(login.user)
    exists = connection.scalar(sa.text("SELECT 1 FROM pg_roles WHERE rolname = :user"), {"user": login.user})
    # The server gets the verifier that it would store, so that no log of statements can hold the password.
    driver = connection.connection.driver_connection
    if driver is None:
        raise AccountsError("the connection to the database is closed")
    verifier = driver.pgconn.encrypt_password(login.password.encode(), login.user.encode()).decode("ascii")
    verb = "ALTER" if exists else "CREATE"
    connection.exec_driver_sql(f"{verb} ROLE {user} LOGIN PASSWORD '{verifier}'")


def _grants_of_postgresql(connection: sa.Connection, accounts: SourceAccounts, present: set[str]) -> list[str]:
    quote = connection.dialect.identifier_preparer.quote
    app, cdc, marker = (quote(login.user) for login in (accounts.app, accounts.cdc, accounts.marker))
    database = quote(str(connection.scalar(sa.text("SELECT current_database()"))))
    schema = quote(str(connection.scalar(sa.text("SELECT current_schema()"))))
    grants = [f"GRANT CONNECT ON DATABASE {database} TO {app}, {cdc}, {marker}"]
    grants += [f"GRANT USAGE ON SCHEMA {schema} TO {app}, {cdc}, {marker}"]
    grants += [f"GRANT SELECT, INSERT, UPDATE, DELETE ON {quote(table)} TO {app}" for table in accounts.app_tables]
    grants += [f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {app}"]
    grants += [f"GRANT SELECT, INSERT ON sync_outbox TO {app}"]
    # A slot is opened by REPLICATION alone; the snapshot reads the table.
    grants += [f"ALTER ROLE {cdc} REPLICATION", f"GRANT SELECT ON sync_outbox, sync_signal TO {cdc}"]
    # A worker that hangs, or whose connection died in silence, holds the slot until the server gives it up: sooner
    # than the 60 s of the default, and later than two of the connector's reports (status.update.interval.ms, 10 s).
    grants += [f"ALTER ROLE {cdc} SET wal_sender_timeout = '20s'"]
    return grants + _marker_grants(quote, marker, present)


def _grants_of_mysql(connection: sa.Connection, accounts: SourceAccounts, present: set[str]) -> list[str]:
    quote = connection.dialect.identifier_preparer.quote
    host = quote(accounts.client_host).replace("%", "%%")
    app, cdc, marker = (f"{quote(login.user)}@{host}" for login in (accounts.app, accounts.cdc, accounts.marker))
    grants = [f"GRANT SELECT, INSERT, UPDATE, DELETE ON {quote(table)} TO {app}" for table in accounts.app_tables]
    grants += [f"GRANT SELECT, INSERT ON sync_outbox TO {app}"]
    # RELOAD: the snapshot reads rows and binlog position under one short global lock; without it a row that is
    # committed between the two would never be sent.
    grants += [f"GRANT REPLICATION SLAVE, REPLICATION CLIENT, RELOAD ON *.* TO {cdc}"]
    grants += [f"GRANT SELECT ON {table} TO {cdc}" for table in ("sync_outbox", "sync_signal")]
    return [grant.replace("%%", "%") for grant in grants + _marker_grants(quote, marker, present)]


def _marker_grants(quote: Callable[[str], str], marker: str, present: set[str]) -> list[str]:
    grants = [
        f"GRANT SELECT ON sync_outbox TO {marker}",
        f"GRANT UPDATE ({', '.join(MARKED_COLUMNS)}) ON sync_outbox TO {marker}",
        # A signal is inserted, read by the connector in its log, and removed.
        f"GRANT SELECT, INSERT, DELETE ON sync_signal TO {marker}",
    ]
    for clause in LAST_SYNCED.values():
        if clause.name in present:
            key = next(column.name for column in clause.columns if column.name != "last_synced_at")
            rights = f"SELECT ({quote(key)}, last_synced_at), UPDATE (last_synced_at)"
            grants.append(f"GRANT {rights} ON {quote(clause.name)} TO {marker}")
    return grants
