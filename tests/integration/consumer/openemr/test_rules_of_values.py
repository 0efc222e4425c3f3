"""Rules 12 and 13 of a direct-database writer: sessions, dates and option ids."""

from __future__ import annotations

import datetime as dt
import uuid

import pytest

from consumer.openemr.session import SQL_MODE
from consumer.outcome import Applied
from tests import clinic
from tests.integration.consumer.openemr.sites import Fields, Site, at, event, medication


def test_rule_12_sessions_are_strict_in_utf8mb4_and_the_sites_zone(site: Site) -> None:
    """Both of the writer's: OpenEMR's own are lax."""
    patient = clinic.patient()
    site.put(patient)
    connections = (site.target._connection, site.target._numbers._connection)
    names = "@@sql_mode, @@character_set_client, @@character_set_connection, @@transaction_isolation"
    if "MariaDB" in site.value("SELECT VERSION()"):
        names = names.replace("transaction_isolation", "tx_isolation")
    for connection in connections:
        with connection.begin():
            mode, *charsets, isolation = connection.exec_driver_sql(f"SELECT {names}").one()

        assert set(mode.split(",")) == set(SQL_MODE.split(","))
        assert "STRICT_TRANS_TABLES" in mode
        assert (charsets, isolation) == (["utf8mb4", "utf8mb4"], "READ-COMMITTED")
    with connections[0].begin():
        offset, now = connections[0].exec_driver_sql("SELECT @@time_zone, NOW()").one()
    assert offset in {"-04:00", "-05:00"}
    assert abs(site.of(patient)["date"] - now) < dt.timedelta(minutes=1)
    if not site.old:
        assert abs(site.of(patient)["last_updated"] - now) < dt.timedelta(minutes=1)


def test_rule_12_a_session_that_was_lost_is_followed_by_one_in_the_sites_zone(site: Site) -> None:
    """The server's zone would put ON UPDATE columns hours off."""
    patient = clinic.patient()
    with site.reopened() as one:
        one.put(patient)
        one.target._connection.invalidate()
        one.put({**patient, "given_name": "Grace"}, operation="update")
        with one.target._connection.begin():
            zone = one.target._connection.exec_driver_sql("SELECT @@time_zone").scalar_one()

    assert zone in {"-04:00", "-05:00"}


LOCAL_TIMES = [
    pytest.param("2025-01-01T04:59:59Z", "2024-12-31 23:59:59", id="the year before"),
    pytest.param("2025-07-01T03:59:59.999999Z", "2025-06-30 23:59:59", id="the day before in summer"),
    pytest.param("2025-03-09T06:59:59Z", "2025-03-09 01:59:59", id="last second of winter"),
    pytest.param("2025-03-09T07:00:00Z", "2025-03-09 03:00:00", id="first second of summer"),
    pytest.param("2025-11-02T05:30:00Z", "2025-11-02 01:30:00", id="the hour before the clock goes back"),
    pytest.param("2025-11-02T06:30:00Z", "2025-11-02 01:30:00", id="the same hour again"),
    pytest.param("2025-03-01T09:30:00+09:00", "2025-02-28 19:30:00", id="from Seoul"),
    pytest.param("1969-12-31T23:59:59Z", "1969-12-31 18:59:59", id="before 1970"),
    pytest.param("1931-07-04T12:00:00Z", "1931-07-04 08:00:00", id="a summer long ago"),
    pytest.param("1850-01-01T12:00:00Z", "1850-01-01 07:03:58", id="before time zones"),
    pytest.param("2038-01-19T03:14:08Z", "2038-01-18 22:14:08", id="after 2038"),
    pytest.param("9999-12-31T23:59:59Z", "9999-12-31 18:59:59", id="the last year"),
]


