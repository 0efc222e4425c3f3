"""Diagnostic orders: procedure_order, its one line, its forms row, its registry row, and the compendium entry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa

from connectors.events import EntityKey
from connectors.outbox import EntityType
from connectors.payloads import DiagnosticOrderV1, MedicationOrderV1
from consumer.openemr import codes
from consumer.openemr.drafts import (
    Field,
    RowDraft,
    external_id,
    local_time,
    provider,
    remarks,
    shape,
)
from consumer.openemr.identifiers import Numbers
from consumer.openemr.rows import Kept, RowPlan, Written, ids_by_uuid
from consumer.openemr.site import Site
from consumer.openemr.statements import insert_rows, select_in, update_rows
from consumer.openemr.trail import Compared

KIND: Final = "order"

CODE_TYPES: Final = {
    "http://loinc.org": "LOINC",
    "http://snomed.info/sct": "SNOMED-CT",
    "http://www.ama-assn.org/go/cpt": "CPT4",
    "http://hl7.org/fhir/sid/icd-10-cm": "ICD10",
    "http://hl7.org/fhir/sid/cvx": "CVX",
}
"""OpenEMR's code types by FHIR URI; any other system is taken as the code type itself."""

PRIORITY_DEFAULT: Final = "routine"

_CODED: Final = (
    (codes.PRIORITY, attrgetter("priority"), False),
    (codes.STATUS, attrgetter("status"), False),
    (codes.KIND, attrgetter("kind"), False),
)

COMPENDIUM_NAME_CHARACTERS_MAX: Final = 63

KNOWN_CODES_MAX: Final = 100_000
"""Compendium codes remembered by a process, so that its memory stays flat; others are looked up each time."""

_FORM: Final = {
    "form_name": "'Procedure Order'",
    "formdir": "'procedure_order'",
    "authorized": "1",
    "deleted": "0",
    "therapy_group_id": "NULL",
}
_OWN_FORMS: Final = "SELECT id, form_id FROM forms WHERE form_id IN %s AND formdir = 'procedure_order' ORDER BY id"


