"""One statement per kind: live rows that our ledger maps, shown by screens and FHIR, shown by FHIR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_PATIENTS: Final = """
    SELECT COUNT(*), COUNT(r.uuid), COUNT(r.uuid)
    FROM emr_sync.entity_map AS m
    LEFT JOIN patient_data AS p ON p.uuid = m.uuid AND p.pid = m.local_id AND p.uuid <> UNHEX(REPEAT('00', 16))
    LEFT JOIN uuid_registry AS r ON r.uuid = p.uuid AND r.table_name = 'patient_data'
    WHERE m.kind = 'patient' AND m.local_id IS NOT NULL AND m.deleted_at IS NULL
"""

_ENCOUNTERS: Final = """
    SELECT COUNT(*), COALESCE(SUM(fhir AND forms = 1), 0), COALESCE(SUM(fhir), 0)
    FROM (
        SELECT c.pc_catid IS NOT NULL AND twice.encounter IS NULL AS fhir, (
            SELECT COUNT(*) FROM forms AS f
            WHERE f.pid = e.pid AND f.encounter = e.encounter AND f.form_id = e.id
              AND f.formdir = 'newpatient' AND f.deleted = 0 AND f.therapy_group_id IS NULL
        ) AS forms
        FROM emr_sync.entity_map AS m
        LEFT JOIN form_encounter AS e ON e.uuid = m.uuid AND e.id = m.row_id AND e.encounter = m.local_id
          AND e.date IS NOT NULL AND e.uuid <> UNHEX(REPEAT('00', 16))
        LEFT JOIN patient_data AS p ON p.pid = e.pid AND p.uuid IS NOT NULL
        LEFT JOIN openemr_postcalendar_categories AS c ON c.pc_catid = e.pc_catid AND p.pid IS NOT NULL
        LEFT JOIN (
            SELECT encounter FROM form_encounter GROUP BY encounter HAVING COUNT(*) > 1
        ) AS twice ON twice.encounter = e.encounter
        WHERE m.kind = 'encounter' AND m.local_id IS NOT NULL AND m.deleted_at IS NULL
    ) AS mapped
"""

_ORDERS: Final = """
    SELECT COUNT(*), COALESCE(SUM(shown AND with_encounter AND with_form), 0),
      COALESCE(SUM(shown AND (with_encounter OR encounter_id = 0)), 0)
    FROM (
        SELECT p.pid IS NOT NULL
          AND EXISTS (
              SELECT 1 FROM procedure_order_code AS c WHERE c.procedure_order_id = o.procedure_order_id
          ) AS shown,
          o.encounter_id,
          EXISTS (
              SELECT 1 FROM form_encounter AS e WHERE e.pid = o.patient_id AND e.encounter = o.encounter_id
          ) AS with_encounter,
          EXISTS (
              SELECT 1 FROM forms AS f WHERE f.form_id = o.procedure_order_id AND f.formdir = 'procedure_order'
                AND f.pid = o.patient_id AND f.deleted = 0
          ) AS with_form
        FROM emr_sync.entity_map AS m
        LEFT JOIN procedure_order AS o ON o.uuid = m.uuid AND o.procedure_order_id = m.local_id
          AND o.activity = 1 AND o.uuid <> UNHEX(REPEAT('00', 16))
        LEFT JOIN patient_data AS p ON p.pid = o.patient_id AND p.uuid IS NOT NULL
        WHERE m.kind = 'order' AND m.local_id IS NOT NULL AND m.deleted_at IS NULL
    ) AS mapped
"""

PRESCRIPTION_LISTED: Final = "r.active = 1 AND r.drug <> ''"
"""What the list of prescriptions asks of a row r."""

_PRESCRIPTIONS: Final = f"""
    SELECT COUNT(*), COALESCE(SUM(p.pid IS NOT NULL AND {PRESCRIPTION_LISTED}), 0), COUNT(p.pid)
    FROM emr_sync.entity_map AS m
    LEFT JOIN prescriptions AS r ON r.uuid = m.uuid AND r.id = m.local_id AND r.drug <> ''
      AND r.uuid <> UNHEX(REPEAT('00', 16))
    LEFT JOIN patient_data AS p ON p.pid = r.patient_id AND p.uuid IS NOT NULL
    WHERE m.kind = 'medication' AND m.local_id IS NOT NULL AND m.deleted_at IS NULL
"""  # noqa: S608 - words are ours

COUNTS: Final[Mapping[str, str]] = {
    "patient": _PATIENTS,
    "encounter": _ENCOUNTERS,
    "order": _ORDERS,
    "medication": _PRESCRIPTIONS,
}
"""By the ledger's kind; each gives three numbers, and the ledger's schema is spelled emr_sync."""