@pytest.mark.parametrize(("instant", "local"), LOCAL_TIMES)
def test_instants_are_written_as_the_sites_local_time(site: Site, instant: str, local: str) -> None:
    """OpenEMR's columns are naive; each is read back in the site's zone."""
    patient = clinic.patient(deceased_at=instant, registered_at=instant)
    visit = clinic.encounter(patient["patient_id"], started_at=instant, ended_at=instant)
    order = clinic.order(patient["patient_id"], ordered_at=instant, encounter_id=visit["encounter_id"])
    drug = medication(patient["patient_id"], ordered_at=instant)
    site.put(patient, visit, order, drug)

    wanted = at(local)
    assert (site.of(patient)["deceased_date"], site.of(patient)["regdate"]) == (wanted, wanted)
    assert (site.of(visit)["date"], site.of(visit)["date_end"]) == (wanted, wanted)
    assert site.of(order)["date_ordered"] == wanted
    assert (site.of(drug)["date_added"], site.of(drug)["txDate"]) == (wanted, wanted.date())
    dates = site.rows("SELECT DISTINCT date FROM forms WHERE pid = %s", site.of(patient)["pid"])
    assert dates == [{"date": wanted}]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"birth_date": "0999-12-31"}, "birth_date: is before 1000-01-01, which OpenEMR's dates cannot hold"),
        ({"deceased_at": "0001-01-01T00:00:00+14:00"}, "deceased_at: is out of range"),
        ({"registered_at": "0900-01-01T00:00:00Z"}, "registered_at: is before 1000-01-01, which OpenEMR's"),
    ],
)
def test_dates_that_openemr_cannot_hold_are_refused_by_name(site: Site, fields: Fields, message: str) -> None:
    """Outside the range that both servers state."""
    error_class, found = site.refusal(clinic.patient(**fields))

    assert error_class == "refused"
    assert found.startswith(message)


def test_the_oldest_birth_date_and_a_leap_day_are_kept(site: Site) -> None:
    """Dates have no time zone."""
    first, second = clinic.patient(birth_date="1000-01-01"), clinic.patient(birth_date="2024-02-29")
    site.put(first, second)

    assert (site.of(first)["DOB"], site.of(second)["DOB"]) == (dt.date(1000, 1, 1), dt.date(2024, 2, 29))


def test_absent_text_is_empty_and_absent_dates_are_null(site: Site) -> None:
    """NOT NULL columns refuse an explicit NULL, and a date has no empty value; also when an update takes them away."""
    bare = clinic.patient()
    full = clinic.patient(middle_name="M", suffix="Jr", marital_status="married", deceased_at="2025-01-01T00:00:00Z")
    cleared = {name: full[name] for name in bare}
    site.put(bare, full)
    site.put(cleared, operation="update")

    for fields in (bare, cleared):
        row = site.of(fields)
        empty = ("mname", "title", "street", "city", "county", "country_code", "phone_home", "email", "status", "race")
        assert {row[name] for name in empty} == {""}
        assert {row[name] for name in ("suffix", "preferred_name", "street_line_2", "deceased_date", "regdate")} == {
            None
        }


@pytest.mark.parametrize(
    ("sex", "option"), [("male", "Male"), ("female", "Female"), ("unknown", "UNK"), ("other", "Other")]
)
def test_rule_13_sex_is_an_option_id(site: Site, sex: str, option: str) -> None:
    """Capitals as OpenEMR writes them."""
    patient = clinic.patient(sex=sex)
    site.put(patient)

    assert site.of(patient)["sex"] == option


def test_rule_13_marital_status_goes_into_status_and_other_lists_into_their_columns(site: Site) -> None:
    """patient_data.status is no record state."""
    patient = clinic.patient(
        marital_status="domestic partner", language="English", race="Asian", ethnicity="not_hisp_or_latin"
    )
    site.put(patient)

    row = site.of(patient)
    assert [row[name] for name in ("status", "language", "race", "ethnicity")] == [
        "domestic partner",
        "English",
        "Asian",
        "not_hisp_or_latin",
    ]


@pytest.mark.parametrize("spelling", ["declne_to_specfy", "decline_to_specify"])
@pytest.mark.parametrize("name", ["race", "ethnicity", "language"])
def test_rule_13_declining_is_spelled_as_the_site_spells_it(site: Site, name: str, spelling: str) -> None:
    """It was renamed in 8.1.0, and unevenly on upgraded sites."""
    patient = clinic.patient(**{name: spelling})
    site.put(patient)

    assert site.of(patient)[name] == ("declne_to_specfy" if site.old else "decline_to_specify")


