"""The one table of what OpenEMR does differently from some version on; columns are looked up and no part of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, Final, TypeAlias

Version: TypeAlias = tuple[int, int, int]

UNKNOWN: Final[Version] = (0, 0, 0)
"""What table `version` holds where the schema was loaded without OpenEMR's installer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Behaviour:
    """Something that OpenEMR's code does since a version, and a column that came with it.

    meaning: what it changes for us, as the documents say it.
    """

    name: str
    since: Version
    table: str
    column: str
    meaning: str

    def shown_by(self, version: Version, columns: Mapping[str, Collection[Any]]) -> bool:
        """Tell whether this site behaves so; where its version is unknown, by the column."""
        if version == UNKNOWN:
            return self.column in columns.get(self.table, ())
        return version >= self.since


SERVICE_REQUEST: Final = Behaviour(
    "service_request",
    (7, 0, 4),
    "procedure_order",
    "order_intent",
    "FHIR has ServiceRequest, and so shows an order that has no report",
)
PROCEDURE_WITHOUT_REPORT: Final = Behaviour(
    "procedure_without_report",
    (7, 0, 4),
    "procedure_order",
    "order_intent",
    "FHIR's Procedure starts from the order; before, from the report",
)

BEHAVIOURS: Final = (SERVICE_REQUEST, PROCEDURE_WITHOUT_REPORT)
