"""The OpenAPI page: request bodies are described by the payload contract itself."""

from __future__ import annotations

from typing import Any, Final

import fastapi
from fastapi.openapi.utils import get_openapi

from connectors.outbox import EntityType
from connectors.payloads import CURRENT_VERSION, MODELS

_REFERENCE: Final = "#/components/schemas/{model}"


def request_body(entity_type: EntityType) -> dict[str, Any]:
    """Describe the body of POST and PUT of one entity type, for openapi_extra."""
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": _REFERENCE.format(model=_component(entity_type))}}},
        }
    }


def describe(app: fastapi.FastAPI) -> dict[str, Any]:
    """Give the OpenAPI document of the application with the payload schemas among its components."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for entity_type in EntityType:
        schema = MODELS[entity_type, CURRENT_VERSION].json_schema(ref_template=_REFERENCE)
        schemas |= schema.pop("$defs", {})
        schemas[_component(entity_type)] = schema
    return document


def _component(entity_type: EntityType) -> str:
    return f"{entity_type.title()}Payload"
