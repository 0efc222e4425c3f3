"""Which OpenEMR shows orders in FHIR."""

from __future__ import annotations

import pytest

from consumer.openemr.behaviour import SERVICE_REQUEST

OLD_COLUMNS = ("procedure_order_id", "order_status")
NEW_COLUMNS = (*OLD_COLUMNS, "order_intent")


@pytest.mark.parametrize(
    ("version", "order_columns", "expected"),
    [
        pytest.param((7, 0, 3), OLD_COLUMNS, False, id="before"),
        pytest.param((7, 0, 4), NEW_COLUMNS, True, id="since"),
        pytest.param((8, 0, 0), NEW_COLUMNS, True, id="later, with smaller last numbers"),
        pytest.param((6, 1, 9), OLD_COLUMNS, False, id="older, with greater last number"),
        pytest.param((7, 0, 3), NEW_COLUMNS, False, id="a column added by hand brings no endpoint"),
        pytest.param((0, 0, 0), OLD_COLUMNS, False, id="unknown, old columns"),
        pytest.param((0, 0, 0), NEW_COLUMNS, True, id="unknown, new columns"),
    ],
)
def test_service_request_follows_the_version_and_if_unknown_the_columns(
    version: tuple[int, int, int], order_columns: tuple[str, ...], expected: bool
) -> None:
    """A schema loaded without OpenEMR's installer has version 0.0.0."""
    assert SERVICE_REQUEST.shown_by(version, {"procedure_order": order_columns}) is expected
