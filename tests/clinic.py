"""Payload fields of made-up patients, encounters and orders; every id is new."""

from __future__ import annotations

import uuid
from typing import Any

FAMILY_NAME = "Quillfeather"
"""Of every made-up patient; no error or log may hold it."""


def patient(**changes: Any) -> dict[str, Any]:
    """Give the fields of a patient."""
    fields = {
        "patient_id": f"P-{uuid.uuid4().hex}",
        "family_name": FAMILY_NAME,
        "given_name": "Ada",
        "birth_date": "1980-02-29",
        "sex": "female",
    }
    return {**fields, **changes}


def encounter(patient_id: str, **changes: Any) -> dict[str, Any]:
    """Give the fields of an encounter of a patient."""
    fields = {
        "encounter_id": f"E-{uuid.uuid4().hex}",
        "patient_id": patient_id,
        "started_at": "2025-03-01T09:30:00+09:00",
        "class_code": "AMB",
    }
    return {**fields, **changes}


def order(patient_id: str, **changes: Any) -> dict[str, Any]:
    """Give the fields of a laboratory order of a patient."""
    fields = {
        "order_id": f"O-{uuid.uuid4().hex}",
        "patient_id": patient_id,
        "kind": "laboratory",
        "ordered_at": "2025-03-01T10:00:00Z",
        "status": "active",
        "code": {"system": "LOINC", "code": "2345-7", "display": "Glucose"},
    }
    return {**fields, **changes}
