"""The choice of target systems that people make: one, the other, or both."""

from __future__ import annotations

import enum

from connectors.outbox import TargetSystem


class TargetChoice(enum.StrEnum):
    """Where changes go; each target system gets its own outbox row."""

    OPENEMR = "openemr"
    FHIR = "fhir"
    BOTH = "both"

    @property
    def systems(self) -> tuple[TargetSystem, ...]:
        """The target systems in the order in which their rows are written."""
        return tuple(TargetSystem) if self is TargetChoice.BOTH else (TargetSystem(self.value),)
