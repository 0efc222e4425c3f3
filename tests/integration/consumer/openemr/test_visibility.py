"""The set-based questions agree with hand-written ones on every way to be visible and invisible."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from consumer.openemr.installation import install
from consumer.openemr.surfaces import SURFACES
from consumer.openemr.visibility import (
    UUIDS_PER_STATEMENT_MAX,
    VisibleCount,
    count_visible,
    visible_encounters,
    visible_orders,
    visible_patients,
    visible_prescriptions,
)
from tests.acceptance import (
    encounter_in_fhir,
    encounter_shown,
    order_in_fhir,
    order_shown,
    patient_shown,
    prescription_shown,
)
from tests.scratch import connected, scratch_database

PATIENT, ENCOUNTER, ORDER, PRESCRIPTION = (bytes([number] * 16) for number in (1, 2, 3, 4))
OTHER = bytes([9] * 16)
PUBPID = "P-2025-000001"

ENTITY_MAP = """
    CREATE TABLE {ledger}.entity_map (
        entity_type VARCHAR(20), entity_id VARCHAR(100), kind VARCHAR(20), local_id BIGINT, row_id BIGINT,
        uuid BINARY(16), deleted_at DATETIME(6), PRIMARY KEY (entity_type, entity_id)
    ) DEFAULT CHARSET utf8mb4 COLLATE utf8mb4_bin
"""


@pytest.fixture(scope="module", params=["7.0.3", "8.2.0-dev"])
def database(request: pytest.FixtureRequest, openemr_admin_url: str) -> Iterator[str]:
    """Give an OpenEMR database; tests do not commit to it."""
    with scratch_database(openemr_admin_url) as name:
        install(openemr_admin_url, version=request.param, database=name)
        yield name


@pytest.fixture(scope="module")
def ledger(openemr_admin_url: str) -> Iterator[str]:
    """Give the schema of an empty ledger."""
    with scratch_database(openemr_admin_url) as name, connected(openemr_admin_url) as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
        connection.exec_driver_sql(ENTITY_MAP.format(ledger=name))
        yield name


@pytest.fixture
def openemr(openemr_admin_url: str, database: str, ledger: str) -> Iterator[sa.Connection]:
    """Give a transaction with one of each entity, mapped and visible; it is rolled back."""
    with connected(openemr_admin_url, database) as connection:
        insert_patient(connection, 1, PATIENT, PUBPID)
        insert_encounter(connection, 1, 71, ENCOUNTER)
        insert_order(connection, ORDER)
        connection.exec_driver_sql(
            "INSERT INTO prescriptions (id, uuid, patient_id, drug, txDate, usage_category_title, request_intent_title)"
            " VALUES (72, %s, 1, 'aspirin', '2025-01-01', '', '')",
            (PRESCRIPTION,),
        )
        connection.exec_driver_sql(
            f"INSERT INTO {ledger}.entity_map (entity_type, entity_id, kind, local_id, row_id, uuid) VALUES"
            " ('patient', 'P', 'patient', 1, NULL, %s), ('encounter', 'E', 'encounter', 71, 501, %s),"
            " ('order', 'O', 'order', 301, NULL, %s), ('order', 'M', 'medication', 72, NULL, %s)",
            (PATIENT, ENCOUNTER, ORDER, PRESCRIPTION),
        )
        yield connection


def insert_patient(connection: sa.Connection, pid: int, key: bytes, pubpid: str) -> None:
    """Insert a patient as the writer must."""
    connection.exec_driver_sql(
        "INSERT INTO patient_data (pid, uuid, pubpid, lname) VALUES (%s, %s, %s, 'Marker')", (pid, key, pubpid)
    )
    connection.exec_driver_sql(
        "INSERT INTO uuid_registry (uuid, table_name, table_id) VALUES (%s, 'patient_data', 'id')", (key,)
    )


def insert_encounter(connection: sa.Connection, pid: int, number: int, key: bytes, row_id: int = 501) -> None:
    """Insert an encounter with its row in `forms`."""
    connection.exec_driver_sql(
        "INSERT INTO form_encounter (id, uuid, pid, encounter, date) VALUES (%s, %s, %s, %s, '2025-01-01 10:00:00')",
        (row_id, key, pid, number),
    )
    connection.exec_driver_sql(
        "INSERT INTO forms (pid, encounter, form_id, formdir) VALUES (%s, %s, %s, 'newpatient')", (pid, number, row_id)
    )


def insert_order(connection: sa.Connection, key: bytes) -> None:
    """Insert an order of two lines with its row in `forms`."""
    connection.exec_driver_sql(
        "INSERT INTO procedure_order (procedure_order_id, uuid, patient_id, encounter_id) VALUES (301, %s, 1, 71)",
        (key,),
    )
    connection.exec_driver_sql(
        "INSERT INTO procedure_order_code (procedure_order_id, procedure_order_seq) VALUES (301, 1), (301, 2)"
    )
    connection.exec_driver_sql(
        "INSERT INTO forms (pid, encounter, form_id, formdir) VALUES (1, 71, 301, 'procedure_order')"
    )


@dataclasses.dataclass(frozen=True)
class Seen:
    """Which of the four are seen: p, e, o, m; a letter is there when its entity is."""

    screens: str
    fhir: str


ALL = "peom"


def seen(connection: sa.Connection) -> str:
    """Ask the product what FHIR shows of the four."""
    return (
        "p" * len(visible_patients(connection, [PATIENT]))
        + "e" * len(visible_encounters(connection, [ENCOUNTER]))
        + "o" * len(visible_orders(connection, [ORDER]))
        + "m" * len(visible_prescriptions(connection, [PRESCRIPTION]))
    )


def counted(connection: sa.Connection, ledger: str) -> Seen:
    """Ask the product's report, which must have mapped one of each."""
    counts = count_visible(connection, ledger_schema=ledger)

    assert [count.mapped for count in counts.values()] == [1, 1, 1, 1]
    letters = dict(zip(("patient", "encounter", "order", "medication"), ALL, strict=True))
    return Seen(
        screens="".join(letters[kind] * count.screens for kind, count in counts.items()),
        fhir="".join(
            letters[kind] * (count.screens if count.fhir is None else count.fhir) for kind, count in counts.items()
        ),
    )


