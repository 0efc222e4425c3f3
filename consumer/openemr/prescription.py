"""Medication orders: prescriptions and their registry rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa

from connectors.payloads import MedicationOrderV1
from consumer.openemr.codes import FORM, ROUTE, UNIT, CodeTable
from consumer.openemr.drafts import (
    Field,
    RowDraft,
    checked_date,
    external_id,
    local_time,
    provider,
    remarks,
    shape,
)
from consumer.openemr.identifiers import Numbers
from consumer.openemr.order import diagnoses, order_parents
from consumer.openemr.rows import Kept, RowPlan, Written
from consumer.openemr.site import Site
from consumer.openemr.statements import insert_rows, update_rows
from consumer.openemr.trail import Compared

KIND: Final = "medication"

USAGE: Final = "outpatient"
INTENT: Final = "order"

# A prescription's FHIR meta.lastUpdated is date_modified, which nothing sets by itself.
_MODIFIED: Final = {"date_modified": "NOW()"}

_ACTIVE: Final = frozenset({"active", "completed"})


class PrescriptionTable:
    """Writes medication orders on one site."""

    table: Final = "prescriptions"
    id_column: Final = "id"

    def __init__(self, site: Site) -> None:
        self._site = site
        self._shape = shape(site, "prescriptions", _fields(site))
        have = site.columns["prescriptions"]
        self._coded = tuple((table, attrgetter(table.field), _is_number(site, table)) for table in (ROUTE, FORM, UNIT))
        usage, intent = site.options["medication-usage-category"], site.options["medication-request-intent"]
        wanted = {
            "usage_category": USAGE,
            "usage_category_title": usage.get(USAGE, ""),
            "request_intent": INTENT,
            "request_intent_title": intent.get(INTENT, ""),
        }
        # Of a new row only: no field says them, and a clerk may know better.
        self._same = {name: value for name, value in wanted.items() if name in have}
        self.compared = (
            Compared(
                self.table,
                self.id_column,
                ("encounter", *self._shape.columns),
                attrgetter("number"),
                lambda plan: (plan.visit or None, *plan.columns.values),
            ),
        )
        by = {name: str(site.user_id) for name in ("created_by", "updated_by") if name in have}
        self._inserted = {**_MODIFIED, **by}
        self._updated = {name: sql for name, sql in self._inserted.items() if name != "created_by"}

    def draft(self, payload: MedicationOrderV1) -> RowDraft:
        """Turn a payload into columns; raises FieldError."""
        detail = remarks(
            provider(self._site, payload.provider_npi)[1],
            self._site.codes.remark(self._coded, payload),
            self._shape.remark(payload),
        )
        return RowDraft(KIND, self._shape.values(payload), order_parents(payload), detail=detail)

    def insert(self, connection: sa.Connection, plans: Sequence[RowPlan], numbers: Numbers) -> Sequence[Written]:
        """Insert prescriptions with numbers of OpenEMR's sequence, but those that its API has given out itself."""
        taken = numbers.take_prescription_ids(len(plans), connection)
        rows = [
            (number, plan.uuid, plan.pid, plan.visit or None, *self._same.values(), plan.columns.values)
            for plan, number in zip(plans, taken, strict=True)
        ]
        columns = ("id", "uuid", "patient_id", "encounter", *self._same, *self._shape.columns)
        insert_rows(connection, self.table, columns, rows, constants=self._inserted)
        return [Written(number) for number in taken]

    def update(self, connection: sa.Connection, plans: Sequence[RowPlan]) -> None:
        """Update prescriptions by id, and bring stopped ones back."""
        rows = [(plan.number, plan.visit or None, plan.columns.values) for plan in plans]
        columns = ("encounter", *self._shape.columns)
        update_rows(connection, self.table, ("id",), columns, rows, constants=self._updated)

    def delete(self, connection: sa.Connection, plans: Sequence[RowPlan]) -> Mapping[int, Kept]:
        """Stop prescriptions as OpenEMR's API does; the rows stay."""
        ids = tuple(plan.number for plan in plans)
        connection.exec_driver_sql("UPDATE prescriptions SET active = 0, date_modified = NOW() WHERE id IN %s", (ids,))
        return dict.fromkeys(ids, Kept())


def _end_date(site: Site, order: MedicationOrderV1) -> dt.date | None:
    """Completed is told by an end date alone in OpenEMR; without one it is the order's own last known day."""
    end = checked_date("end_date", order.end_date)
    if end is None and order.status == "completed":
        return order.start_date or order.ordered_at.astimezone(site.zone).date()
    return end


def _is_number(site: Site, table: CodeTable) -> bool:
    """Tell columns of numbers: form and unit everywhere, route before 7.0.0.2."""
    return site.columns["prescriptions"].get(table.field) is None


def _fields(site: Site) -> Sequence[Field]:
    def of_list(table: CodeTable) -> Any:
        read, number = attrgetter(table.field), _is_number(site, table)

        def chosen(order: MedicationOrderV1) -> str | int | None:
            value = read(order)
            if value is None:
                return None
            found = site.codes.option(table, value, number=number)
            return int(found or 0) if number else found

        return chosen

    def ordered_date(order: MedicationOrderV1) -> Any:
        found = local_time(site, "ordered_at", order.ordered_at)
        return None if found is None else found.date()

    return (
        Field("order_id", ("external_id",), lambda order: external_id(order.order_id), None),
        Field("provider_npi", ("provider_id",), lambda order: provider(site, order.provider_npi)[0], 0),
        Field("ordered_at", ("date_added",), lambda order: local_time(site, "ordered_at", order.ordered_at), None),
        Field("ordered_at", ("txDate",), ordered_date, None),
        Field("start_date", ("start_date",), lambda order: checked_date("start_date", order.start_date), None),
        Field("end_date", ("end_date",), lambda order: _end_date(site, order), None),
        Field("drug", ("drug",), attrgetter("drug")),
        Field("rxnorm", ("rxnorm_drugcode",), attrgetter("rxnorm"), None),
        Field("dosage", ("dosage",), attrgetter("dosage"), None),
        Field("quantity", ("quantity",), attrgetter("quantity"), None),
        Field("refills", ("refills",), attrgetter("refills"), None),
        Field("route", ("route",), of_list(ROUTE), None),
        Field("form", ("form",), of_list(FORM), None),
        Field("unit", ("unit",), of_list(UNIT), None),
        Field("instructions", ("drug_dosage_instructions", "note"), attrgetter("instructions"), None),
        Field("diagnosis_codes", ("diagnosis",), diagnoses, None),
        Field("priority", (), attrgetter("priority"), None),
        Field("status", ("active",), lambda order: int(order.status in _ACTIVE), 1),
    )
