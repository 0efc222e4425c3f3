"""Encounters: form_encounter, its forms row, and its registry row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa

from connectors.events import EntityKey
from connectors.outbox import EntityType
from connectors.payloads import EncounterV1
from consumer.openemr.codes import CLASS_CODE, FieldError
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
from consumer.outcome import ErrorClass

KIND: Final = "encounter"

CATEGORY_DEFAULT: Final = 5
"""Office visit, form_encounter.pc_catid's own default."""

_CODED: Final = ((CLASS_CODE, attrgetter("class_code"), False),)

_FORM: Final = {
    "form_name": "'New Patient Encounter'",
    "formdir": "'newpatient'",
    "authorized": "1",
    "deleted": "0",
    "therapy_group_id": "NULL",
}

# Rows of a clinician's work in an encounter: where any is left, the encounter is hidden and not removed.
_HANGING: Final = """
SELECT e.id, e.encounter,
  EXISTS (SELECT 1 FROM forms f WHERE f.pid = e.pid AND f.encounter = e.encounter AND f.deleted = 0
          AND f.formdir <> 'newpatient')
  OR EXISTS (SELECT 1 FROM procedure_order o
             WHERE o.patient_id = e.pid AND o.encounter_id = e.encounter AND o.activity = 1)
  OR EXISTS (SELECT 1 FROM prescriptions r WHERE r.patient_id = e.pid AND r.encounter = e.encounter AND r.active = 1)
  OR EXISTS (SELECT 1 FROM billing b WHERE b.pid = e.pid AND b.encounter = e.encounter AND b.activity = 1)
  OR EXISTS (SELECT 1 FROM issue_encounter i WHERE i.pid = e.pid AND i.encounter = e.encounter) AS hanging
FROM form_encounter e WHERE e.id IN %s
"""
_OWN_FORMS: Final = """
SELECT f.id, f.form_id FROM form_encounter e
JOIN forms f ON f.form_id = e.id AND f.pid = e.pid AND f.encounter = e.encounter AND f.formdir = 'newpatient'
WHERE e.id IN %s ORDER BY f.id
"""
_HIDDEN: Final = "other rows hang on the encounter in OpenEMR: hidden from the visit list, not removed"


