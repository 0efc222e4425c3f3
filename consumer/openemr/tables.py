"""What is known of a site at one time, and how events are drafted and written by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Self

from connectors.events import Event
from connectors.outbox import TargetSystem
from connectors.payloads import AnyPayload, DiagnosticOrderV1, EncounterV1, MedicationOrderV1, PatientV1
from consumer.openemr import encounter, order, patient, prescription
from consumer.openemr.codes import FieldError
from consumer.openemr.drafts import RowDraft
from consumer.openemr.encounter import EncounterTable
from consumer.openemr.gate import sentry
from consumer.openemr.order import OrderTable
from consumer.openemr.patient import PatientTable
from consumer.openemr.prescription import PrescriptionTable
from consumer.openemr.shape import Shape
from consumer.openemr.site import Site
from consumer.openemr.writing import Table
from consumer.outcome import ErrorClass, Failed


@dataclasses.dataclass(frozen=True, slots=True)
class Tables:
    """The real Drafting: a site and its four tables; sentry is the statement that fails once the shape is another."""

    site: Site
    shape: Shape
    sentry: str
    patient: PatientTable
    encounter: EncounterTable
    order: OrderTable
    prescription: PrescriptionTable

    @classmethod
    def of(cls, site: Site, shape: Shape, ledger_schema: str) -> Self:
        """Make the tables of a site as it was read."""
        return cls(
            site,
            shape,
            sentry(ledger_schema, shape),
            PatientTable(site),
            EncounterTable(site),
            OrderTable(site, ledger_schema),
            PrescriptionTable(site),
        )

    def by_kind(self) -> Mapping[str, Table]:
        """Give the tables by what they hold."""
        return {
            patient.KIND: self.patient,
            encounter.KIND: self.encounter,
            order.KIND: self.order,
            prescription.KIND: self.prescription,
        }

    def draft(self, event: Event, payload: AnyPayload) -> RowDraft | Failed:
        """See ports.Drafting."""
        try:
            draft = self._columns(payload)
        except FieldError as error:
            return Failed(error.error_class, str(error))
        fhir = event.target_system is TargetSystem.FHIR
        if fhir and draft.kind == order.KIND and not self.site.has_service_request:
            message = f"target_system fhir: OpenEMR {self.site.version_text} has no ServiceRequest (7.0.4 has)"
            return Failed(ErrorClass.NOT_VISIBLE, message)
        return draft

    def _columns(self, payload: AnyPayload) -> RowDraft:
        match payload:
            case PatientV1():
                return self.patient.draft(payload)
            case EncounterV1():
                return self.encounter.draft(payload)
            case DiagnosticOrderV1():
                return self.order.draft(payload)
            case MedicationOrderV1():
                return self.prescription.draft(payload)