class OrderTable:
    """Writes diagnostic orders on one site."""

    table: Final = "procedure_order"
    id_column: Final = "procedure_order_id"

    def __init__(self, site: Site, ledger_schema: str) -> None:
        self._site = site
        self._ledger_schema = ledger_schema
        self._known_codes: set[str] = set()
        self._adding: sa.RootTransaction | sa.NestedTransaction | None = None
        self._added_codes: set[str] = set()
        self._shape = shape(site, "procedure_order", _order_fields(site))
        self._line = shape(site, "procedure_order_code", _line_fields(site))
        self.compared = (
            Compared(
                self.table,
                self.id_column,
                ("encounter_id", *self._shape.columns),
                attrgetter("number"),
                lambda plan: (plan.visit, *plan.columns.values),
            ),
            Compared(
                "procedure_order_code",
                "procedure_order_id",
                self._line.columns,
                attrgetter("number"),
                lambda plan: plan.columns.line,
                condition="procedure_order_seq = 1",
            ),
        )
        self._code_index = self._line.columns.index("procedure_code")
        self._name_index = self._line.columns.index("procedure_name")

    def draft(self, payload: DiagnosticOrderV1) -> RowDraft:
        """Turn a payload into columns; raises FieldError."""
        return RowDraft(
            KIND,
            self._shape.values(payload),
            order_parents(payload),
            line=self._line.values(payload),
            dated=local_time(self._site, "ordered_at", payload.ordered_at),
            detail=remarks(provider(self._site, payload.provider_npi)[1], self._site.codes.remark(_CODED, payload)),
        )

    def insert(self, connection: sa.Connection, plans: Sequence[RowPlan], _numbers: Numbers) -> Sequence[Written]:
        """Insert orders, one line each, and show them in their encounters; OpenEMR numbers them itself."""
        self._complete_compendium(connection, plans)
        columns = ("uuid", "patient_id", "encounter_id", *self._shape.columns)
        rows = [(plan.uuid, plan.pid, plan.visit, plan.columns.values) for plan in plans]
        insert_rows(connection, self.table, columns, rows, constants={"activity": "1"})
        ids = ids_by_uuid(connection, self.table, self.id_column, [plan.uuid for plan in plans])
        numbered = list(zip(plans, ids, strict=True))
        self._add_lines(connection, numbered)
        self._add_forms(connection, numbered)
        return [Written(order_id) for order_id in ids]

    def update(self, connection: sa.Connection, plans: Sequence[RowPlan]) -> None:
        """Update orders by procedure_order_id, and bring deleted ones back."""
        self._complete_compendium(connection, plans)
        columns = ("encounter_id", *self._shape.columns)
        rows = [(plan.number, plan.visit, plan.columns.values) for plan in plans]
        update_rows(connection, self.table, (self.id_column,), columns, rows, constants={"activity": "1"})
        self._update_lines(connection, plans)
        self._update_forms(connection, plans)

    def delete(self, connection: sa.Connection, plans: Sequence[RowPlan]) -> Mapping[int, Kept]:
        """Take orders out of screens and FHIR as OpenEMR's own delete does; the rows stay."""
        ids = tuple(plan.number for plan in plans)
        forms = [(form_id,) for form_id, _ in _own_forms(connection, ids)]
        update_rows(connection, "forms", ("id",), (), forms, constants={"deleted": "1"})
        connection.exec_driver_sql("UPDATE procedure_order SET activity = 0 WHERE procedure_order_id IN %s", (ids,))
        return dict.fromkeys(ids, Kept())

    def _update_lines(self, connection: sa.Connection, plans: Sequence[RowPlan]) -> None:
        """Rewrite the orders' lines, and bring back those that a clinician's save dropped."""
        sql = (
            "SELECT procedure_order_id FROM procedure_order_code "
            "WHERE procedure_order_id IN %s AND procedure_order_seq = 1"
        )
        have = {int(row[0]) for row in select_in(connection, sql, [plan.number for plan in plans])}
        lines = [(plan.number, 1, plan.columns.line) for plan in plans if plan.number in have]
        keys = ("procedure_order_id", "procedure_order_seq")
        update_rows(connection, "procedure_order_code", keys, self._line.columns, lines)
        self._add_lines(connection, [(plan, plan.number) for plan in plans if plan.number not in have])

    def _update_forms(self, connection: sa.Connection, plans: Sequence[RowPlan]) -> None:
        """Show the orders in the encounters they name now, and in none if they name none."""
        by_number = {plan.number: plan for plan in plans}
        shown = [(form_id, by_number[number]) for form_id, number in _own_forms(connection, by_number)]
        forms = [(form_id, plan.visit, plan.columns.dated, int(not plan.visit)) for form_id, plan in shown]
        update_rows(connection, "forms", ("id",), ("encounter", "date", "deleted"), forms)
        have = {plan.number for _, plan in shown}
        self._add_forms(connection, [(plan, plan.number) for plan in plans if plan.number not in have])

    def _complete_compendium(self, connection: sa.Connection, plans: Sequence[RowPlan]) -> None:
        """Add the codes that the compendium lacks: without one, a clinician's first save drops the order's line."""
        # The order form looks a code up by a collation that ignores case.
        lines = {plan.columns.line[self._code_index].casefold(): plan.columns.line for plan in plans}
        names = {
            line[self._code_index]: line[self._name_index]
            for folded, line in lines.items()
            if folded not in self._known_codes
        }
        if not names or not self._missing_codes(connection, names):
            return
        # No unique key forbids a second entry, so members take turns; only new codes come here.
        connection.exec_driver_sql(
            f"SELECT next_id FROM {self._ledger_schema}.id_block WHERE name = 'compendium' FOR UPDATE"  # noqa: S608
        )
        missing = self._missing_codes(connection, names)
        if missing:
            self._add_codes(connection, missing)

    def _missing_codes(self, connection: sa.Connection, names: Mapping[str, str]) -> Mapping[str, str]:
        sql = (
            "SELECT procedure_code FROM procedure_type "
            "WHERE procedure_code IN %s AND lab_id = 0 AND procedure_type LIKE 'ord%%'"
        )
        found = {str(row[0]).casefold() for row in select_in(connection, sql, names)}
        if self._adding is not connection.get_transaction():
            self._adding, self._added_codes = connection.get_transaction(), set()
        if len(self._known_codes) < KNOWN_CODES_MAX:
            # What this transaction added is gone again if it is rolled back.
            self._known_codes |= found - self._added_codes
        return {code: name for code, name in names.items() if code.casefold() not in found}

    def _add_codes(self, connection: sa.Connection, names: Mapping[str, str]) -> None:
        """Add entries as OpenEMR's on-the-fly ones: type ord, active, their own parent."""
        self._added_codes.update(code.casefold() for code in names)
        rows = [(code, _label(name), name) for code, name in names.items()]
        columns = ("procedure_code", "name", "description")
        constants = {"procedure_type": "'ord'", "lab_id": "0", "activity": "1", "parent": "0"}
        insert_rows(connection, "procedure_type", columns, rows, constants=constants)
        connection.exec_driver_sql(
            "UPDATE procedure_type SET parent = procedure_type_id "
            "WHERE procedure_code IN %s AND lab_id = 0 AND parent = 0 AND procedure_type = 'ord'",
            (tuple(names),),
        )

    def _add_lines(self, connection: sa.Connection, plans: Sequence[tuple[RowPlan, int]]) -> None:
        """Give orders their one line."""
        lines = [(order_id, plan.columns.line) for plan, order_id in plans]
        columns = ("procedure_order_id", *self._line.columns)
        insert_rows(connection, "procedure_order_code", columns, lines, constants={"procedure_order_seq": "1"})

    def _add_forms(self, connection: sa.Connection, plans: Sequence[tuple[RowPlan, int]]) -> None:
        """Show orders in their encounter; one without encounter has no form to stand in."""
        forms = [
            (plan.columns.dated, plan.visit, order_id, plan.pid, self._site.username, self._site.groupname)
            for plan, order_id in plans
            if plan.visit
        ]
        columns = ("date", "encounter", "form_id", "pid", "user", "groupname")
        insert_rows(connection, "forms", columns, forms, constants=_FORM)


