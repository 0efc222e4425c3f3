"""What hangs on a patient in OpenEMR, for the one mode in which a patient's delete removes the row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import sqlalchemy as sa

from consumer.openemr.statements import select_in
from consumer.ports import MisconfiguredError

CHART_TABLES: Final[Mapping[str, str]] = {
    "form_encounter": "pid",
    "forms": "pid",
    "form_vitals": "pid",
    "procedure_order": "patient_id",
    "prescriptions": "patient_id",
    "lists": "pid",
    "issue_encounter": "pid",
    "immunizations": "patient_id",
    "transactions": "pid",
    "pnotes": "pid",
    "documents": "foreign_id",
    "history_data": "pid",
    "patient_history": "pid",
    "employer_data": "pid",
    "insurance_data": "pid",
    "patient_access_onsite": "pid",
    "billing": "pid",
    "ar_activity": "pid",
    "claims": "patient_id",
    "payments": "pid",
    "drug_sales": "pid",
}
"""Clinical, administrative and billing tables by the column that holds the pid; any row, inactive too, counts."""

NEWER: Final = frozenset({"patient_history"})
"""Of these, what 6.0.0 does not have."""


def chart_tables(connection: sa.Connection) -> Sequence[str]:
    """Return those of the tables that this site has.

    Raises:
        MisconfiguredError: one that every version has is not to be seen, so that its rows would not hold a patient.
    """
    rows = connection.exec_driver_sql(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name IN %s",
        (tuple(CHART_TABLES),),
    )
    found = {str(row[0]) for row in rows}
    if missing := sorted(CHART_TABLES.keys() - found - NEWER):
        message = (
            f"EMRSYNC_OPENEMR_PATIENT_DELETES is remove, and the account cannot read {', '.join(missing)}: "
            "run emrsync provision with the same setting"
        )
        raise MisconfiguredError(message)
    return tuple(table for table in CHART_TABLES if table in found)


def hanging(connection: sa.Connection, tables: Sequence[str], pids: Sequence[int]) -> Mapping[int, Sequence[str]]:
    """Return, by pid, the tables that hold rows of it."""
    found: dict[int, list[str]] = {}
    for table in tables:
        column = CHART_TABLES[table]
        sql = f"SELECT DISTINCT {column} FROM {table} WHERE {column} IN %s"  # noqa: S608 - names are ours
        for row in select_in(connection, sql, pids):
            found.setdefault(int(row[0]), []).append(table)
    return found
