"""The committed Avro schemas: in step with the models, and able to read what the last release wrote."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import fastavro
import pytest

import connectors.contracts.released
from connectors import contracts
from connectors.outbox import EntityType
from connectors.payloads import MODELS, check_payload

COMMITTED = Path(contracts.__file__).parent
RELEASED = Path(connectors.contracts.released.__file__).parent

PATIENT = {
    "patient_id": "P-1",
    "family_name": "Kim",
    "given_name": "Min",
    "birth_date": "1980-02-29",
    "sex": "female",
    "address": {"line": "1 Main St", "city": "Seoul"},
    "registered_at": "2025-03-01T09:30:00+09:00",
}
MEDICATION = {
    "order_id": "O-1",
    "patient_id": "P-1",
    "ordered_at": "2025-03-01T09:30:00+09:00",
    "status": "active",
    "kind": "medication",
    "drug": "Amoxicillin 250 MG",
    "refills": 2,
    "diagnosis_codes": ["ICD10:J20.9"],
}


@pytest.mark.parametrize(("entity_type", "version"), sorted(MODELS), ids=str)
def test_the_committed_schema_is_what_the_model_gives(entity_type: EntityType, version: int) -> None:
    """A model that changed without its schema would surprise readers of archives."""
    committed = (COMMITTED / contracts.schema_name(entity_type, version)).read_text(encoding="utf-8")

    assert contracts.avro_text(entity_type, version) == committed, "run: python -m connectors.contracts"


def test_every_schema_file_belongs_to_a_model() -> None:
    """No schema is forgotten, and none is left over."""
    expected = {contracts.schema_name(entity_type, version) for entity_type, version in MODELS}

    assert expected == {path.name for path in COMMITTED.glob("*.avsc")}


@pytest.mark.parametrize("path", sorted(RELEASED.glob("*.avsc")), ids=lambda path: path.stem)
@pytest.mark.parametrize("filled", [True, False], ids=["every field", "required fields only"])
def test_the_schema_reads_what_the_last_release_wrote(path: Path, filled: bool) -> None:
    """Written with the released schema, read with the present one, as Avro resolves them."""
    released = json.loads(path.read_text(encoding="utf-8"))
    present = json.loads((COMMITTED / path.name).read_text(encoding="utf-8"))

    written = _sample(released, filled=filled)

    assert written.items() <= _reread(written, released, present).items()


def test_a_new_field_without_default_would_be_found_incompatible() -> None:
    """The check above can fail."""
    released = contracts.avro_schema(EntityType.PATIENT, 1)
    newer = contracts.avro_schema(EntityType.PATIENT, 1)
    newer["fields"].append({"name": "blood_group", "type": "string"})

    with pytest.raises(fastavro.read.SchemaResolutionError):
        _reread(_sample(released, filled=True), released, newer)


@pytest.mark.parametrize(
    ("entity_type", "payload"),
    [(EntityType.PATIENT, PATIENT), (EntityType.ORDER, MEDICATION)],
    ids=["patient", "order"],
)
def test_a_payload_comes_back_unchanged_from_avro(entity_type: EntityType, payload: dict[str, Any]) -> None:
    """Dates, offsets, nested records and lists survive; absent and null mean the same."""
    check_payload(entity_type, json.dumps(payload))
    schema = contracts.avro_schema(entity_type, 1)

    read = _reread(payload, schema, schema)

    assert payload == _without_nulls(read)


def _reread(record: dict[str, Any], written: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    fastavro.schemaless_writer(file, fastavro.parse_schema(written), record, strict_allow_default=True)
    file.seek(0)
    found = fastavro.schemaless_reader(file, fastavro.parse_schema(written), fastavro.parse_schema(read))
    assert isinstance(found, dict)
    return found


def _sample(schema: Any, *, filled: bool) -> Any:
    match schema:
        case {"type": "record", "fields": fields}:
            return {field["name"]: _sample(field["type"], filled=filled) for field in fields}
        case {"type": "array", "items": items}:
            return [_sample(items, filled=filled)]
        case [_, option]:
            return _sample(option, filled=filled) if filled else None
        case _:
            return {"string": "text", "long": 7, "double": 0.5, "boolean": True}[schema]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return value
