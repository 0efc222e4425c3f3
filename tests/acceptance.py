"""Hand-written questions to an OpenEMR database: does it show this one row? One means yes."""

from __future__ import annotations

import sqlalchemy as sa

_PATIENT = """
    SELECT COUNT(*) FROM patient_data p JOIN uuid_registry r ON r.uuid=p.uuid AND r.table_name='patient_data'
    WHERE p.pubpid=%s AND p.uuid<>UNHEX(REPEAT('00',16))
"""

_ENCOUNTER = """
    SELECT COUNT(*) FROM form_encounter e JOIN patient_data p ON p.pid=e.pid AND p.uuid IS NOT NULL
    JOIN forms f ON f.pid=e.pid AND f.encounter=e.encounter AND f.form_id=e.id AND f.formdir='newpatient'
    AND f.deleted=0 AND f.therapy_group_id IS NULL
    JOIN openemr_postcalendar_categories c ON c.pc_catid=e.pc_catid
    WHERE e.uuid=%s AND e.date IS NOT NULL
    AND (SELECT COUNT(*) FROM form_encounter x WHERE x.encounter=e.encounter)=1
"""

_ENCOUNTER_IN_FHIR = """
    SELECT COUNT(*) FROM form_encounter e JOIN patient_data p ON p.pid=e.pid AND p.uuid IS NOT NULL
    JOIN openemr_postcalendar_categories c ON c.pc_catid=e.pc_catid
    WHERE e.uuid=%s AND e.date IS NOT NULL
    AND (SELECT COUNT(*) FROM form_encounter x WHERE x.encounter=e.encounter)=1
"""

_ORDER = """
    SELECT COUNT(DISTINCT o.procedure_order_id)
    FROM procedure_order o JOIN patient_data p ON p.pid=o.patient_id AND p.uuid IS NOT NULL
    JOIN procedure_order_code c ON c.procedure_order_id=o.procedure_order_id
    JOIN form_encounter e ON e.encounter=o.encounter_id AND e.pid=o.patient_id
    JOIN forms f ON f.form_id=o.procedure_order_id AND f.formdir='procedure_order'
    AND f.pid=o.patient_id AND f.deleted=0
    WHERE o.uuid=%s AND o.activity=1
"""

_ORDER_IN_FHIR = """
    SELECT COUNT(DISTINCT o.procedure_order_id)
    FROM procedure_order o JOIN patient_data p ON p.pid=o.patient_id AND p.uuid IS NOT NULL
    JOIN procedure_order_code c ON c.procedure_order_id=o.procedure_order_id
    JOIN form_encounter e ON e.encounter=o.encounter_id AND e.pid=o.patient_id
    WHERE o.uuid=%s AND o.activity=1
"""

_PRESCRIPTION = """
    SELECT COUNT(*) FROM prescriptions r JOIN patient_data p ON p.pid=r.patient_id AND p.uuid IS NOT NULL
    WHERE r.uuid=%s AND r.drug<>'' AND r.active=1
"""


def patient_shown(connection: sa.Connection, external_id: str) -> int:
    """Count the patient on the screens and in FHIR."""
    return _count(connection, _PATIENT, external_id)


def encounter_shown(connection: sa.Connection, uuid: bytes) -> int:
    """Count the encounter on the screens and in FHIR."""
    return _count(connection, _ENCOUNTER, uuid)


def encounter_in_fhir(connection: sa.Connection, uuid: bytes) -> int:
    """Count the encounter in FHIR, which does not ask for the row in `forms`."""
    return _count(connection, _ENCOUNTER_IN_FHIR, uuid)


def order_shown(connection: sa.Connection, uuid: bytes) -> int:
    """Count the procedure order on the screens and in FHIR (7.0.4 and later)."""
    return _count(connection, _ORDER, uuid)


def order_in_fhir(connection: sa.Connection, uuid: bytes) -> int:
    """Count the procedure order in FHIR, if it names an encounter."""
    return _count(connection, _ORDER_IN_FHIR, uuid)


def prescription_shown(connection: sa.Connection, uuid: bytes) -> int:
    """Count the live prescription on the screens and in FHIR."""
    return _count(connection, _PRESCRIPTION, uuid)


def _count(connection: sa.Connection, question: str, key: str | bytes) -> int:
    return int(connection.exec_driver_sql(question, (key,)).scalar_one())
