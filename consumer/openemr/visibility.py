"""Which of our rows OpenEMR's FHIR API shows, and a count of what it and the screens show."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Final

import sqlalchemy as sa

from consumer.openemr.behaviour import SERVICE_REQUEST, UNKNOWN
from consumer.openemr.visibility_counts import COUNTS

UUIDS_PER_STATEMENT_MAX: Final = 500
"""MariaDB turns a list of 1,000 values into a subquery, and reads the table instead of its index."""

_NO_UUID: Final = bytes(16)  # OpenEMR takes it for a missing uuid and overwrites it

PATIENTS: Final = """
    SELECT p.uuid
    FROM patient_data AS p
    JOIN uuid_registry AS r ON r.uuid = p.uuid AND r.table_name = 'patient_data'
    WHERE p.uuid IN %s
"""

# No index leads with the encounter number. (pid, encounter) finds a second bearer of the same patient; the window
# finds one of another patient, and a second row in `forms`, among the encounters asked for.
ENCOUNTERS_FHIR: Final = """
    SELECT found.uuid
    FROM (
        SELECT e.uuid, COUNT(*) OVER (PARTITION BY e.encounter) AS bearers
        FROM form_encounter AS e
        JOIN patient_data AS p ON p.pid = e.pid AND p.uuid IS NOT NULL
        JOIN openemr_postcalendar_categories AS c ON c.pc_catid = e.pc_catid
        WHERE e.uuid IN %s AND e.date IS NOT NULL AND e.encounter IS NOT NULL
          AND NOT EXISTS (
              SELECT 1 FROM form_encounter AS x WHERE x.pid = e.pid AND x.encounter = e.encounter AND x.id <> e.id
          )
    ) AS found
    WHERE found.bearers = 1
"""

# Encounter 0 is "none named", which FHIR shows without a reference; a number that leads nowhere is our mistake.
ORDERS_FHIR: Final = """
    SELECT DISTINCT o.uuid
    FROM procedure_order AS o
    JOIN patient_data AS p ON p.pid = o.patient_id AND p.uuid IS NOT NULL
    JOIN procedure_order_code AS c ON c.procedure_order_id = o.procedure_order_id
    LEFT JOIN form_encounter AS e ON e.encounter = o.encounter_id AND e.pid = o.patient_id
    WHERE o.uuid IN %s AND o.activity = 1 AND (o.encounter_id = 0 OR e.id IS NOT NULL)
"""

# An inactive one is shown too, with status stopped, whether it was deleted or revoked.
PRESCRIPTIONS_FHIR: Final = """
    SELECT r.uuid
    FROM prescriptions AS r
    JOIN patient_data AS p ON p.pid = r.patient_id AND p.uuid IS NOT NULL
    WHERE r.uuid IN %s AND r.drug <> ''
"""

_VERSION: Final = "SELECT v_major, v_minor, v_patch FROM version LIMIT 1"
_ORDER_COLUMNS: Final = """
    SELECT column_name FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'procedure_order'
"""


@dataclasses.dataclass(frozen=True, slots=True)
class VisibleCount:
    """Of the live rows that our ledger maps, those that the screens and FHIR show, and those that FHIR shows.

    fhir is None when this OpenEMR's FHIR API has no such resource.
    """

    mapped: int
    screens: int
    fhir: int | None


def visible_patients(connection: sa.Connection, uuids: Iterable[bytes]) -> frozenset[bytes]:
    """Return those of the uuids whose patients FHIR shows, and the patient finder as well."""
    return _visible(connection, PATIENTS, uuids)


def visible_encounters(connection: sa.Connection, uuids: Iterable[bytes]) -> frozenset[bytes]:
    """Return those of the uuids whose encounters FHIR shows.

    FHIR goes on showing an encounter that was taken off the screens by forms.deleted. A number that an encounter
    of another patient bears too is seen only among the uuids asked for together; count_visible sees all.
    """
    return _visible(connection, ENCOUNTERS_FHIR, uuids)


def visible_orders(connection: sa.Connection, uuids: Iterable[bytes]) -> frozenset[bytes]:
    """Return those of the uuids whose procedure orders FHIR shows, where the site has behaviour.SERVICE_REQUEST."""
    return _visible(connection, ORDERS_FHIR, uuids)


def visible_prescriptions(connection: sa.Connection, uuids: Iterable[bytes]) -> frozenset[bytes]:
    """Return those of the uuids whose prescriptions FHIR shows, as live or as stopped."""
    return _visible(connection, PRESCRIPTIONS_FHIR, uuids)


def count_visible(connection: sa.Connection, *, ledger_schema: str = "emr_sync") -> Mapping[str, VisibleCount]:
    """Count, for each kind of entity in the ledger's map, the live rows and those that OpenEMR shows.

    Kinds are patient, encounter, order and medication; a medication order that was revoked is shown as stopped.
    It reads every mapped row, and form_encounter once more for numbers borne twice: a report, not for a batch.
    """
    row = connection.exec_driver_sql(_VERSION).one_or_none() or UNKNOWN
    order_columns = connection.exec_driver_sql(_ORDER_COLUMNS).scalars().all()
    version = (int(row[0]), int(row[1]), int(row[2]))
    supported = SERVICE_REQUEST.shown_by(version, {"procedure_order": order_columns})
    ledger = connection.dialect.identifier_preparer.quote_identifier(ledger_schema)
    counts: dict[str, VisibleCount] = {}
    for kind, statement in COUNTS.items():
        mapped, screens, fhir = connection.exec_driver_sql(statement.replace("emr_sync", ledger)).one()
        shown = int(fhir) if kind != "order" or supported else None
        counts[kind] = VisibleCount(int(mapped), int(screens), shown)
    return counts


def _visible(connection: sa.Connection, statement: str, uuids: Iterable[bytes]) -> frozenset[bytes]:
    wanted = sorted(set(uuids) - {_NO_UUID})
    return frozenset(
        bytes(uuid)
        for start in range(0, len(wanted), UUIDS_PER_STATEMENT_MAX)
        for uuid in connection.exec_driver_sql(
            statement, (tuple(wanted[start : start + UUIDS_PER_STATEMENT_MAX]),)
        ).scalars()
    )