def _own_forms(connection: sa.Connection, order_ids: Iterable[int]) -> Sequence[tuple[int, int]]:
    """Return the ids of orders' own rows in forms, each with its procedure_order_id; read without a lock."""
    return [(int(form_id), int(order_id)) for form_id, order_id in select_in(connection, _OWN_FORMS, order_ids)]


def order_parents(payload: DiagnosticOrderV1 | MedicationOrderV1) -> tuple[EntityKey, ...]:
    """Return the patient, and the encounter if one is named."""
    patient = EntityKey(EntityType.PATIENT, payload.patient_id)
    if payload.encounter_id is None:
        return (patient,)
    return patient, EntityKey(EntityType.ENCOUNTER, payload.encounter_id)


def coded(payload: DiagnosticOrderV1) -> str:
    """Give procedure_code: TYPE:code, which OpenEMR's FHIR API shows as a coding."""
    system = CODE_TYPES.get(payload.code.system, payload.code.system)
    return f"{system}:{payload.code.code}"


def diagnoses(payload: DiagnosticOrderV1 | MedicationOrderV1) -> str | None:
    """Give diagnosis codes as OpenEMR joins them."""
    return ";".join(payload.diagnosis_codes) if payload.diagnosis_codes else None


def _label(name: str) -> str:
    # The compendium's list shows 63 characters; the order line and the description hold the whole name.
    if len(name) <= COMPENDIUM_NAME_CHARACTERS_MAX:
        return name
    return name[: COMPENDIUM_NAME_CHARACTERS_MAX - 1] + "…"


def _order_fields(site: Site) -> Sequence[Field]:
    def priority(order: DiagnosticOrderV1) -> str:
        return site.codes.option(codes.PRIORITY, order.priority or PRIORITY_DEFAULT)

    def at(order: DiagnosticOrderV1) -> Any:
        return local_time(site, "ordered_at", order.ordered_at)

    return (
        Field("order_id", ("external_id",), lambda order: external_id(order.order_id), None),
        Field("provider_npi", ("provider_id",), lambda order: provider(site, order.provider_npi)[0], 0),
        Field("ordered_at", ("date_ordered",), at, None),
        Field("priority", ("order_priority",), priority),
        Field("status", ("order_status",), lambda order: site.codes.option(codes.STATUS, order.status)),
        Field("instructions", ("patient_instructions",), attrgetter("instructions")),
        Field("kind", ("procedure_order_type",), lambda order: site.codes.option(codes.KIND, order.kind)),
    )


def _line_fields(site: Site) -> Sequence[Field]:
    def order_type(order: DiagnosticOrderV1) -> str:
        return site.codes.option(codes.KIND, order.kind)

    return (
        Field("code.code", ("procedure_code",), coded),
        Field("code.display", ("procedure_name",), lambda order: order.code.display),
        Field("diagnosis_codes", ("diagnoses",), diagnoses, None),
        Field("kind", ("procedure_order_title",), order_type, None),
        Field("kind", ("procedure_type",), order_type, None),
    )