def accepted(connection: sa.Connection) -> Seen:
    """Ask by hand; only an answer of exactly one counts."""
    patient = "p" * (patient_shown(connection, PUBPID) == 1)
    medication = "m" * (prescription_shown(connection, PRESCRIPTION) == 1)
    on_screens = "e" * (encounter_shown(connection, ENCOUNTER) == 1) + "o" * (order_shown(connection, ORDER) == 1)
    in_fhir = "e" * (encounter_in_fhir(connection, ENCOUNTER) == 1) + "o" * (order_in_fhir(connection, ORDER) == 1)
    return Seen(screens=patient + on_screens + medication, fhir=patient + in_fhir + medication)


WAYS = [
    pytest.param("DO 0", ALL, ALL, id="nothing wrong"),
    pytest.param("UPDATE patient_data SET uuid = NULL", "", "", id="patient without uuid hides all of his"),
    pytest.param("DELETE FROM patient_data", "", "", id="patient missing"),
    pytest.param("DELETE FROM uuid_registry", "eom", "eom", id="patient not registered"),
    pytest.param("UPDATE uuid_registry SET table_name = 'users'", "eom", "eom", id="registered for another table"),
    pytest.param("UPDATE form_encounter SET uuid = NULL", "pom", "pom", id="encounter without uuid"),
    pytest.param("UPDATE form_encounter SET date = NULL", "pom", "pom", id="encounter without date"),
    pytest.param("UPDATE form_encounter SET pc_catid = 4711", "pom", "pom", id="encounter of no category"),
    pytest.param("UPDATE forms SET deleted = 1 WHERE formdir = 'newpatient'", "pom", ALL, id="encounter form deleted"),
    pytest.param(
        "UPDATE forms SET therapy_group_id = 1 WHERE formdir = 'newpatient'", "pom", ALL, id="encounter of a group"
    ),
    pytest.param("DELETE FROM forms WHERE formdir = 'newpatient'", "pom", ALL, id="encounter without form"),
    pytest.param(
        "UPDATE forms SET form_id = 9 WHERE formdir = 'newpatient'", "pom", ALL, id="form of another encounter"
    ),
    pytest.param(
        "INSERT INTO forms (pid, encounter, form_id, formdir) VALUES (1, 71, 501, 'newpatient')",
        "pom",
        ALL,
        id="encounter listed twice",
    ),
    pytest.param(
        "INSERT INTO form_encounter (pid, encounter) VALUES (1, 71)",
        "pom",
        "pom",
        id="number borne twice by the patient",
    ),
    pytest.param("UPDATE form_encounter SET encounter = NULL", "pm", "pm", id="encounter without number"),
    pytest.param("DELETE FROM form_encounter", "pm", "pm", id="encounter missing hides the order"),
    pytest.param("UPDATE form_encounter SET pid = 2", "pm", "pm", id="encounter of a patient who is missing"),
    pytest.param("UPDATE procedure_order SET uuid = NULL", "pem", "pem", id="order without uuid"),
    pytest.param("UPDATE procedure_order SET activity = 0", "pem", "pem", id="order deleted"),
    pytest.param("UPDATE procedure_order SET patient_id = 2", "pem", "pem", id="order of a patient who is missing"),
    pytest.param("DELETE FROM procedure_order_code", "pem", "pem", id="order without code"),
    pytest.param(
        "UPDATE forms SET deleted = 1 WHERE formdir = 'procedure_order'", "pem", ALL, id="order's form deleted"
    ),
    pytest.param("DELETE FROM forms WHERE formdir = 'procedure_order'", "pem", ALL, id="order without form"),
    pytest.param("UPDATE prescriptions SET uuid = NULL", "peo", "peo", id="prescription without uuid"),
    pytest.param("UPDATE prescriptions SET drug = ''", "peo", "peo", id="prescription of no drug"),
    pytest.param("UPDATE prescriptions SET patient_id = 2", "peo", "peo", id="prescription of a missing patient"),
]


