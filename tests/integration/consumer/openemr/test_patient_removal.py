"""A patient's delete where the operator lets it remove the row: only the empty chart goes, by rights of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from consumer.openemr import account
from consumer.openemr.chart import CHART_TABLES
from consumer.outcome import Applied, ErrorClass, Failed
from consumer.ports import MisconfiguredError
from tests import clinic
from tests.integration.consumer.openemr.sites import Site, event, medication, open_target

NO_DEFAULTS = {
    "prescriptions": ", txDate, usage_category_title, request_intent_title",
    "issue_encounter": ", list_id, encounter, resolved",
}


@pytest.fixture
def removing(site: Site, openemr_admin_url: str) -> Iterator[Site]:
    """Give the site to a writer that may remove patients."""
    user, password = f"w_{uuid.uuid4().hex[:16]}", uuid.uuid4().hex
    account.apply(
        openemr_admin_url,
        user=user,
        password=password,
        database=site.database,
        ledger_schema=site.ledger,
        patient_removal=True,
    )
    url = sa.make_url(site.writer_url).set(username=user, password=password).render_as_string(hide_password=False)
    target = open_target(url, site.ledger, patient_removal=True)
    try:
        yield Site(site.version, site.database, site.ledger, url, site.clerk, target)
    finally:
        target.close()
        site.change(f"DROP USER {user}")


def test_an_empty_chart_is_removed_and_comes_back_under_a_new_number(removing: Site) -> None:
    """The uuid stays, and with it the FHIR id; OpenEMR keeps its registry row too."""
    patient = clinic.patient()
    removing.put(patient)
    first = removing.of(patient)

    assert removing.delete(patient) == Applied()
    assert removing.rows("SELECT 1 FROM patient_data WHERE pid = %s", first["pid"]) == []
    assert removing.delete(patient) == Applied()

    removing.put(patient)
    again = removing.of(patient)
    assert again["uuid"] == first["uuid"]
    assert again["pid"] != first["pid"]
    assert removing.verified(patient["patient_id"]).fine


@pytest.mark.parametrize("table", CHART_TABLES)
def test_a_chart_with_any_row_is_held(removing: Site, table: str) -> None:
    """The event fails, names the table, and nothing was changed; others of the batch are removed."""
    patient, other = clinic.patient(), clinic.patient()
    removing.put(patient, other)
    pid = removing.of(patient)["pid"]
    more = NO_DEFAULTS.get(table, "")
    values = "".join(
        f", {'0' if name.strip() in ('list_id', 'encounter', 'resolved') else repr('2025-01-01')}"
        for name in more.split(",")[1:]
    )
    columns = f"{CHART_TABLES[table]}{more}"
    removing.clerk.exec_driver_sql("SET SESSION sql_mode = ''")
    removing.change(f"INSERT INTO {table} ({columns}) VALUES (%s{values})", pid)

    held = Failed(ErrorClass.CONFLICT, f"patient_id: the chart is not empty: {table}")
    assert removing.apply(event("delete", patient), event("delete", other)) == [held, Applied()]
    assert removing.of(patient)["pubpid"] == patient["patient_id"]
    assert removing.mapped(patient)["deleted_at"] is None
    assert removing.mapped(other)["local_id"] is None


def test_what_was_deleted_before_holds_a_chart_too(removing: Site) -> None:
    """A stopped prescription is history."""
    patient = clinic.patient()
    drug = medication(patient["patient_id"])
    removing.put(patient, drug)

    outcomes = removing.apply(event("delete", patient), event("delete", drug))

    assert outcomes[0] == Failed(ErrorClass.CONFLICT, "patient_id: the chart is not empty: prescriptions")
    assert outcomes[1] == Applied()


def test_the_usual_account_cannot_remove_patients(site: Site) -> None:
    """A setting alone gives no rights; what cannot be read cannot hold a chart."""
    with pytest.raises(MisconfiguredError, match="EMRSYNC_OPENEMR_PATIENT_DELETES is remove, and the account cannot"):
        open_target(site.writer_url, site.ledger, patient_removal=True)


def test_a_patient_is_kept_unless_told_otherwise(site: Site) -> None:
    """By default the chart stays, and says that it is deleted."""
    patient = clinic.patient()
    site.put(patient)

    assert site.delete(patient) == Applied("the chart stays in OpenEMR, without its external id")
    assert site.of(patient)["pubpid"] == f"deleted:{patient['patient_id']}"
