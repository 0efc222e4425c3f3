"""What `emrsync verify` says of a site where all is well, and of one where clerks have been at work."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from typer.testing import CliRunner

from connectors.outbox import EntityType
from consumer.openemr.verification import Verification
from consumer.outcome import Applied
from operations import cli
from tests import clinic
from tests.integration.consumer.openemr.sites import Fields, Site, at, key_of, medication

LONG_AGO = at("2001-01-01T00:00:00")


def family(site: Site, kind: str = "laboratory") -> tuple[Fields, Fields, Fields, Fields]:
    """Sync a patient, a visit, and two orders in it."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"])
    named = {"encounter_id": visit["encounter_id"]}
    several = (
        patient,
        visit,
        clinic.order(patient["patient_id"], kind=kind, **named),
        medication(patient["patient_id"], **named),
    )
    site.put(*several)
    return several


def verified(site: Site, *several: Fields) -> Verification:
    """Ask for these."""
    return site.verified(*(key_of(one).entity_id for one in several))


def reasons(found: Verification) -> list[str]:
    """Give what was found, without ids."""
    return [f"{one.surface}: {one.reason}" for one in found.findings]


def test_all_is_well(site: Site) -> None:
    """Each live row once in every place, a procedure in one place more."""
    several = family(site, kind="procedure")

    found = verified(site, *several)

    assert (found.fine, found.live, found.deleted) == (True, 4, 0)
    assert [one.shown for one in found.surfaces if not one.absent] == [1] * (9 if site.old else 11)
    absent = {one.surface: one.absent for one in found.surfaces if one.absent}
    if site.old:
        assert absent["FHIR ServiceRequest"] == (
            "OpenEMR 7.0.3 does not have it (7.0.4 has):"
            " FHIR has ServiceRequest, and so shows an order that has no report"
        )


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        pytest.param(
            "UPDATE forms SET deleted = 1 WHERE pid = {pid} AND formdir = 'newpatient'",
            [
                "visit history: is shown 0 times instead of once",
                "encounter summary: is shown 0 times instead of once",
            ],
            id="the visit's form deleted",
        ),
        pytest.param(
            "INSERT INTO forms (pid, encounter, form_id, formdir) SELECT pid, encounter, form_id, formdir FROM forms"
            " WHERE pid = {pid} AND formdir = 'newpatient'",
            [
                "visit history: is shown 2 times instead of once",
                "encounter summary: is shown 2 times instead of once",
            ],
            id="the visit's form twice",
        ),
        pytest.param(
            "UPDATE forms SET deleted = 1 WHERE pid = {pid} AND formdir = 'procedure_order'",
            ["order in its encounter: is shown 0 times instead of once"],
            id="the order's form deleted",
        ),
        pytest.param(
            "UPDATE prescriptions SET drug = '' WHERE patient_id = {pid}",
            [
                "prescription list: is shown 0 times instead of once",
                "FHIR MedicationRequest: is shown 0 times instead of once",
            ],
            id="no drug",
        ),
        pytest.param(
            "DELETE FROM uuid_registry WHERE uuid = (SELECT uuid FROM patient_data WHERE pid = {pid})",
            ["FHIR Patient: is shown 0 times instead of once"],
            id="no registry row",
        ),
        pytest.param(
            "DELETE FROM prescriptions WHERE patient_id = {pid}",
            ["prescriptions: its row is gone, or bears another number: merged or deleted in OpenEMR"],
            id="a row gone",
        ),
    ],
)
def test_what_a_clerk_has_done_is_found(site: Site, statement: str, expected: Sequence[str]) -> None:
    """With the place, and how often it shows the row."""
    several = family(site)
    site.change(statement.format(pid=site.of(several[0])["pid"]))

    found = verified(site, *several)

    assert reasons(found) == expected
    assert not found.fine


def test_a_number_that_two_encounters_bear_is_found(site: Site) -> None:
    """It makes OpenEMR show one patient's order in another's visit."""
    several = family(site)
    site.change("INSERT INTO form_encounter (pid, encounter) VALUES (0, %s)", site.of(several[1])["encounter"])
    try:
        assert reasons(verified(site, *several)) == ["form_encounter: another encounter bears the same number"]
    finally:
        site.change("DELETE FROM form_encounter WHERE pid = 0")


def test_a_deleted_row_that_is_shown_again_is_found(site: Site) -> None:
    """A clerk made it active."""
    several = family(site)
    order = several[2]
    assert site.delete(order) == Applied()
    assert verified(site, *several).fine
    site.change("UPDATE procedure_order SET activity = 1 WHERE uuid = %s", site.of(order)["uuid"])

    places = {reason.partition(":")[0] for reason in reasons(verified(site, *several))}

    assert places == ({"order list"} if site.old else {"order list", "FHIR ServiceRequest"})


def test_an_id_that_is_not_mapped_is_named(site: Site) -> None:
    """Never heard of, or removed."""
    found = site.verified("P-none")

    assert (found.unknown, found.fine) == (("P-none",), False)


def test_one_kind_of_record_may_be_asked_for(site: Site) -> None:
    """Chunk after chunk, each id once."""
    family(site)
    count = site.value(f"SELECT COUNT(*) FROM {site.ledger}.entity_map WHERE kind = 'encounter' AND local_id > 0")

    found = site.verified(entity_types=(EntityType.ENCOUNTER,))

    assert found.live + found.deleted == count


def test_the_command_says_what_it_found(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the writer's account; 0 for fine, 1 for a finding, 2 for no question."""
    patient, visit, *_ = family(site)
    monkeypatch.setenv("EMRSYNC_OPENEMR_URL", site.writer_url)
    monkeypatch.setenv("EMRSYNC_LEDGER_SCHEMA", site.ledger)
    entity = ["verify", "--entity", visit["encounter_id"]]
    root = cli.build(["verify"])

    fine = CliRunner().invoke(root, [*entity, "--json"])
    site.change("UPDATE forms SET deleted = 1 WHERE pid = %s", site.of(patient)["pid"])
    found = CliRunner().invoke(root, entity)
    asked_nothing = CliRunner().invoke(root, ["verify"])

    assert (fine.exit_code, found.exit_code, asked_nothing.exit_code) == (0, 1, 2)
    assert json.loads(fine.output)["fine"] is True
    assert "visit history: is shown 0 times instead of once" in found.output


@pytest.mark.parametrize(
    ("index", "column", "change"),
    [
        pytest.param(0, "last_updated", {"given_name": "Grace"}, id="patient"),
        pytest.param(1, "last_update", {"reason": "cough"}, id="encounter"),
        pytest.param(3, "date_modified", {"dosage": "2"}, id="medication"),
    ],
)
def test_last_updated_advances_with_a_change_and_not_with_a_repeated_event(
    site: Site, index: int, column: str, change: Fields
) -> None:
    """FHIR's _lastUpdated reads this column; clients fetch what it says has changed."""
    several = family(site)
    table = ("patient_data", "form_encounter", "procedure_order", "prescriptions")[index]
    fields = several[index]
    site.change(f"UPDATE {table} SET {column} = %s WHERE uuid = %s", LONG_AGO, site.of(fields)["uuid"])

    site.put(fields, operation="update")
    assert site.of(fields)[column] == LONG_AGO

    site.put(dict(reversed([*fields.items()])), operation="update")
    assert site.of(fields)[column] == LONG_AGO

    site.put({**fields, **change}, operation="update")
    assert site.of(fields)[column] > LONG_AGO
