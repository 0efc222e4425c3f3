"""Creating an OpenEMR-shaped database, or finding that it is already there."""

from __future__ import annotations

import contextlib
import zoneinfo
from collections.abc import Iterator

import sqlalchemy as sa

from consumer.openemr.installation.ddl import create_table, quoted_name
from consumer.openemr.installation.rows import Rows, initial_rows, version_rows
from consumer.openemr.installation.schema import InstallationError, Schema, VersionRow, read_schema

_LOCK_WAIT_SECONDS = 60

# NO_ZERO_DATE would refuse openemr_postcalendar_events up to 8.0.0, whose dates default to zero.
_SQL_MODE = "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"

_COLUMNS_PRESENT = sa.text("""
    SELECT table_name AS table_name, column_name AS column_name
    FROM information_schema.columns
    WHERE table_schema = DATABASE()
""")

_VERSION_ROWS = sa.text("SELECT v_major, v_minor, v_patch, v_realpatch, v_tag, v_database, v_acl FROM version")

# A lock's name has at most 64 characters, as many as a database's name alone may have.
_LOCK = sa.text("SELECT GET_LOCK(SHA1(CONCAT('emrsync installs ', DATABASE())), :wait_seconds)")
_UNLOCK = sa.text("SELECT RELEASE_LOCK(SHA1(CONCAT('emrsync installs ', DATABASE())))")


class OtherVersionError(InstallationError):
    """The database holds something else than the version asked for."""


class IncompleteDatabaseError(InstallationError):
    """The database is of the version asked for, but tables were removed from it."""


def install(admin_url: str, *, version: str, database: str = "openemr", time_zone: str = "UTC") -> None:
    """Make the database complete: tables and first rows of one version, one facility, three users.

    A complete database of that version, also one that OpenEMR itself installed, is left as it is, its time zone
    too. An installation that was cut off is finished. Installers of one database wait for each other.

    Args:
        admin_url: SQLAlchemy URL (mysql+pymysql) of an account that may create the database; its database is ignored.
        version: one of versions().
        database: the name of the database.
        time_zone: IANA name of the site's zone, for OpenEMR's global gbl_time_zone.

    Raises:
        UnknownVersionError: no facts are kept of the version.
        OtherVersionError: the database holds tables that are not this version's; nothing was changed.
        IncompleteDatabaseError: an installed database lacks tables; nothing was changed.
        InstallationError: the URL, the time zone or a lock stands in the way.
    """
    schema = read_schema(version)
    if time_zone not in zoneinfo.available_timezones():
        raise InstallationError(f"time zone {time_zone!r} is unknown; give an IANA name such as America/New_York")
    with _connected(admin_url, database) as connection, _locked(connection, database):
        if _is_complete(connection, schema, database):
            return
        for table in schema.tables:
            _run(connection, create_table(table))
        for rows in initial_rows(schema, time_zone=time_zone):
            _insert(connection, rows)
        _insert(connection, version_rows(schema))
        connection.commit()


@contextlib.contextmanager
def _connected(admin_url: str, database: str) -> Iterator[sa.Connection]:
    url = sa.make_url(admin_url)
    if url.get_driver_name() != "pymysql":
        raise InstallationError(f"the administrator's URL must begin with mysql+pymysql://, not {url.drivername}://")
    engine = sa.create_engine(url.set(database=None), poolclass=sa.NullPool, connect_args={"charset": "utf8mb4"})
    name = quoted_name(database)
    with engine.connect() as connection:
        _run(connection, f"SET SESSION sql_mode = '{_SQL_MODE}'")
        _run(connection, f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
        _run(connection, f"USE {name}")
        yield connection


@contextlib.contextmanager
def _locked(connection: sa.Connection, database: str) -> Iterator[None]:
    if connection.scalar(_LOCK, {"wait_seconds": _LOCK_WAIT_SECONDS}) != 1:
        raise InstallationError(f"another installation of {database} did not end within {_LOCK_WAIT_SECONDS} s")
    connection.commit()  # so that the next statement sees what the other installation left
    try:
        yield
    finally:
        connection.rollback()
        connection.execute(_UNLOCK)


def _is_complete(connection: sa.Connection, schema: Schema, database: str) -> bool:
    present: dict[str, set[str]] = {}
    for table_name, column_name in connection.execute(_COLUMNS_PRESENT):
        present.setdefault(table_name, set()).add(column_name)
    versions_present = [VersionRow(*row) for row in connection.execute(_VERSION_ROWS)] if "version" in present else []
    if not versions_present:
        _refuse_foreign_tables(present, schema, database)
        return False
    if versions_present != [schema.version_row]:
        raise OtherVersionError(
            f"database {database} holds OpenEMR {', '.join(map(str, versions_present))}, not {schema.version_row}: "
            "ask for that version, name another database or drop this one"
        )
    if missing := sorted(table.name for table in schema.tables if table.name not in present):
        raise IncompleteDatabaseError(f"database {database} lacks {', '.join(missing)}: restore it or drop it")
    return True


def _refuse_foreign_tables(present: dict[str, set[str]], schema: Schema, database: str) -> None:
    ours = {table.name: {column.name for column in table.columns} for table in schema.tables}
    if foreign := sorted(name for name, columns in present.items() if ours.get(name) != columns):
        raise OtherVersionError(
            f"database {database} holds tables that are not those of OpenEMR {schema.version} "
            f"({', '.join(foreign[:5])}): name another database or drop this one"
        )


def _run(connection: sa.Connection, statement: str) -> None:
    connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def _insert(connection: sa.Connection, rows: Rows) -> None:
    table = sa.table(rows.table, *map(sa.column, rows.columns))
    connection.execute(sa.insert(table), [dict(zip(rows.columns, row, strict=True)) for row in rows.values])
