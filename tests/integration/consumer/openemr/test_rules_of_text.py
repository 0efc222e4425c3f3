"""Rule 12 of a direct-database writer: text of every script is kept whole, or refused with its field's name."""

from __future__ import annotations

import random
import uuid
from typing import Any

import pytest

from tests import clinic
from tests.integration.consumer.openemr.sites import Fields, Site, medication

SCRIPTS = {
    "Hangul": "가각간갇갈갉갊감김이박최정강조윤장임",
    "Latin": "ÀÉÎÕÜßçñøåæœžšđłőűțȘḂẞ'aeiou",
    "Han": "王李張劉陳楊黃趙吳周徐孫馬朱胡郭何高林",
    "Arabic": "محمدعليفاطمةأحمدخالديوسفﻻ",
    "four bytes": "𠮷𩸽𠜎𡃁😀🩺𝒜𓀀🇰🇷👩🏽\u200d⚕️",
}
TEXTS = {"family_name": "lname", "given_name": "fname", "middle_name": "mname", "preferred_name": "preferred_name"}


def made_up_name(source: random.Random, *alphabets: str) -> str:
    """Give a name of these alphabets, mixed."""
    letters = "".join(alphabets)
    return "".join(source.choice(letters) for _ in range(source.randint(2, 12)))


def test_two_thousand_patients_of_five_scripts_come_back_as_they_were(site: Site) -> None:
    """Of one script, of all mixed, and with an id in them too."""
    source = random.Random(20250301)
    alphabets = list(SCRIPTS.values())
    patients = []
    for number in range(2_000):
        chosen = [alphabets[number % 5]] if number % 2 else alphabets
        named = {field: made_up_name(source, *chosen) for field in TEXTS}
        # An id may not begin or end with white space, and is 100 characters long at most.
        patients.append(clinic.patient(patient_id=f"P-{number}-{named['given_name']}-{uuid.uuid4().hex}", **named))

    for start in range(0, len(patients), 500):
        site.put(*patients[start : start + 500])

    columns = ", ".join(f"p.{column}" for column in TEXTS.values())
    rows = site.rows(
        f"SELECT m.entity_id, p.pubpid, {columns} FROM {site.ledger}.entity_map m"
        " JOIN patient_data p ON p.uuid = m.uuid AND p.pid = m.local_id WHERE m.entity_type = 'patient'"
    )
    found = {row["entity_id"]: [row["pubpid"], *(row[column] for column in TEXTS.values())] for row in rows}
    wanted = {one["patient_id"]: [one["patient_id"], *(one[field] for field in TEXTS)] for one in patients}
    assert {key: found.get(key) for key in wanted} == wanted


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("O'Keefe", id="quote"),
        pytest.param('"Double" \\ back \\\\ slash \\', id="backslashes"),
        pytest.param("100 % %s %(pid)s %d %%", id="percent"),
        pytest.param("two\nlines\r\nand\ttab", id="newlines"),
        pytest.param("; DROP TABLE patient_data; -- ", id="statement"),
        pytest.param("`tick` {brace} ? :name @x", id="placeholders"),
        pytest.param("\u200f\u0301 e\u0301 é", id="marks that combine"),
        pytest.param("nul \x00 \x1a and \x08", id="control characters"),
        pytest.param("Null", id="the word null"),
    ],
)
def test_text_comes_back_as_it_was_inserted_and_updated(site: Site, name: str) -> None:
    """In every table that a person's words reach, by INSERT and by UPDATE."""
    for operation in ("create", "update"):
        patient = clinic.patient()
        visit = clinic.encounter(patient["patient_id"])
        named = {"encounter_id": visit["encounter_id"]}
        coded = {"system": "LOINC", "code": uuid.uuid4().hex[:9], "display": name}
        order = clinic.order(patient["patient_id"], **named)
        drug = medication(patient["patient_id"], **named)
        if operation == "update":
            site.put(patient, visit, order, drug)
        patient |= {"family_name": name, "address": {"line2": name}}
        site.put(
            patient,
            {**visit, "reason": name},
            {**order, "code": coded, "instructions": name},
            {**drug, "drug": name},
            operation=operation,
        )

        assert (site.of(patient)["lname"], site.of(patient)["street_line_2"]) == (name, name)
        assert site.of(visit)["reason"] == name
        assert site.of(order)["patient_instructions"] == name
        assert site.of(drug)["drug"] == name
        line = site.row(
            "SELECT c.procedure_name, t.name FROM procedure_order_code c JOIN procedure_type t USING (procedure_code)"
            " WHERE c.procedure_order_id = %s",
            site.of(order)["procedure_order_id"],
        )
        assert line == {"procedure_name": name, "name": name}


