"""What the trail tells of each write: event, before and after, columns by name, author; and never a value."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from typer.testing import CliRunner

from operations import cli
from tests import clinic
from tests.integration.consumer.openemr.sites import Fields, Site, event, key_of, medication


def trail(site: Site, fields: Fields) -> list[Mapping[str, Any]]:
    """Give an entity's entries, oldest first."""
    key = key_of(fields)
    return site.rows(
        f"SELECT * FROM {site.ledger}.trail WHERE entity_type = %s AND entity_id = %s ORDER BY trail_id",
        key.entity_type.value,
        key.entity_id,
    )


def test_a_life_is_told_write_by_write(site: Site) -> None:
    """Each hash before is the hash after of the entry before; a repeated event writes nothing and tells nothing."""
    patient = clinic.patient()
    created, repeated = event("create", patient), event("update", patient)
    renamed = event("update", {**patient, "given_name": "Grace", "phone_home": "555"})
    deleted = event("delete", patient)
    back = event("create", patient)
    for one in (created, repeated, renamed, deleted, back):
        site.apply(one)

    entries = trail(site, patient)

    assert [entry["action"] for entry in entries] == ["insert", "update", "delete", "update"]
    told = (created, renamed, deleted, back)
    assert [entry["outbox_id"] for entry in entries] == [one.outbox_id.bytes for one in told]
    assert [entry["changed"] for entry in entries] == [None, "fname,phone_home", None, "pubpid,fname,phone_home"]
    assert entries[0]["hash_before"] is None
    assert [entry["hash_before"] for entry in entries[1:3]] == [entry["hash_after"] for entry in entries[:2]]
    assert entries[2]["hash_after"] is None
    assert entries[3]["hash_after"] == entries[0]["hash_after"] == site.mapped(patient)["content_hash"]
    assert {entry["author"] for entry in entries} == {"emrsync"}
    assert entries[0]["account"].startswith("w_")
    assert "Grace" not in str(entries)


@pytest.mark.parametrize(
    ("index", "change", "changed"),
    [
        (0, {"birth_date": "1970-01-02", "suffix": "Jr"}, "suffix,DOB"),
        (1, {"reason": "cough", "started_at": "2025-03-01T09:31:00+09:00"}, "date,reason"),
        (2, {"status": "completed", "priority": "stat"}, "order_priority,order_status"),
        (2, {"code": {"system": "LOINC", "code": "1-1", "display": "x"}}, "procedure_code,procedure_name"),
        (3, {"refills": 3, "route": "PO"}, "refills,route"),
    ],
)
def test_an_update_names_the_columns_that_changed(site: Site, index: int, change: Fields, changed: str) -> None:
    """Of the row and of an order's line; nothing that stayed as it was."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    several: Sequence[Fields] = (
        patient,
        visit,
        clinic.order(patient["patient_id"]),
        medication(patient["patient_id"], start_date="2025-01-01"),
    )
    site.put(*several)

    site.put({**several[index], **change}, operation="update")

    assert trail(site, several[index])[-1]["changed"] == changed


def test_a_clerks_edit_that_is_overwritten_is_named(site: Site) -> None:
    """The columns are compared with the row, not with what was written last."""
    patient = clinic.patient()
    site.put(patient)
    site.change("UPDATE patient_data SET city = 'Elsewhere' WHERE uuid = %s", site.of(patient)["uuid"])

    site.put({**patient, "given_name": "Grace"}, operation="update")

    assert trail(site, patient)[-1]["changed"] == "fname,city"


def test_nothing_is_told_of_what_was_rolled_back(site: Site) -> None:
    """The trail commits with what it tells."""
    patient = clinic.patient()
    with site.target.transaction() as transaction:
        transaction.record((), ())
    site.refusal({**patient, "birth_date": "0999-01-01"})

    assert trail(site, patient) == []


def test_a_batch_costs_one_statement_more(site: Site) -> None:
    """One insert for all its entries, whatever their kinds."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    with site.statements() as sent:
        site.put(patient, visit, medication(patient["patient_id"]))

    assert sum(".trail " in statement for statement in sent) == 1


def test_where_shows_the_trail(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the writer's account, as tables and as JSON."""
    patient = clinic.patient()
    site.put(patient)
    site.put({**patient, "given_name": "Grace"}, operation="update")
    monkeypatch.setenv("EMRSYNC_OPENEMR_URL", site.writer_url)
    monkeypatch.setenv("EMRSYNC_LEDGER_SCHEMA", site.ledger)

    shown = CliRunner().invoke(cli.build(["where"]), ["where", patient["patient_id"], "--json"])
    table = CliRunner().invoke(cli.build(["where"]), ["where", patient["patient_id"]])

    written = json.loads(shown.output)["ledger"]["trail"]
    assert [(one["action"], one["changed"]) for one in written] == [("insert", None), ("update", "fname")]
    assert "written into OpenEMR" in table.output