@pytest.mark.parametrize(
    ("name", "value", "list_id"),
    [
        ("marital_status", "engaged", "marital"),
        ("marital_status", "active", "marital"),
        ("language", "klingon", "language"),
        ("race", "martian", "race"),
        ("ethnicity", "", "ethnicity"),
    ],
)
def test_rule_13_an_unknown_option_of_a_patient_is_refused(site: Site, name: str, value: str, list_id: str) -> None:
    """OpenEMR's screens would show it as no option; the message names what may be written."""
    error_class, message = site.refusal(clinic.patient(**{name: value}))

    if value:
        assert error_class == "unknown_option"
        assert message.startswith(f"{name}: is no option of OpenEMR's list {list_id}, which has ")
        assert value not in message
    else:
        assert error_class == "invalid_payload"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"class_code": "A" * 11},
            (
                "class_code: is no option of OpenEMR's list _ActEncounterCode, which has AMB, EMER, FLD, HH, IMP,"
                " ACUTE, NONAC, OBSENC, PRENC, SS and 1 more"
            ),
        ),
        ({"category_id": 4711}, "category_id: is no calendar category of OpenEMR"),
    ],
)
def test_rule_13_an_unknown_code_of_an_encounter_is_refused(site: Site, fields: Fields, message: str) -> None:
    """The visit history joins the category; a class that is no option shows nothing."""
    patient = clinic.patient()
    site.put(patient)

    assert site.refusal(clinic.encounter(patient["patient_id"], **fields)) == ("unknown_option", message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"route": "by post"}, "route: is no option of OpenEMR's list drug_route, which has "),
        ({"form": "pill"}, "form: is no option of OpenEMR's list drug_form, which has "),
        ({"unit": "furlong"}, "unit: is no option of OpenEMR's list drug_units, which has 0, 1, 2, "),
    ],
)
def test_rule_13_an_unknown_option_of_a_prescription_is_refused(site: Site, fields: Fields, message: str) -> None:
    """A number that means nothing would be shown as nothing."""
    patient = clinic.patient()
    site.put(patient)

    error_class, found = site.refusal(medication(patient["patient_id"], **fields))
    assert error_class == "unknown_option"
    assert found.startswith(message)


@pytest.mark.parametrize("class_code", ["AMB", "EMER", "IMP", "OBSENC", "VR"])
def test_rule_13_class_codes_are_kept(site: Site, class_code: str) -> None:
    """With another category than the default."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"], class_code=class_code, category_id=10)
    site.put(patient, visit)

    assert (site.of(visit)["class_code"], site.of(visit)["pc_catid"]) == (class_code, 10)


@pytest.mark.parametrize(
    ("priority", "old", "new"),
    [
        (None, "normal", "routine"),
        ("routine", "normal", "routine"),
        ("urgent", "high", "urgent"),
        ("asap", "high", "asap"),
        ("stat", "high", "stat"),
    ],
)
def test_rule_13_priorities_are_the_nearest_that_the_version_has(
    site: Site, priority: str | None, old: str, new: str
) -> None:
    """Up to 7.0.3 the list has high and normal only."""
    patient = clinic.patient()
    order = clinic.order(patient["patient_id"], priority=priority)
    site.put(patient, order)

    assert site.of(order)["order_priority"] == (old if site.old else new)


@pytest.mark.parametrize(
    ("status", "option"),
    [
        ("draft", "draft"),
        ("active", "pending"),
        ("on-hold", "on-hold"),
        ("completed", "complete"),
        ("revoked", "canceled"),
    ],
)
def test_rule_13_order_status_is_what_fhir_reads_back(site: Site, status: str, option: str) -> None:
    """A revoked order is canceled and stays in view."""
    patient = clinic.patient()
    order = clinic.order(patient["patient_id"], status=status)
    site.put(patient, order)

    assert (site.of(order)["order_status"], site.of(order)["activity"]) == (option, 1)


@pytest.mark.parametrize(
    ("system", "code_type"),
    [
        ("http://loinc.org", "LOINC"),
        ("http://snomed.info/sct", "SNOMED-CT"),
        ("http://www.ama-assn.org/go/cpt", "CPT4"),
        ("CPT4", "CPT4"),
        ("OWN", "OWN"),
    ],
)
def test_rule_13_codes_carry_openemrs_code_type(site: Site, system: str, code_type: str) -> None:
    """A bare code is only text to FHIR."""
    patient = clinic.patient()
    code = uuid.uuid4().hex[:12]
    order = clinic.order(patient["patient_id"], code={"system": system, "code": code, "display": "x"})
    site.put(patient, order)

    sql = "SELECT procedure_code FROM procedure_order_code WHERE procedure_order_id = %s"
    assert site.value(sql, site.of(order)["procedure_order_id"]) == f"{code_type}:{code}"


def test_rule_13_an_unknown_provider_or_facility_is_flagged_and_the_encounter_kept(site: Site) -> None:
    """The outcome says what could not be carried over."""
    patient = clinic.patient()
    visit = clinic.encounter(patient["patient_id"], provider_npi="9999999999", facility_name="St. Elsewhere")
    site.put(patient)

    outcome = site.apply(event("create", visit))

    unknown_provider = "provider_npi: no user of OpenEMR has it; written without provider"
    unknown_facility = "facility_name: no facility of OpenEMR has it; written as text only"
    assert outcome == [Applied(f"{unknown_provider}; {unknown_facility}")]
    row = site.of(visit)
    assert (row["provider_id"], row["facility"], row["facility_id"]) == (0, "St. Elsewhere", 0)
