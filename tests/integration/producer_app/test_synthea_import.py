"""A small hand-made export, imported into a real database."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa

from connectors.outbox import EntityType, TargetSystem
from producer_app import services
from producer_app.bootstrap import Application
from producer_app.bulk import Saved, save_batch
from producer_app.errors import BusyError
from producer_app.outbox import checked_payload
from producer_app.synthea import FileReport, Report, import_folder
from producer_app.synthea_files import SourceFile
from producer_app.unit_of_work import UnitOfWork
from tests import clinic
from tests.integration.producer_app.conftest import Inspection

SAMPLE = Path(__file__).parents[2] / "synthea_sample"
KIM = "00000000-0000-4000-8000-000000000002"

EXPECTED = {
    SourceFile.PATIENTS: FileReport(
        file=SourceFile.PATIENTS,
        rows=5,
        created=3,
        updated=0,
        unchanged=0,
        joined=0,
        refused={"BIRTHDATE: is no date or instant of ISO 8601": 1, "Id: stands in an earlier row": 1},
        notes={
            "GENDER: is none that is known, taken as unknown": 1,
            "MARITAL: has no OpenEMR option, left out": 1,
            "RACE: has no OpenEMR option, left out": 1,
        },
    ),
    SourceFile.ENCOUNTERS: FileReport(
        file=SourceFile.ENCOUNTERS,
        rows=6,
        created=3,
        updated=0,
        unchanged=0,
        joined=0,
        refused={
            "ENCOUNTERCLASS: has no OpenEMR encounter class": 1,
            "patient_id: no such patient, or it was deleted": 1,
            "the row has more or fewer fields than the header": 1,
        },
        notes={},
    ),
    SourceFile.MEDICATIONS: FileReport(
        file=SourceFile.MEDICATIONS,
        rows=3,
        created=2,
        updated=0,
        unchanged=0,
        joined=0,
        refused={"encounter_id: no such encounter, or it was deleted": 1},
        notes={},
    ),
    SourceFile.PROCEDURES: FileReport(
        file=SourceFile.PROCEDURES,
        rows=4,
        created=3,
        updated=0,
        unchanged=0,
        joined=0,
        refused={"SYSTEM: is no code system that is known": 1},
        notes={},
    ),
    SourceFile.IMAGING_STUDIES: FileReport(
        file=SourceFile.IMAGING_STUDIES, rows=2, created=1, updated=0, unchanged=0, joined=1, refused={}, notes={}
    ),
}


def by_file(report: Report) -> dict[SourceFile, FileReport]:
    """Give the reports by file."""
    return {one.file: one for one in report.files}


def test_every_row_is_imported_or_counted_with_its_reason(application: Application) -> None:
    """Nothing is dropped silently: for each file the counts add up to its rows."""
    report = import_folder(application.unit_of_work(), SAMPLE)

    assert by_file(report) == EXPECTED
    assert report.outbox_rows == 12
    for file in report.files:
        settled = file.created + file.updated + file.unchanged + file.joined + sum(file.refused.values())
        assert settled == file.rows


def test_parents_come_first_and_all_in_the_order_of_time(application: Application, inspection: Inspection) -> None:
    """The consumer need not wait for any of them."""
    import_folder(application.unit_of_work(), SAMPLE, batch=2)

    rows = inspection.outbox()
    kinds = [row["entity_type"] for row in rows]
    assert kinds == ["patient"] * 3 + ["encounter"] * 3 + ["order"] * 6
    times = [json.loads(row["payload"]) for row in rows]
    births = [one["birth_date"] for one in times[:3]]
    starts = [one["started_at"] for one in times[3:6]]
    orders = [one["ordered_at"] for one in times[6:]]
    assert (births, starts, orders) == (sorted(births), sorted(starts), sorted(orders))


def test_equal_procedures_of_one_second_stay_two_orders(application: Application, inspection: Inspection) -> None:
    """Two injections are two injections."""
    import_folder(application.unit_of_work(), SAMPLE)

    orders = [json.loads(row["payload"]) for row in inspection.outbox() if row["entity_type"] == "order"]
    injections = [one for one in orders if one.get("code", {}).get("code") == "76601001"]
    assert len({one.pop("order_id") for one in injections}) == 2
    assert injections[0] == injections[1]


def test_a_second_import_writes_nothing(application: Application, inspection: Inspection) -> None:
    """After a break, or by mistake."""
    import_folder(application.unit_of_work(), SAMPLE)
    before = inspection.outbox()

    again = import_folder(application.unit_of_work(), SAMPLE)

    assert inspection.outbox() == before
    assert again.outbox_rows == 0
    assert sum(file.unchanged for file in again.files) == 12
    assert sum(file.created + file.updated for file in again.files) == 0


def test_a_changed_row_is_an_update_and_a_deleted_entity_stays_deleted(
    application: Application, inspection: Inspection, tmp_path: Path
) -> None:
    """An export does not bring back what the clinic deleted."""
    import_folder(application.unit_of_work(), SAMPLE)
    services.delete_encounter(application.unit_of_work(), "00000000-0000-4000-8000-0000000000e3")
    changed = tmp_path / "export"
    shutil.copytree(SAMPLE, changed)
    patients = changed / SourceFile.PATIENTS
    patients.write_text(
        patients.read_text(encoding="utf-8").replace("2 Example Road", "3 Example Road"), encoding="utf-8"
    )

    report = by_file(import_folder(application.unit_of_work(), changed))

    assert (report[SourceFile.PATIENTS].updated, report[SourceFile.PATIENTS].unchanged) == (1, 2)
    assert report[SourceFile.ENCOUNTERS].refused["the entity was deleted in the application"] == 1
    last = inspection.outbox(KIM)[-1]
    assert (last["operation"], json.loads(last["payload"])["address"]["line"]) == ("update", "3 Example Road")


def test_a_limit_takes_the_first_patients_with_all_of_their_rows(application: Application) -> None:
    """And counts no row of the others."""
    report = by_file(import_folder(application.unit_of_work(), SAMPLE, patients_max=1))

    assert {file: one.rows for file, one in report.items()} == {
        SourceFile.PATIENTS: 1,
        SourceFile.ENCOUNTERS: 4,
        SourceFile.MEDICATIONS: 2,
        SourceFile.PROCEDURES: 4,
        SourceFile.IMAGING_STUDIES: 2,
    }


def test_each_target_gets_its_rows_and_progress_is_told(application: Application, inspection: Inspection) -> None:
    """The callback ends at the total of each type."""
    told: list[tuple[EntityType, int, int]] = []

    report = import_folder(
        application.unit_of_work(),
        SAMPLE,
        batch=4,
        targets=tuple(TargetSystem),
        progress=lambda entity_type, done, total: told.append((entity_type, done, total)),
    )

    assert report.outbox_rows == len(inspection.outbox()) == 24
    assert told == [
        (EntityType.PATIENT, 0, 3),
        (EntityType.PATIENT, 3, 3),
        (EntityType.ENCOUNTER, 0, 4),
        (EntityType.ENCOUNTER, 4, 4),
        (EntityType.ORDER, 0, 7),
        (EntityType.ORDER, 4, 7),
        (EntityType.ORDER, 7, 7),
    ]


def test_a_batch_that_fails_keeps_neither_business_nor_outbox_rows(
    application: Application, inspection: Inspection
) -> None:
    """The outbox is locked by somebody else; the batch is tried again, then given up."""
    patient = checked_payload(EntityType.PATIENT, clinic.patient())
    with application.engine.begin() as blocker:
        blocker.execute(sa.text("LOCK TABLE sync_outbox IN EXCLUSIVE MODE"))
        with pytest.raises(BusyError):
            save_batch(application.unit_of_work(), EntityType.PATIENT, [patient])

    assert (inspection.business_rows(), inspection.outbox()) == (0, [])


def test_an_entity_that_another_created_meanwhile_is_seen_at_the_next_attempt(application: Application) -> None:
    """Two imports of one export side by side end well."""

    class OvertakenUnitOfWork(UnitOfWork):
        """Lets somebody else create the first patient between the look and the insert, once."""

        overtaken = False

        def __enter__(self) -> OvertakenUnitOfWork:
            super().__enter__()
            if not self.overtaken:
                self.overtaken = True
                sa.event.listen(self.connection, "before_cursor_execute", create_it_first)
            return self

    def create_it_first(_connection: object, _cursor: object, statement: str, *_arguments: object) -> None:
        if statement.startswith("INSERT INTO patient_cache"):
            import_folder(application.unit_of_work(), SAMPLE)

    report = import_folder(OvertakenUnitOfWork(application.engine, application.targets), SAMPLE)

    assert sum(file.unchanged for file in report.files) == 12


def test_an_id_twice_in_a_batch_is_our_own_mistake(application: Application) -> None:
    """Which of the two would be the newest?"""
    patient = checked_payload(EntityType.PATIENT, clinic.patient())

    with pytest.raises(ValueError, match="twice"):
        save_batch(application.unit_of_work(), EntityType.PATIENT, [patient, patient])


def test_a_batch_tells_what_became_of_each(application: Application) -> None:
    """New, changed, equal, deleted."""
    uow = application.unit_of_work()
    patients = [checked_payload(EntityType.PATIENT, clinic.patient()) for _ in range(4)]
    save_batch(uow, EntityType.PATIENT, patients[1:])
    services.delete_patient(uow, patients[3].entity_id)
    changed = checked_payload(EntityType.PATIENT, {**patients[1].model_dump(exclude_none=True), "given_name": "Eve"})

    saved = save_batch(uow, EntityType.PATIENT, [patients[0], changed, patients[2], patients[3]])

    assert list(saved.values()) == [Saved.CREATED, Saved.UPDATED, Saved.UNCHANGED, Saved.DELETED]
