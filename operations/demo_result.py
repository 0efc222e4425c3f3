"""What a demo found, and whether everything arrived."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from consumer.openemr.visibility import VisibleCount
from operations.demo_outbox import KindRows, Timing
from operations.where import Way
from producer_app.synthea import Report


@dataclasses.dataclass(frozen=True, slots=True)
class KindResult:
    """One kind of record on its whole way; in_app and openemr count live entities, outbox counts events."""

    kind: str
    outbox: KindRows
    in_app: int
    openemr: VisibleCount

    @property
    def problems(self) -> tuple[str, ...]:
        """What did not arrive, in words; empty when everything did."""
        found = [
            f"{self.kind}: {failure.rows} rows failed: {failure.error_class}: {failure.example}"
            for failure in self.outbox.failures
        ]
        unsettled = self.outbox.rows - self.outbox.done - sum(failure.rows for failure in self.outbox.failures)
        if unsettled:
            found.append(f"{self.kind}: {unsettled} rows are not settled")
        if self.openemr.mapped != self.in_app:
            found.append(f"{self.kind}: OpenEMR has {self.openemr.mapped} of the application's {self.in_app}")
        if self.openemr.screens != self.openemr.mapped:
            found.append(f"{self.kind}: OpenEMR's screens show {self.openemr.screens} of {self.openemr.mapped}")
        if self.openemr.fhir is not None and self.openemr.fhir != self.openemr.mapped:
            found.append(f"{self.kind}: OpenEMR's FHIR queries show {self.openemr.fhir} of {self.openemr.mapped}")
        return tuple(found)


@dataclasses.dataclass(frozen=True, slots=True)
class DemoResult:
    """Everything the demo shows at its end.

    Attributes:
        imported: what became of the rows of Synthea's files.
        kinds: the way of each kind of record.
        backlog: times of the imported rows, which queue up behind each other.
        single: times of single changes, which do not.
        single_rate_per_s: how many of those were committed per second.
        way: the whole way of one patient.
        seconds: how long each phase took, and all of it.
    """

    imported: Report
    kinds: tuple[KindResult, ...]
    backlog: Timing | None
    single: Timing | None
    single_rate_per_s: float
    way: Way
    seconds: Mapping[str, float]

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that did not arrive, in words."""
        refused = [f"import: {self.imported.refused} rows were refused"] if self.imported.refused else []
        return (*refused, *(problem for kind in self.kinds for problem in kind.problems))