@pytest.mark.parametrize(("statement", "screens", "fhir"), WAYS)
def test_each_way_to_be_invisible_is_seen_in_batch_report_and_by_hand(
    openemr: sa.Connection, ledger: str, statement: str, screens: str, fhir: str
) -> None:
    """One statement spoils one thing; all else stays visible."""
    openemr.exec_driver_sql(statement)

    expected = Seen(screens=screens, fhir=fhir)
    assert accepted(openemr) == expected
    assert seen(openemr) == fhir
    on_screens_only = openemr.exec_driver_sql("SELECT v_major < 8 FROM version").scalar()
    report = counted(openemr, ledger)
    assert report.screens == screens
    if not on_screens_only:
        assert report.fhir == fhir


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ("patient_data", "patient"),
        ("form_encounter", "encounter"),
        ("procedure_order", "order"),
        ("prescriptions", "medication"),
    ],
)
def test_the_zero_uuid_is_no_uuid(openemr: sa.Connection, ledger: str, table: str, kind: str) -> None:
    """OpenEMR takes it for a missing one and overwrites it."""
    openemr.exec_driver_sql(f"UPDATE {table} SET uuid = UNHEX(REPEAT('00', 16))")
    openemr.exec_driver_sql(f"UPDATE {ledger}.entity_map SET uuid = UNHEX(REPEAT('00', 16)) WHERE kind = %s", (kind,))
    if kind == "patient":
        openemr.exec_driver_sql("UPDATE uuid_registry SET uuid = UNHEX(REPEAT('00', 16))")
    zero = [bytes(16)]

    assert patient_shown(openemr, PUBPID) == (0 if kind == "patient" else 1)
    assert visible_patients(openemr, zero) == frozenset()
    assert visible_encounters(openemr, zero) == frozenset()
    assert visible_orders(openemr, zero) == frozenset()
    assert visible_prescriptions(openemr, zero) == frozenset()
    count = count_visible(openemr, ledger_schema=ledger)[kind]
    assert (count.mapped, count.screens, count.fhir or 0) == (1, 0, 0)


def test_an_order_that_names_no_encounter_is_shown_by_fhir_only(openemr: sa.Connection, ledger: str) -> None:
    """FHIR leaves the reference out; the screens that list orders ask for the encounter."""
    openemr.exec_driver_sql("UPDATE procedure_order SET encounter_id = 0")

    assert visible_orders(openemr, [ORDER]) == {ORDER}
    assert counted(openemr, ledger).screens == "pem"
    assert count_visible(openemr, ledger_schema=ledger)["order"].fhir in {1, None}


