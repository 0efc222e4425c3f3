"""Avro schemas made from the payload models: the JSON text's own forms, so that no value changes on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pydantic

from connectors.outbox import EntityType
from connectors.payloads import MODELS, DiagnosticOrderV1, EncounterV1, MedicationOrderV1, PatientV1

NAMESPACE: Final = "emrsync"

Schema = dict[str, Any]

# Dates and instants stay ISO 8601 text: Avro's own would lose the offset, which tells the site's day.
_PRIMITIVES: Final[Mapping[str, str]] = {
    "string": "string",
    "integer": "long",
    "number": "double",
    "boolean": "boolean",
}

_RECORDS: Final[Mapping[tuple[EntityType, int], tuple[type[pydantic.BaseModel], ...]]] = {
    (EntityType.PATIENT, 1): (PatientV1,),
    (EntityType.ENCOUNTER, 1): (EncounterV1,),
    # One record: a union of two would repeat the fields they share, and kind tells them apart already.
    (EntityType.ORDER, 1): (DiagnosticOrderV1, MedicationOrderV1),
}


class ContractError(TypeError):
    """A model has a shape that the generator does not know; the message names the field."""


def schema_name(entity_type: EntityType, version: int) -> str:
    """Name the file that holds one schema."""
    return f"{entity_type}-v{version}.avsc"


def avro_schema(entity_type: EntityType, version: int) -> Schema:
    """Return the record schema of one entity's payload.

    Fields that may be absent are nullable with default null, last in the record as in the model. A payload of several
    models becomes one record: what not all of them demand is nullable.

    Raises:
        ContractError: a field has a type that has no counterpart.
    """
    models = _RECORDS[entity_type, version]
    schemas = [model.model_json_schema(mode="serialization") for model in models]
    names = list(dict.fromkeys(name for schema in schemas for name in schema["properties"]))
    fields = []
    for name in names:
        holders = [schema for schema in schemas if name in schema["properties"]]
        required = len(holders) == len(schemas) and all(name in schema.get("required", ()) for schema in schemas)
        forms = [
            _field(name, holder["properties"][name], holder.get("$defs", {}), required=required) for holder in holders
        ]
        if any(form != forms[0] for form in forms):
            raise ContractError(f"{name}: the models of {entity_type} differ in its type")
        fields.append(forms[0])
    fields.sort(key=lambda field: "default" in field)
    return {
        "type": "record",
        "name": f"{entity_type.capitalize()}V{version}",
        "namespace": NAMESPACE,
        "doc": " ".join(schema["description"] for schema in schemas if "description" in schema),
        "fields": fields,
    }


def avro_text(entity_type: EntityType, version: int) -> str:
    """Return the committed form of one schema."""
    return json.dumps(avro_schema(entity_type, version), indent=2, ensure_ascii=False) + "\n"


def regenerate(folder: Path) -> None:
    """Write every schema into the folder."""
    for entity_type, version in MODELS:
        (folder / schema_name(entity_type, version)).write_text(avro_text(entity_type, version), encoding="utf-8")


def _field(name: str, described: Schema, definitions: Mapping[str, Schema], *, required: bool) -> Schema:
    avro_type = _type(name, described, definitions)
    if required:
        return {"name": name, "type": avro_type}
    return {"name": name, "type": ["null", avro_type], "default": None}


def _type(name: str, described: Schema, definitions: Mapping[str, Schema]) -> Any:
    options = [option for option in _options(described) if option.get("type") != "null"]
    if len(options) != 1:
        raise ContractError(f"{name}: a choice between {len(options)} types has no counterpart")
    option = options[0]
    if "$ref" in option:
        record = option["$ref"].rsplit("/", maxsplit=1)[-1]
        return _record(record, definitions[record], definitions)
    if option.get("type") == "array":
        return {"type": "array", "items": _type(name, option["items"], definitions)}
    # An enumeration would refuse the words of a newer version; which words are allowed is the model's business.
    try:
        return _PRIMITIVES[option["type"]]
    except KeyError:
        raise ContractError(f"{name}: its type has no counterpart in Avro") from None


def _options(described: Schema) -> Iterator[Schema]:
    yield from described.get("anyOf", (described,))


def _record(name: str, described: Schema, definitions: Mapping[str, Schema]) -> Schema:
    required = described.get("required", ())
    return {
        "type": "record",
        "name": name,
        "doc": described.get("description", ""),
        "fields": [
            _field(inner, inner_described, definitions, required=inner in required)
            for inner, inner_described in described["properties"].items()
        ],
    }
