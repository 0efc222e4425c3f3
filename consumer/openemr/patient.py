"""Patients: patient_data and its registry row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa

from connectors.payloads import PatientV1
from consumer.openemr import codes
from consumer.openemr.chart import hanging
from consumer.openemr.drafts import Field, RowDraft, checked_date, local_time, remarks, shape
from consumer.openemr.identifiers import Numbers
from consumer.openemr.rows import Held, Kept, RowPlan, Written
from consumer.openemr.site import Site
from consumer.openemr.statements import insert_rows, update_rows
from consumer.openemr.trail import Compared

KIND: Final = "patient"

_CODED: Final = (
    (codes.SEX, attrgetter("sex"), False),
    (codes.MARITAL_STATUS, attrgetter("marital_status"), False),
    (codes.LANGUAGE, attrgetter("language"), False),
    (codes.RACE, attrgetter("race"), False),
    (codes.ETHNICITY, attrgetter("ethnicity"), False),
)

DELETED_PREFIX: Final = "deleted:"
"""Put before pubpid of a patient deleted in the application; OpenEMR has no such state and keeps the chart."""


class PatientTable:
    """Writes patients on one site."""

    table: Final = "patient_data"
    id_column: Final = "pid"

    def __init__(self, site: Site) -> None:
        self._site = site
        self._shape = shape(site, "patient_data", _fields(site))
        self.compared = (
            Compared(
                self.table, self.id_column, self._shape.columns, attrgetter("number"), lambda plan: plan.columns.values
            ),
        )
        self._insert_constants = {"date": "NOW()", **self._by("created_by"), **self._by("updated_by")}
        self._update_constants = {"date": "NOW()", **self._by("updated_by")}

    def _by(self, column: str) -> dict[str, str]:
        return {column: str(self._site.user_id)} if column in self._site.columns["patient_data"] else {}

    def draft(self, payload: PatientV1) -> RowDraft:
        """Turn a payload into columns; raises FieldError."""
        detail = remarks(self._shape.remark(payload), self._site.codes.remark(_CODED, payload))
        return RowDraft(KIND, self._shape.values(payload), (), detail=detail)

    def insert(self, connection: sa.Connection, plans: Sequence[RowPlan], numbers: Numbers) -> Sequence[Written]:
        """Insert patients with pids of the reserved block."""
        pids = numbers.take_pids(len(plans), connection)
        rows = [(pid, plan.uuid, plan.columns.values) for pid, plan in zip(pids, plans, strict=True)]
        columns = ("pid", "uuid", *self._shape.columns)
        insert_rows(connection, self.table, columns, rows, constants=self._insert_constants)
        return [Written(pid) for pid in pids]

    def update(self, connection: sa.Connection, plans: Sequence[RowPlan]) -> None:
        """Update patients by pid."""
        rows = [(plan.number, plan.columns.values) for plan in plans]
        sets = self._update_constants
        update_rows(connection, self.table, ("pid",), self._shape.columns, rows, constants=sets, index="pid")

    def delete(self, connection: sa.Connection, plans: Sequence[RowPlan]) -> Mapping[int, Kept | Held]:
        """Keep the charts, and take the external ids out of use; or, if the operator chose so, remove empty charts."""
        if self._site.chart_tables:
            return self._remove(connection, [plan.number for plan in plans])
        sets = ", ".join(f"{name} = {sql}" for name, sql in self._update_constants.items())
        pids = tuple(plan.number for plan in plans)
        connection.exec_driver_sql(
            f"UPDATE patient_data SET pubpid = CONCAT(%s, pubpid), {sets} WHERE pid IN %s",  # noqa: S608
            (DELETED_PREFIX, pids),
        )
        return dict.fromkeys(pids, Kept(_KEPT))

    def _remove(self, connection: sa.Connection, pids: Sequence[int]) -> Mapping[int, Held]:
        """Remove the rows of patients on whom nothing hangs; the others hold themselves."""
        held = hanging(connection, self._site.chart_tables, pids)
        if empty := tuple(pid for pid in pids if pid not in held):
            connection.exec_driver_sql("DELETE FROM patient_data WHERE pid IN %s", (empty,))
        return {pid: Held(f"patient_id: the chart is not empty: {', '.join(tables)}") for pid, tables in held.items()}


_KEPT: Final = "the chart stays in OpenEMR, without its external id"


def _fields(site: Site) -> Sequence[Field]:
    def of(name: str) -> Any:
        return attrgetter(name)

    def of_address(name: str) -> Any:
        read = attrgetter(name)
        return lambda patient: None if patient.address is None else read(patient.address)

    def of_list(table: codes.CodeTable) -> Any:
        read = attrgetter(table.field)

        def checked(patient: PatientV1) -> str | None:
            value = read(patient)
            return None if value is None else site.codes.option(table, value)

        return checked

    return (
        Field("patient_id", ("pubpid",), of("patient_id")),
        Field("family_name", ("lname",), of("family_name")),
        Field("given_name", ("fname",), of("given_name")),
        Field("middle_name", ("mname",), of("middle_name")),
        Field("preferred_name", ("preferred_name",), of("preferred_name"), None),
        Field("suffix", ("suffix",), of("suffix"), None),
        Field("title", ("title",), of("title")),
        Field("birth_date", ("DOB",), lambda patient: checked_date("birth_date", patient.birth_date), None),
        Field("sex", ("sex",), of_list(codes.SEX)),
        Field("address.line", ("street",), of_address("line")),
        Field("address.line2", ("street_line_2",), of_address("line2"), None),
        Field("address.city", ("city",), of_address("city")),
        Field("address.state", ("state",), of_address("state")),
        Field("address.postal_code", ("postal_code",), of_address("postal_code")),
        Field("address.county", ("county",), of_address("county")),
        Field("address.country", ("country_code",), of_address("country")),
        Field("phone_home", ("phone_home",), of("phone_home")),
        Field("phone_mobile", ("phone_cell",), of("phone_mobile")),
        Field("phone_work", ("phone_biz",), of("phone_work")),
        Field("email", ("email",), of("email")),
        Field("marital_status", ("status",), of_list(codes.MARITAL_STATUS)),
        Field("language", ("language",), of_list(codes.LANGUAGE)),
        Field("race", ("race",), of_list(codes.RACE)),
        Field("ethnicity", ("ethnicity",), of_list(codes.ETHNICITY)),
        Field("national_id", ("ss",), of("national_id")),
        Field("deceased_at", ("deceased_date",), lambda patient: _time(site, patient, "deceased_at"), None),
        Field("registered_at", ("regdate",), lambda patient: _time(site, patient, "registered_at"), None),
    )


def _time(site: Site, patient: PatientV1, name: str) -> Any:
    return local_time(site, name, getattr(patient, name))
