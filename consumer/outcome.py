"""What became of an event: a closed sum, matched with assert_never wherever it is dispatched."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Final, TypeAlias

from connectors.events import EntityKey


class ErrorClass(enum.StrEnum):
    """Why an event failed; each class has its treatment in docs/operations.md."""

    INVALID_PAYLOAD = "invalid_payload"  # no JSON, a field absent or wrong, or not the entity of the key
    UNKNOWN_VERSION = "unknown_version"  # payload_version is newer than this consumer
    TOO_LONG = "too_long"  # longer than OpenEMR's column
    UNKNOWN_OPTION = "unknown_option"  # no such option, category or code on this site
    REFUSED = "refused"  # the database refused the row: type, range, character set, constraint
    PARENT_MISSING = "parent_missing"  # the patient or encounter it belongs to did not arrive in time
    CONFLICT = "conflict"  # OpenEMR's side changed: the row vanished, or other rows hang on it
    NOT_VISIBLE = "not_visible"  # target fhir, and OpenEMR's FHIR API would not show the row
    LOCKED = "locked"  # somebody holds its rows in OpenEMR's database, and the others of its batch went on
    INTERNAL = "internal"  # a fault of ours


class ErrorGroup(enum.StrEnum):
    """What is to be done about a failure; a system that is away is none, and is never charged to an event."""

    REJECTED = "rejected"  # a correction in OpenEMR or a newer event cures it: a few attempts
    WAITING = "waiting"  # the parent's arrival cures it, by the waiting room: no attempts
    CONFLICT = "conflict"  # a person must decide which side is right: no attempts
    BUSY = "busy"  # the end of somebody's transaction in OpenEMR cures it: tried until then, no attempt is charged
    OURS = "ours"  # an upgrade of emrsync cures it: more attempts, over a longer time


GROUPS: Final[Mapping[ErrorClass, ErrorGroup]] = {
    ErrorClass.INVALID_PAYLOAD: ErrorGroup.REJECTED,
    ErrorClass.UNKNOWN_VERSION: ErrorGroup.REJECTED,
    ErrorClass.TOO_LONG: ErrorGroup.REJECTED,
    ErrorClass.UNKNOWN_OPTION: ErrorGroup.REJECTED,
    ErrorClass.REFUSED: ErrorGroup.REJECTED,
    ErrorClass.NOT_VISIBLE: ErrorGroup.REJECTED,
    ErrorClass.PARENT_MISSING: ErrorGroup.WAITING,
    ErrorClass.CONFLICT: ErrorGroup.CONFLICT,
    ErrorClass.LOCKED: ErrorGroup.BUSY,
    ErrorClass.INTERNAL: ErrorGroup.OURS,
}
"""The group of every class; retry.RetryPolicy gives each group its attempts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Applied:
    """OpenEMR has the entity as the event says; detail tells what could not be carried over, or None."""

    detail: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Duplicate:
    """The ledger had settled the event before."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stale:
    """OpenEMR has a newer state of the entity."""


@dataclasses.dataclass(frozen=True, slots=True)
class Waiting:
    """The parent is not in OpenEMR, or no more; the ledger keeps the event and applies it right after the parent."""

    parent: EntityKey
    deleted: bool = False

    @property
    def message(self) -> str:
        """Name the parent."""
        state = "was deleted" if self.deleted else "is not in OpenEMR yet"
        return f"{self.parent.entity_type} {self.parent.entity_id} {state}"

    def given_up(self) -> Failed:
        """Become the failure of an event whose parent did not arrive in time."""
        return Failed(ErrorClass.PARENT_MISSING, f"{self.message}; applied by itself when that arrives")


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """The event cannot be applied as it is; message names field and reason, never a value."""

    error_class: ErrorClass
    message: str


Outcome: TypeAlias = Applied | Duplicate | Stale | Waiting | Failed
