"""What a payload becomes before any transaction: columns that a site can hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from connectors.events import EntityKey, Event
from connectors.payloads import AnyPayload
from consumer.outcome import Failed


class Draft(Protocol):
    """One entity's columns, checked against the site, before any id is known; only the target looks inside."""

    @property
    def parents(self) -> Sequence[EntityKey]:
        """The entities that must be in OpenEMR first, outermost first."""


class Drafting(Protocol):
    """What a target knows of its site at one time: enough to draft by, without asking anybody."""

    def draft(self, event: Event, payload: AnyPayload) -> Draft | Failed:
        """Turn a payload into columns, or tell which field this site cannot hold and why."""
