"""The database account of the writer: the tables and verbs it needs on OpenEMR's server, and the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from consumer.openemr.chart import CHART_TABLES
from consumer.openemr.ledger_schema import SCHEMA, checked_schema

# DELETE only where a delete of the application removes a row: encounters that nothing hangs on.
_WRITTEN: Final = {
    "patient_data": "SELECT, INSERT, UPDATE",
    "form_encounter": "SELECT, INSERT, UPDATE, DELETE",
    "forms": "SELECT, INSERT, UPDATE, DELETE",
    "procedure_order": "SELECT, INSERT, UPDATE",
    "procedure_order_code": "SELECT, INSERT, UPDATE",
    "procedure_type": "SELECT, INSERT, UPDATE",
    "prescriptions": "SELECT, INSERT, UPDATE",
    "uuid_registry": "SELECT, INSERT",
    "sequences": "SELECT, UPDATE",
}
_READ: Final = (
    "version",
    "globals",
    "users",
    "groups",
    "facility",
    "list_options",
    "openemr_postcalendar_categories",
    "billing",
    "issue_encounter",
)
_LEDGER: Final = {
    "applied_event": "SELECT, INSERT",
    "entity_map": "SELECT, INSERT, UPDATE",
    "stream_position": "SELECT, INSERT, UPDATE",
    "waiting_event": "SELECT, INSERT, UPDATE, DELETE",
    "id_block": "SELECT, UPDATE",
    "dead_letter_action": "SELECT, INSERT",
    "trail": "SELECT, INSERT",
    "site_state": "SELECT, UPDATE",
    "replay_run": "SELECT, INSERT, UPDATE",
    "recovery_action": "SELECT, INSERT",
    "resync_run": "SELECT, INSERT, UPDATE",
}


def apply(
    admin_url: str,
    *,
    user: str,
    password: str,
    database: str = "openemr",
    ledger_schema: str = SCHEMA,
    host: str = "%",
    patient_removal: bool = False,
) -> None:
    """Create the account or reset its password, and grant what it needs; harmless when repeated.

    patient_removal: also what the removal of patients needs: DELETE of them, and to read what may hang on them.
    Both schemas must be there, since the grants name their tables.

    admin_url is a SQLAlchemy URL of an account with GRANT OPTION. Host '%' lets it come from any address; narrow it.
    """
    rights = grants(database, ledger_schema)
    engine = sa.create_engine(admin_url)
    place = _quoted(database)
    try:
        with engine.begin() as connection:
            account = "%s@%s"
            connection.exec_driver_sql(f"CREATE USER IF NOT EXISTS {account} IDENTIFIED BY %s", (user, host, password))
            connection.exec_driver_sql(f"ALTER USER {account} IDENTIFIED BY %s", (user, host, password))
            for right in rights:
                connection.exec_driver_sql(f"{right} TO {account}", (user, host))
            if patient_removal:
                connection.exec_driver_sql(f"GRANT DELETE ON {place}.patient_data TO {account}", (user, host))
                for table in _chart_tables(connection, database):
                    connection.exec_driver_sql(f"GRANT SELECT ON {place}.{table} TO {account}", (user, host))
    finally:
        engine.dispose()


def grants(database: str = "openemr", ledger_schema: str = SCHEMA) -> Sequence[str]:
    """Return the account's rights, each as a GRANT that lacks only TO and the account."""
    written = [(database, table, verbs) for table, verbs in _WRITTEN.items()]
    read = [(database, table, "SELECT") for table in _READ]
    # Table by table: in a grant on a whole schema the _ of its name stands for any character.
    ledger = [(checked_schema(ledger_schema), table, verbs) for table, verbs in _LEDGER.items()]
    return [f"GRANT {verbs} ON {_quoted(place)}.{_quoted(table)}" for place, table, verbs in (*written, *read, *ledger)]


def _quoted(name: str) -> str:
    doubled = name.replace("`", "``").replace("%", "%%")
    return f"`{doubled}`"


def _chart_tables(connection: sa.Connection, database: str) -> Sequence[str]:
    rows = connection.exec_driver_sql(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = %s AND table_name IN %s",
        (database, tuple(CHART_TABLES)),
    )
    return [str(row[0]) for row in rows]


def written_tables() -> frozenset[str]:
    """Return the tables of OpenEMR that the account may change."""
    return frozenset(_WRITTEN)
