"""Every place where OpenEMR shows our rows: its screens and FHIR searches, each as a query of ours."""

from __future__ import annotations

import dataclasses
from typing import Final

from consumer.openemr import visibility
from consumer.openemr.behaviour import PROCEDURE_WITHOUT_REPORT, SERVICE_REQUEST, Behaviour
from consumer.openemr.visibility_counts import PRESCRIPTION_LISTED


@dataclasses.dataclass(frozen=True, slots=True)
class Surface:
    """One screen or search.

    shown: a SELECT of one column, uuid IN %s, that gives a uuid as often as the place shows its row.
    due: a SELECT of the uuids that the place is meant for; None means all of the kind.
    since: what OpenEMR must do for the place to be there; None means that every version has it.
    deleted_shown: why the place goes on showing what was deleted; None means that it must not.
    """

    name: str
    kind: str
    shown: str
    due: str | None = None
    since: Behaviour | None = None
    deleted_shown: str | None = None


_KEPT_CHART: Final = "OpenEMR has no state for a deleted patient, and the chart stays"

_WITH_ENCOUNTER: Final = "SELECT uuid FROM procedure_order WHERE uuid IN %s AND encounter_id <> 0"

SURFACES: Final = (
    Surface(
        "patient finder",
        "patient",
        "SELECT p.uuid FROM patient_data AS p WHERE p.uuid IN %s",
        deleted_shown=_KEPT_CHART,
    ),
    Surface("FHIR Patient", "patient", visibility.PATIENTS, deleted_shown=_KEPT_CHART),
    Surface(
        "visit history",
        "encounter",
        """
        SELECT e.uuid FROM form_encounter AS e
        JOIN forms AS f ON f.pid = e.pid AND f.encounter = e.encounter AND f.formdir = 'newpatient' AND f.deleted = 0
        JOIN patient_data AS p ON p.pid = e.pid
        JOIN openemr_postcalendar_categories AS c ON c.pc_catid = e.pc_catid
        WHERE e.uuid IN %s AND (e.sensitivity IS NULL OR e.sensitivity = 'normal')
        """,
    ),
    Surface(
        "encounter summary",
        "encounter",
        """
        SELECT e.uuid FROM form_encounter AS e
        JOIN forms AS f ON f.form_id = e.id AND f.formdir = 'newpatient' AND f.encounter = e.encounter AND f.pid = e.pid
        WHERE e.uuid IN %s AND f.deleted = 0 AND f.therapy_group_id IS NULL
        """,
    ),
    Surface(
        "FHIR Encounter",
        "encounter",
        visibility.ENCOUNTERS_FHIR,
        deleted_shown="FHIR does not read forms.deleted, which is all that hides an encounter that other rows hang on",
    ),
    Surface(
        "order in its encounter",
        "order",
        """
        SELECT o.uuid FROM procedure_order AS o
        JOIN forms AS f ON f.form_id = o.procedure_order_id AND f.formdir = 'procedure_order'
          AND f.encounter = o.encounter_id AND f.pid = o.patient_id
        WHERE o.uuid IN %s AND f.deleted = 0
        """,
        due=_WITH_ENCOUNTER,
    ),
    Surface(
        "order list",
        "order",
        """
        SELECT o.uuid FROM procedure_order AS o
        JOIN patient_data AS p ON p.pid = o.patient_id
        JOIN form_encounter AS e ON e.pid = o.patient_id AND e.encounter = o.encounter_id
        WHERE o.uuid IN %s AND o.activity = 1
          AND EXISTS (SELECT 1 FROM procedure_order_code AS c WHERE c.procedure_order_id = o.procedure_order_id)
        """,
        due=_WITH_ENCOUNTER,
    ),
    Surface("FHIR ServiceRequest", "order", visibility.ORDERS_FHIR, since=SERVICE_REQUEST),
    Surface(
        "FHIR Procedure",
        "order",
        """
        SELECT DISTINCT o.uuid FROM procedure_order AS o
        JOIN patient_data AS p ON p.pid = o.patient_id AND p.uuid IS NOT NULL
        JOIN procedure_order_code AS c ON c.procedure_order_id = o.procedure_order_id
        WHERE o.uuid IN %s AND o.activity = 1 AND c.procedure_order_title <> 'laboratory_test'
        """,
        due="SELECT uuid FROM procedure_order WHERE uuid IN %s AND procedure_order_type <> 'laboratory_test'",
        since=PROCEDURE_WITHOUT_REPORT,
    ),
    Surface(
        "prescription list",
        "medication",
        f"""
        SELECT r.uuid FROM prescriptions AS r
        JOIN patient_data AS p ON p.pid = r.patient_id
        WHERE r.uuid IN %s AND {PRESCRIPTION_LISTED}
        """,  # noqa: S608 - words are ours
        due="SELECT uuid FROM prescriptions WHERE uuid IN %s AND active = 1",
    ),
    Surface(
        "FHIR MedicationRequest",
        "medication",
        visibility.PRESCRIPTIONS_FHIR,
        deleted_shown="FHIR shows an inactive prescription with status stopped",
    ),
)
