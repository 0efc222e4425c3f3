"""Payload text to model and back, with errors that name field and reason and never a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import pydantic

from connectors.outbox import PAYLOAD_BYTES_MAX, EntityType
from connectors.payloads.v1 import DiagnosticOrderV1, EncounterV1, MedicationOrderV1, OrderV1, PatientV1

CURRENT_VERSION: Final = 1

AnyPayload: TypeAlias = PatientV1 | EncounterV1 | DiagnosticOrderV1 | MedicationOrderV1

MODELS: Final[Mapping[tuple[EntityType, int], pydantic.TypeAdapter[Any]]] = {
    (EntityType.PATIENT, 1): pydantic.TypeAdapter(PatientV1),
    (EntityType.ENCOUNTER, 1): pydantic.TypeAdapter(EncounterV1),
    (EntityType.ORDER, 1): pydantic.TypeAdapter(OrderV1),
}
"""One reader per entity type and version; an older version stays as long as a topic or archive may hold it."""

_FIELD_ERRORS_MAX: Final = 5
_FIELD_CHARACTERS_MAX: Final = 80

# Pydantic puts the value into the text of these.
_REASONS: Final[Mapping[str, str]] = {
    "union_tag_invalid": "is none of laboratory, imaging, procedure, medication",
    "union_tag_not_found": "is absent",
    "missing": "is absent",
    "extra_forbidden": "is no field of this payload",
    "string_pattern_mismatch": "is blank, or begins or ends with white space",
    "json_invalid": "is no valid JSON",
}


class FieldError(pydantic.BaseModel):
    """One field and what is wrong with it."""

    model_config = pydantic.ConfigDict(frozen=True)

    field: str
    reason: str


class PayloadError(ValueError):
    """A payload that cannot be read; fields holds each field and its reason."""

    def __init__(self, fields: tuple[FieldError, ...]) -> None:
        self.fields = fields
        super().__init__("; ".join(f"{error.field}: {error.reason}" for error in fields))


def read_payload(entity_type: EntityType, version: int, payload: bytes | str) -> AnyPayload:
    """Read a payload as the consumer does: fields of a newer application are ignored.

    Raises:
        PayloadError: the version is unknown, the text is no JSON, or a field is wrong.
    """
    return _read(entity_type, version, payload, extra="ignore")


def check_payload(entity_type: EntityType, payload: bytes | str | AnyPayload) -> AnyPayload:
    """Read a payload of the current version as the producer does: a field it does not know is refused.

    Raises:
        PayloadError: the text is no JSON, too long, or a field is wrong or unknown.
    """
    text = payload_json(payload) if isinstance(payload, pydantic.BaseModel) else payload
    size = len(text if isinstance(text, bytes) else text.encode())
    if size > PAYLOAD_BYTES_MAX:
        reason = f"has {size} bytes, at most {PAYLOAD_BYTES_MAX} are allowed"
        raise PayloadError((FieldError(field="payload", reason=reason),))
    return _read(entity_type, CURRENT_VERSION, text, extra="forbid")


def payload_json(payload: AnyPayload) -> str:
    """Give a payload's JSON text: no null fields, dates and instants in ISO 8601."""
    return payload.model_dump_json(exclude_none=True)


def _read(entity_type: EntityType, version: int, payload: bytes | str, *, extra: Any) -> AnyPayload:
    model = MODELS.get((entity_type, version))
    if model is None:
        raise PayloadError((FieldError(field="payload_version", reason=f"{version} of {entity_type} is not known"),))
    try:
        read: AnyPayload = model.validate_json(payload, extra=extra)
    except pydantic.ValidationError as error:
        # The cause holds input in some of its texts, so it is cut off.
        raise PayloadError(_field_errors(error)) from None
    return read


def _field_errors(error: pydantic.ValidationError) -> tuple[FieldError, ...]:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return tuple(
        FieldError(
            field="kind" if one["type"].startswith("union_tag") else _field_name(one["loc"]),
            reason=_REASONS.get(one["type"], one["msg"].removeprefix("Value error, ")),
        )
        for one in found[:_FIELD_ERRORS_MAX]
    )


def _field_name(location: tuple[int | str, ...]) -> str:
    # The discriminator's value comes first in the location of an order's fields; it is no field.
    named = [part for part in location if part not in {"laboratory", "imaging", "procedure", "medication"}]
    return (".".join(str(part) for part in named) or "payload")[:_FIELD_CHARACTERS_MAX]
