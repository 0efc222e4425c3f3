"""What docs/openemr.md prints of the code: the rights of the writer's account, and which field is in which column."""

from __future__ import annotations

import types
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

import pytest

from connectors.payloads import v1
from consumer.openemr import account, encounter, order, patient, prescription
from consumer.openemr.drafts import Field
from consumer.openemr.site import Site

PAGE: Final = Path(__file__).parents[4].joinpath("docs", "openemr.md").read_text(encoding="utf-8")
TO: Final = " TO 'emrsync_writer'@'10.0.0.%';"

# The field lists ask a site only which columns of numbers it has; values are read later.
SITE: Final = cast("Site", types.SimpleNamespace(columns={"prescriptions": {}}))

LISTS: Final[dict[str, dict[str, Sequence[Field]]]] = {
    "patient": {"patient_data": patient._fields(SITE)},
    "encounter": {"form_encounter": encounter._fields(SITE)},
    "laboratory, imaging or procedure order": {
        "procedure_order": order._order_fields(SITE),
        "procedure_order_code": order._line_fields(SITE),
    },
    "medication order": {"prescriptions": prescription._fields(SITE)},
}
"""The fields that are columns, by what the page calls the record and by table."""


def table_of(kind: str) -> list[str]:
    """Give the lines of a table as the page has to print it: fields in the order of the columns, each once."""
    columns: dict[str, list[str]] = {}
    for table, fields in LISTS[kind].items():
        for field in fields:
            named = " or ".join(f"`{table}.{column}`" for column in field.columns)
            columns.setdefault(field.name, []).append(named or "none")
    lines = [f"| `{name}` | {', '.join(places)} |" for name, places in columns.items()]
    return [f"| field of a{'n' if kind == 'encounter' else ''} {kind} | column |", "|---|---|", *lines]


def test_the_page_prints_the_rights_that_provision_grants() -> None:
    """A trail whose account may change it would prove nothing."""
    printed = [line.strip() for line in PAGE.splitlines() if line.strip().startswith("GRANT")]

    plain = [right.replace("`", "") for right in account.grants("openemr", "emr_sync")]
    assert [line.replace("`", "") for line in printed] == [f"{right}{TO}" for right in plain]


@pytest.mark.parametrize("kind", LISTS)
def test_the_page_prints_which_field_is_in_which_column(kind: str) -> None:
    """Whoever lets clerks edit must know which of their columns the next event rewrites."""
    assert "\n" + "\n".join(table_of(kind)) + "\n\n" in PAGE


@pytest.mark.parametrize(
    ("kind", "model", "elsewhere"),
    [
        ("patient", v1.PatientV1, set()),
        ("encounter", v1.EncounterV1, {"patient_id"}),
        ("laboratory, imaging or procedure order", v1.DiagnosticOrderV1, {"patient_id", "encounter_id"}),
        ("medication order", v1.MedicationOrderV1, {"patient_id", "encounter_id", "kind"}),
    ],
)
def test_every_field_of_a_payload_is_told(kind: str, model: type[v1.PatientV1], elsewhere: set[str]) -> None:
    """Or is told to have none; but the parents, whose numbers the row bears, and the kind that a table stands for."""
    told = {field.name.partition(".")[0] for fields in LISTS[kind].values() for field in fields}

    assert told | elsewhere == set(model.model_fields)
    assert not told & elsewhere