@pytest.mark.parametrize(
    ("one", "other"),
    [("x-case", "X-Case"), ("x-åccent", "x-accent"), ("x-ß", "x-ss"), ("x-é", "x-e\u0301")],
)
def test_ids_that_differ_only_in_case_or_accents_are_two_patients(site: Site, one: str, other: str) -> None:
    """OpenEMR's collation takes them for equal; the map does not."""
    tail = uuid.uuid4().hex
    first = clinic.patient(patient_id=f"{one}-{tail}", given_name="First")
    second = clinic.patient(patient_id=f"{other}-{tail}", given_name="Second")
    site.put(first, second)
    site.put({**second, "given_name": "Changed"}, operation="update")
    site.delete(first)

    assert site.of(first)["pid"] != site.of(second)["pid"]
    assert (site.of(first)["fname"], site.of(second)["fname"]) == ("First", "Changed")
    assert site.of(second)["pubpid"] == second["patient_id"]


def test_long_ids_are_left_out_of_the_narrow_columns_rather_than_cut(site: Site) -> None:
    """A cut id would be another entity's; pubpid holds every id whole."""
    patient = clinic.patient(patient_id=f"{uuid.uuid4()}")
    visit = clinic.encounter(patient["patient_id"], encounter_id=f"{uuid.uuid4()}")
    order = clinic.order(patient["patient_id"], order_id=f"{uuid.uuid4()}", encounter_id=visit["encounter_id"])
    drug = medication(patient["patient_id"], order_id=f"{uuid.uuid4()}", encounter_id=visit["encounter_id"])
    site.put(patient, visit, order, drug)

    assert site.of(patient)["pubpid"] == patient["patient_id"]
    assert [site.of(one)["external_id"] for one in (visit, order, drug)] == [None, None, None]


def test_ids_of_a_hundred_characters_and_of_twenty_are_kept_whole(site: Site) -> None:
    """The limits of the key and of external_id, in characters and not in bytes."""
    patient = clinic.patient(patient_id=uuid.uuid4().hex + "𠮷" * 68)
    visit = clinic.encounter(patient["patient_id"], encounter_id=uuid.uuid4().hex[:16] + "𠮷" * 4)
    site.put(patient, visit)

    assert site.of(patient)["pubpid"] == patient["patient_id"]
    assert site.of(visit)["external_id"] == visit["encounter_id"]


PATIENT_LIMITS = {
    "family_name": 255,
    "given_name": 255,
    "middle_name": 255,
    "title": 255,
    "phone_home": 255,
    "phone_mobile": 255,
    "phone_work": 255,
    "email": 255,
    "national_id": 255,
    "address.line": 255,
    "address.city": 255,
    "address.state": 255,
    "address.postal_code": 255,
    "address.county": 40,
    "address.country": 255,
}
"""In characters."""

PATIENT_BYTE_LIMITS = {"suffix": 255, "preferred_name": 255, "address.line2": 255}
"""TINYTEXT counts bytes."""


def with_field(fields: Fields, name: str, value: Any) -> dict[str, Any]:
    """Set a field; a point leads into an object."""
    outer, _, inner = name.partition(".")
    return {**fields, outer: {**(fields.get(outer) or {}), inner: value} if inner else value}


def column_of(site: Site, refused: str) -> str:
    """Give the column that a message names."""
    return refused.partition("OpenEMR's ")[2].partition(" ")[0]


