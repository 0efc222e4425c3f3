"""The uuid of an entity's row."""

from __future__ import annotations

import uuid

import pytest

from connectors.events import EntityKey
from connectors.outbox import EntityType
from consumer.openemr import identifiers


@pytest.mark.parametrize("entity_type", EntityType)
@pytest.mark.parametrize("entity_id", ["P-2025-000001", "환자/1", "x" * 36])
def test_an_entity_has_the_uuid_that_its_name_gives(entity_type: EntityType, entity_id: str) -> None:
    """A rebuilt OpenEMR shows the same FHIR ids, so it must not change."""
    expected = uuid.uuid5(uuid.UUID("6f0f3a52-7a43-5d0c-9d53-0c8b8d0f6a11"), f"{entity_type}/{entity_id}")

    assert identifiers.row_uuid(EntityKey(entity_type, entity_id)) == expected.bytes
