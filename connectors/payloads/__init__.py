"""Payload models by entity type and version: the full state of one entity."""

from connectors.payloads.reading import (
    CURRENT_VERSION,
    MODELS,
    AnyPayload,
    PayloadError,
    check_payload,
    payload_json,
    read_payload,
)
from connectors.payloads.v1 import (
    AddressV1,
    CodeV1,
    DiagnosticOrderV1,
    EncounterV1,
    MedicationOrderV1,
    OrderV1,
    PatientV1,
    Payload,
)

__all__ = [
    "CURRENT_VERSION",
    "MODELS",
    "AddressV1",
    "AnyPayload",
    "CodeV1",
    "DiagnosticOrderV1",
    "EncounterV1",
    "MedicationOrderV1",
    "OrderV1",
    "PatientV1",
    "Payload",
    "PayloadError",
    "check_payload",
    "payload_json",
    "read_payload",
]