class EncounterTable:
    """Writes encounters on one site."""

    table: Final = "form_encounter"
    id_column: Final = "id"

    def __init__(self, site: Site) -> None:
        self._site = site
        self._shape = shape(site, "form_encounter", _fields(site))
        self.compared = (
            Compared(
                self.table, self.id_column, self._shape.columns, attrgetter("row_id"), lambda plan: plan.columns.values
            ),
        )

    def draft(self, payload: EncounterV1) -> RowDraft:
        """Turn a payload into columns; raises FieldError."""
        _, unknown_provider = provider(self._site, payload.provider_npi)
        name = payload.facility_name
        unknown_facility = None if name is None or name in self._site.facilities else _UNKNOWN_FACILITY
        return RowDraft(
            KIND,
            self._shape.values(payload),
            (EntityKey(EntityType.PATIENT, payload.patient_id),),
            dated=local_time(self._site, "started_at", payload.started_at),
            detail=remarks(
                unknown_provider,
                unknown_facility,
                self._site.codes.remark(_CODED, payload),
                self._shape.remark(payload),
            ),
        )

    def insert(self, connection: sa.Connection, plans: Sequence[RowPlan], numbers: Numbers) -> Sequence[Written]:
        """Insert encounters with numbers of OpenEMR's sequence, and put them on the patients' visit lists."""
        taken = numbers.take_numbers(len(plans))
        rows = [(plan.uuid, plan.pid, number, plan.columns.values) for plan, number in zip(plans, taken, strict=True)]
        columns = ("uuid", "pid", "encounter", *self._shape.columns)
        insert_rows(connection, self.table, columns, rows, constants={"sensitivity": "'normal'"})
        ids = ids_by_uuid(connection, self.table, "id", [plan.uuid for plan in plans])
        self._add_forms(connection, list(zip(plans, taken, ids, strict=True)))
        return [Written(number, row_id) for number, row_id in zip(taken, ids, strict=True)]

    def update(self, connection: sa.Connection, plans: Sequence[RowPlan]) -> None:
        """Update encounters by form_encounter.id, and bring back hidden ones and those that the visit list has lost."""
        rows = [(plan.row_id, plan.columns.values) for plan in plans]
        update_rows(connection, self.table, ("id",), self._shape.columns, rows)
        dated = {plan.row_id: plan.columns.dated for plan in plans}
        own = _own_forms(connection, dated)
        forms = [(form_id, dated[row_id]) for form_id, row_id in own]
        update_rows(connection, "forms", ("id",), ("date",), forms, constants={"deleted": "0"})
        have = {row_id for _, row_id in own}
        lost = [(plan, plan.number, plan.row_id) for plan in plans if plan.row_id not in have]
        self._add_forms(connection, lost)

    def _add_forms(self, connection: sa.Connection, plans: Sequence[tuple[RowPlan, int, int | None]]) -> None:
        """Put encounters, each with its number and form_encounter.id, on the patients' visit lists."""
        forms = [
            (plan.columns.dated, number, row_id, plan.pid, self._site.username, self._site.groupname)
            for plan, number, row_id in plans
        ]
        columns = ("date", "encounter", "form_id", "pid", "user", "groupname")
        insert_rows(connection, "forms", columns, forms, constants=_FORM)

    def delete(self, connection: sa.Connection, plans: Sequence[RowPlan]) -> Mapping[int, Kept]:
        """Remove encounters, or only hide those that a clinician's work hangs on; return these by number."""
        found = select_in(connection, _HANGING, [plan.row_id for plan in plans])
        hidden = {row_id: number for row_id, number, hanging in found if hanging}
        forms = [(form_id,) for form_id, _ in _own_forms(connection, hidden)]
        update_rows(connection, "forms", ("id",), (), forms, constants={"deleted": "1"})
        removed = tuple(row_id for row_id, _, hanging in found if not hanging)
        if removed:
            gone = tuple(form_id for form_id, _ in _own_forms(connection, removed))
            if gone:
                connection.exec_driver_sql("DELETE FROM forms WHERE id IN %s", (gone,))
            connection.exec_driver_sql("DELETE FROM form_encounter WHERE id IN %s", (removed,))
        return {number: Kept(_HIDDEN) for number in hidden.values()}


def _own_forms(connection: sa.Connection, row_ids: Iterable[int | None]) -> Sequence[tuple[int, int]]:
    """Return the ids of encounters' own rows in forms, each with its form_encounter.id; read without a lock."""
    return [(int(form_id), int(row_id)) for form_id, row_id in select_in(connection, _OWN_FORMS, row_ids)]


_UNKNOWN_FACILITY: Final = "facility_name: no facility of OpenEMR has it; written as text only"


def _fields(site: Site) -> Sequence[Field]:
    def category(encounter: EncounterV1) -> int:
        chosen = encounter.category_id or CATEGORY_DEFAULT
        if chosen not in site.categories:
            raise FieldError(ErrorClass.UNKNOWN_OPTION, "category_id: is no calendar category of OpenEMR")
        return chosen

    def facility_id(encounter: EncounterV1) -> int:
        name = encounter.facility_name
        return site.default_facility_id if name is None else site.facilities.get(name, 0)

    def class_code(encounter: EncounterV1) -> str:
        return site.codes.option(CLASS_CODE, encounter.class_code)

    def at(name: str) -> Any:
        read = attrgetter(name)
        return lambda encounter: local_time(site, name, read(encounter))

    return (
        Field("encounter_id", ("external_id",), lambda encounter: external_id(encounter.encounter_id), None),
        Field("started_at", ("date",), at("started_at"), None),
        Field("ended_at", ("date_end",), at("ended_at"), None),
        Field("reason", ("reason",), attrgetter("reason")),
        Field("facility_name", ("facility",), lambda one: one.facility_name or site.default_facility_name),
        Field("facility_name", ("facility_id",), facility_id, 0),
        Field("facility_name", ("billing_facility",), facility_id, 0),
        Field("provider_npi", ("provider_id",), lambda one: provider(site, one.provider_npi)[0], 0),
        Field("category_id", ("pc_catid",), category, CATEGORY_DEFAULT),
        Field("class_code", ("class_code",), class_code, "AMB"),
    )
