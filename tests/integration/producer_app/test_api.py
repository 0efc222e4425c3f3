"""The HTTP API, served for real, over a real database."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import uvicorn

from connectors.outbox import PAYLOAD_BYTES_MAX
from producer_app.api import create_app
from producer_app.config import AppSettings
from tests import clinic
from tests.integration.producer_app.conftest import Inspection


@contextlib.contextmanager
def serving(settings: AppSettings) -> Iterator[httpx.Client]:
    """Serve the API on a free port, and give a client of it."""
    server = uvicorn.Server(uvicorn.Config(create_app(settings), host="127.0.0.1", port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as client:
        yield client
    server.should_exit = True
    thread.join(timeout=10)


@pytest.fixture
def client(settings: AppSettings) -> Iterator[httpx.Client]:
    """Give a client of the API on a new database."""
    with serving(settings) as made:
        yield made


@pytest.fixture
def nowhere() -> Iterator[httpx.Client]:
    """Give a client of an API whose database is down."""
    settings = AppSettings.read(app_url="postgresql+psycopg://app:Sesame@127.0.0.1:1/clinic")
    with serving(settings) as made:
        yield made


def test_the_life_of_each_entity(client: httpx.Client) -> None:
    """POST, PUT, GET, DELETE, by id and in lists."""
    patient_id = client.post("/patients", json=clinic.patient(patient_id=None)).json()["entity_id"]
    for path, fields in (("encounters", clinic.encounter(patient_id)), ("orders", clinic.order(patient_id))):
        created = client.post(f"/{path}", json=fields)
        location = created.headers["Location"]
        assert (created.status_code, len(created.json()["outbox_ids"])) == (201, 1)
        assert client.put(location, json=fields).status_code == 200
        assert client.get(location).json()["state"] == fields
        assert client.get(f"/{path}", params={"patient_id": patient_id}).json()["entity_ids"] == [
            created.json()["entity_id"]
        ]
        assert client.delete(location).status_code == 200
        assert client.get(location).json()["deleted_at"] is not None
        assert client.get(f"/{path}").json() == {"entity_ids": [], "next_after": None}


@pytest.mark.parametrize(
    "patient_id",
    ["환자-1", "Zoë-É-1", "ward/7", "/7/", "a/../b", "50% of? #1&x=y;z", "P-\N{COW FACE}"],
    ids=["Hangul", "accents", "slash", "slashes at the ends", "dots", "reserved", "four bytes"],
)
def test_an_id_of_any_characters_is_created_read_changed_and_deleted(
    client: httpx.Client, inspection: Inspection, patient_id: str
) -> None:
    """By the address in Location, and by the same one with its slashes as they are."""
    fields = clinic.patient(patient_id=patient_id)

    created = client.post("/patients", json=fields)

    location = created.headers["Location"]
    assert (created.status_code, created.json()["entity_id"]) == (201, patient_id)
    assert location.isascii()
    for address in (location, location.replace("%2F", "/") if ".." not in patient_id else location):
        assert client.get(address).json()["state"] == fields
    assert client.put(location, json=fields).status_code == 200
    assert client.delete(location).status_code == 200
    assert client.get(location).json()["deleted_at"] is not None
    assert [row["operation"] for row in inspection.outbox(patient_id)] == ["create", "update", "delete"]


def test_a_list_with_a_slash_at_its_end_is_the_list(client: httpx.Client) -> None:
    """And not an entity without an id."""
    client.post("/patients", json=clinic.patient(patient_id="P-1"))

    assert client.get("/patients/", follow_redirects=True).json()["entity_ids"] == ["P-1"]


def test_the_sync_status_is_that_of_the_newest_change_per_target(client: httpx.Client, app_url: str) -> None:
    """As the consumer left it in the outbox."""
    fields = clinic.patient()
    client.post("/patients", json=fields)
    _, fhir = client.put(f"/patients/{fields['patient_id']}", params={"target": "both"}, json=fields).json()[
        "outbox_ids"
    ]
    engine = sa.create_engine(app_url, poolclass=sa.NullPool)
    with engine.begin() as marker:
        marker.execute(
            sa.text(
                "UPDATE sync_outbox SET status = 'failed', outcome = 'rejected', error_class = 'NotVisible'"
                " WHERE outbox_id = :id"
            ),
            {"id": fhir},
        )
        marker.execute(sa.text("UPDATE patient_cache SET last_synced_at = '2025-03-01T00:00:00Z'"))

    shown = client.get(f"/patients/{fields['patient_id']}").json()

    told = [(one["target_system"], one["operation"], one["status"], one["error_class"]) for one in shown["sync"]]
    assert told == [("openemr", "update", "pending", None), ("fhir", "update", "failed", "NotVisible")]
    assert shown["last_synced_at"] == "2025-03-01T00:00:00Z"


@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        (b"{", "payload", "is no valid JSON"),
        (b"", "payload", "is no valid JSON"),
        (b"7", "payload", "is no JSON object"),
        (b"\xff\xfe", "payload", "is no valid JSON"),
        (b"[" * 10_000, "payload", "is no valid JSON"),
        (json.dumps(clinic.patient(birth_date="1980-13-01")), "birth_date", None),
        (json.dumps(clinic.patient(given_name=7)), "given_name", None),
        (json.dumps(clinic.patient(nick_name="x")), "nick_name", "is no field of this payload"),
        (json.dumps(clinic.patient(given_name="a\0")), "given_name", None),
        (json.dumps(clinic.patient(given_name="\ud800")), "payload", "is no valid JSON"),
        (json.dumps(clinic.patient(patient_id="")), "patient_id", None),
        (b" " * (PAYLOAD_BYTES_MAX + 1), "payload", "has more than 1048576 bytes"),
    ],
    ids=["syntax", "empty", "number", "bytes", "deep", "date", "type", "unknown", "nul", "surrogate", "no id", "large"],
)
def test_invalid_input_is_422_with_field_and_reason_and_nothing_is_written(
    client: httpx.Client,
    inspection: Inspection,
    caplog: pytest.LogCaptureFixture,
    *,
    body: Any,
    field: str,
    reason: str | None,
) -> None:
    """And no value of it is answered or logged."""
    caplog.set_level(logging.DEBUG)

    answer = client.post("/patients", content=body)

    assert answer.status_code == 422
    (told,) = answer.json()["fields"]
    assert told["field"] == field
    assert reason in (None, told["reason"])
    assert clinic.FAMILY_NAME not in answer.text + caplog.text
    assert (inspection.business_rows(), inspection.outbox()) == (0, [])


def test_what_is_not_there_is_404_and_what_cannot_be_is_409(client: httpx.Client) -> None:
    """With a text that says which."""
    fields = clinic.patient()
    client.post("/patients", json=fields)
    path = f"/patients/{fields['patient_id']}"

    assert client.post("/patients", json=fields).status_code == 409
    client.delete(path)
    deleted = client.put(path, json=fields)
    assert (deleted.status_code, deleted.json()["detail"]) == (409, "the patient was deleted")
    for method in ("GET", "PUT", "DELETE"):
        absent = client.request(method, "/patients/P-2025-999999", content=json.dumps(clinic.patient(patient_id=None)))
        assert (absent.status_code, absent.json()["detail"]) == (404, "there is no patient with this id")


def test_a_missing_patient_is_422_at_the_field_that_names_it(client: httpx.Client) -> None:
    """It is the body that is wrong, not the address."""
    answer = client.post("/encounters", json=clinic.encounter("P-2025-999999"))

    assert (answer.status_code, answer.json()["fields"][0]["field"]) == (422, "patient_id")


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=many", "target=hl7"])
def test_a_wrong_parameter_is_422_without_its_value(client: httpx.Client, query: str) -> None:
    """In the same form as a wrong field."""
    name, value = query.split("=")

    answer = client.get(f"/patients?{query}") if name == "limit" else client.post(f"/patients?{query}", content=b"{}")

    assert answer.status_code == 422
    assert [one["field"] for one in answer.json()["fields"]] == [name]
    assert f"'{value}'" not in answer.text


def test_a_list_is_read_page_by_page(client: httpx.Client) -> None:
    """Each page names where the next begins."""
    for number in range(5):
        client.post("/patients", json=clinic.patient(patient_id=f"P-{number}"))

    pages = []
    after: str | None = ""
    while after is not None:
        page = client.get("/patients", params={"after": after, "limit": 2}).json()
        pages.append(page["entity_ids"])
        after = page["next_after"]

    assert pages == [["P-0", "P-1"], ["P-2", "P-3"], ["P-4"]]


def test_a_database_that_is_down_is_503_with_a_clear_text(nowhere: httpx.Client) -> None:
    """Whatever was asked; the text names no host, account or password."""
    answers = [
        nowhere.get("/health"),
        nowhere.get("/patients"),
        nowhere.get("/patients/P-1"),
        nowhere.post("/patients", json=clinic.patient()),
        nowhere.post("/patients", json=clinic.patient(patient_id=None)),
        nowhere.delete("/patients/P-1"),
    ]

    assert {(one.status_code, one.json()["detail"]) for one in answers} == {
        (503, "the application's database does not answer (no connection)")
    }


def test_invalid_input_is_told_even_when_the_database_is_down(nowhere: httpx.Client) -> None:
    """A body is checked before a connection is taken."""
    assert nowhere.post("/patients", content=b"{").status_code == 422


def test_a_database_that_answers_is_healthy(client: httpx.Client) -> None:
    """The counterpart."""
    assert client.get("/health").json() == {"status": "ok"}


def test_the_openapi_page_describes_the_payload_contract(nowhere: httpx.Client) -> None:
    """Every reference in it leads somewhere, and it needs no database."""
    document = nowhere.get("/openapi.json").json()

    schemas = document["components"]["schemas"]
    text = json.dumps(document)
    references = {piece.split('"')[0] for piece in text.split("#/components/schemas/")[1:]}
    body = document["paths"]["/patients"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/PatientPayload"}
    assert references <= set(schemas)
    assert "family_name" in schemas["PatientPayload"]["properties"]
    assert "$defs" not in text
    assert "/patients/{entity_id}" in document["paths"]
    assert nowhere.get("/docs").status_code == 200