def test_a_stopped_prescription_is_shown_but_not_as_live(openemr: sa.Connection, ledger: str) -> None:
    """FHIR says of a revoked order that it was stopped; the list of prescriptions has the active ones."""
    openemr.exec_driver_sql("UPDATE prescriptions SET active = 0")

    assert prescription_shown(openemr, PRESCRIPTION) == 0
    assert visible_prescriptions(openemr, [PRESCRIPTION]) == {PRESCRIPTION}
    assert count_visible(openemr, ledger_schema=ledger)["medication"] == VisibleCount(mapped=1, screens=0, fhir=1)
    listed = next(one for one in SURFACES if one.name == "prescription list")
    assert openemr.exec_driver_sql(listed.shown, ((PRESCRIPTION,),)).all() == []


def test_a_number_of_two_patients_is_seen_among_those_asked_together_and_in_the_report(
    openemr: sa.Connection, ledger: str
) -> None:
    """No index leads with the encounter number, so that the batch does not look for bearers elsewhere."""
    insert_patient(openemr, 2, OTHER, "P-2025-000002")
    insert_encounter(openemr, 2, 71, OTHER, row_id=502)

    assert encounter_shown(openemr, ENCOUNTER) == 0
    assert visible_encounters(openemr, [ENCOUNTER, OTHER]) == frozenset()
    assert visible_encounters(openemr, [ENCOUNTER]) == {ENCOUNTER}
    assert count_visible(openemr, ledger_schema=ledger)["encounter"] == VisibleCount(mapped=1, screens=0, fhir=0)


def test_of_many_those_that_are_visible_are_returned(openemr: sa.Connection) -> None:
    """More than one statement's worth, given twice, with one hidden and one unknown."""
    keys = [uuid.uuid4().bytes for _ in range(UUIDS_PER_STATEMENT_MAX + 2)]
    for number, key in enumerate(keys, 1000):
        insert_patient(openemr, number, key, str(number))
    openemr.exec_driver_sql("DELETE FROM uuid_registry WHERE uuid = %s", (keys[0],))

    assert visible_patients(openemr, [*keys, *keys, OTHER]) == frozenset(keys[1:])
    assert visible_patients(openemr, []) == frozenset()


def test_the_report_leaves_out_what_was_deleted_and_finds_what_is_gone(openemr: sa.Connection, ledger: str) -> None:
    """A tombstone, or an entity without a row, is not mapped; what OpenEMR merged away is mapped and not shown."""
    openemr.exec_driver_sql(f"UPDATE {ledger}.entity_map SET deleted_at = NOW() WHERE kind = 'medication'")
    openemr.exec_driver_sql(f"UPDATE {ledger}.entity_map SET local_id = NULL WHERE kind = 'order'")
    openemr.exec_driver_sql(f"UPDATE {ledger}.entity_map SET local_id = 4711 WHERE kind = 'patient'")

    counts = count_visible(openemr, ledger_schema=ledger)

    assert counts["patient"] == VisibleCount(mapped=1, screens=0, fhir=0)
    assert counts["medication"] == VisibleCount(mapped=0, screens=0, fhir=0)
    assert counts["order"].mapped == 0


def test_the_report_says_when_fhir_has_no_orders(openemr: sa.Connection, ledger: str) -> None:
    """7.0.3 shows orders on its screens only."""
    new = openemr.exec_driver_sql("SELECT v_major >= 8 FROM version").scalar()

    count = count_visible(openemr, ledger_schema=ledger)["order"]

    assert count == VisibleCount(mapped=1, screens=1, fhir=1 if new else None)


def test_an_empty_ledger_counts_nothing(openemr: sa.Connection, ledger: str) -> None:
    """No sum is NULL."""
    openemr.exec_driver_sql(f"DELETE FROM {ledger}.entity_map")
    openemr.exec_driver_sql("UPDATE version SET v_major = 0, v_minor = 0, v_patch = 0")

    counts = count_visible(openemr, ledger_schema=ledger)

    assert {(count.mapped, count.screens, count.fhir or 0) for count in counts.values()} == {(0, 0, 0)}