@pytest.mark.parametrize(("name", "limit"), PATIENT_LIMITS.items())
def test_a_text_of_a_patient_may_fill_its_column_and_no_more(site: Site, name: str, limit: int) -> None:
    """Of characters of four bytes, so that nobody counts bytes."""
    patient = clinic.patient()
    fits, too_long = (with_field(patient, name, "𠮷" * size) for size in (limit, limit + 1))

    error_class, message = site.refusal(too_long)
    site.put(fits)

    assert error_class == "too_long"
    assert message.startswith(f"{name}: has {limit + 1} characters, OpenEMR's patient_data.")
    assert message.endswith(f" holds {limit}")
    assert site.of(fits)[column_of(site, message).removeprefix("patient_data.")] == "𠮷" * limit


@pytest.mark.parametrize(("name", "limit"), PATIENT_BYTE_LIMITS.items())
def test_a_tinytext_of_a_patient_holds_bytes(site: Site, name: str, limit: int) -> None:
    """255 of ASCII, 85 of Hangul."""
    patient = clinic.patient()
    hangul, ascii_only = (with_field(patient, name, text) for text in ("가" * 85, "a" * limit))

    too_long = site.refusal(with_field(patient, name, "가" * 85 + "a"))
    site.put(hangul)
    site.put(ascii_only, operation="update")

    column = {"address.line2": "street_line_2"}.get(name, name)
    assert too_long == ("too_long", f"{name}: has 256 bytes, OpenEMR's patient_data.{column} holds 255")
    assert site.of(patient)[column] == "a" * 255


def test_all_texts_of_a_patient_at_their_limits_fit_into_one_row(site: Site) -> None:
    """A row has a limit of its own."""
    patient = clinic.patient()
    for name, limit in PATIENT_LIMITS.items():
        patient = with_field(patient, name, "𠮷" * limit)
    for name, limit in PATIENT_BYTE_LIMITS.items():
        patient = with_field(patient, name, "a" * limit)
    site.put(patient)
    site.put({**patient, "family_name": "𩸽" * 255}, operation="update")

    assert (site.of(patient)["lname"], site.of(patient)["county"]) == ("𩸽" * 255, "𠮷" * 40)


ORDER_LIMITS = [
    ("code.code", "procedure_order_code.procedure_code", 64),
    ("code.display", "procedure_order_code.procedure_name", 255),
    ("drug", "prescriptions.drug", 150),
    ("dosage", "prescriptions.dosage", 100),
    ("quantity", "prescriptions.quantity", 31),
    ("rxnorm", "prescriptions.rxnorm_drugcode", 25),
]


@pytest.mark.parametrize(("name", "column", "limit"), ORDER_LIMITS)
def test_a_text_of_an_order_may_fill_its_column_and_no_more(site: Site, name: str, column: str, limit: int) -> None:
    """A code is kept with its system before it."""
    patient = clinic.patient()
    order = (clinic.order if name.startswith("code") else medication)(patient["patient_id"])
    site.put(patient)
    prefix = "LOINC:" if name == "code.code" else ""
    letters = uuid.uuid4().hex[:16]
    text = letters + "é" * (limit - len(prefix + letters))
    fits, too_long = (with_field(order, name, one) for one in (text, text + "é"))

    refused = site.refusal(too_long)
    site.put(fits)

    assert refused == ("too_long", f"{name}: has {limit + 1} characters, OpenEMR's {column} holds {limit}")
    table, _, at_column = column.partition(".")
    key = {"procedure_order_code": "procedure_order_id", "prescriptions": "id"}[table]
    value = site.value(f"SELECT {at_column} FROM {table} WHERE {key} = %s", site.mapped(order)["local_id"])
    assert value == prefix + text


@pytest.mark.parametrize(
    ("name", "value", "column"),
    [
        ("instructions", "가" * 21_846, "procedure_order.patient_instructions"),
        ("diagnosis_codes", ["a" * 999] * 66, "procedure_order_code.diagnoses"),
    ],
)
def test_a_long_text_of_an_order_is_measured_in_bytes(site: Site, name: str, value: Any, column: str) -> None:
    """TEXT holds 65,535 of them."""
    patient = clinic.patient()
    order = clinic.order(patient["patient_id"])
    site.put(patient, {**order, name: value[:-1]})

    error_class, message = site.refusal({**order, name: value}, operation="update")

    assert error_class == "too_long"
    assert (message.split(":")[0], column_of(site, message)) == (name, column)
    assert message.endswith("holds 65535")
