"""Read an event's payload and check it against the site, before any transaction."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Sequence
from pathlib import Path

from connectors.events import Event
from connectors.outbox import Operation
from connectors.payloads import MODELS, PayloadError, read_payload
from consumer.drafting import Draft, Drafting
from consumer.outcome import ErrorClass, Failed
from consumer.ports import MisconfiguredError, Target, TransientError


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """An event with its checked columns (None for a delete), or why it has none."""

    event: Event
    draft: Draft | Failed | None


@dataclasses.dataclass(frozen=True, slots=True)
class Drafted:
    """Events that were prepared before their turn, by what the target knew of its site then."""

    drafting: Drafting
    prepared: Sequence[Prepared]


def prepare_all(target: Target, events: Sequence[Event], drafted: Drafted | None = None) -> Sequence[Prepared]:
    """Prepare events, in their order; what was drafted of just these is used if the site is still known the same.

    Raises:
        TransientError, MisconfiguredError: from the target; nothing was decided about any event.
    """
    if drafted is None or drafted.drafting is not target.drafting():
        return [prepare(target, event) for event in events]
    # Only the target itself looks whether the site has meanwhile what a refused event names.
    return [prepare(target, one.event) if isinstance(one.draft, Failed) else one for one in drafted.prepared]


def prepare(target: Drafting, event: Event) -> Prepared:
    """Give the event's columns, or why it has none; a delete needs none, and so no readable payload.

    Raises:
        TransientError, MisconfiguredError: from the target; nothing was decided about the event.
    """
    if event.operation is Operation.DELETE:
        return Prepared(event, None)
    if (event.key.entity_type, event.payload_version) not in MODELS:
        message = f"payload_version: {event.payload_version} of {event.key.entity_type} is not known to this consumer"
        return Prepared(event, Failed(ErrorClass.UNKNOWN_VERSION, message))
    try:
        payload = read_payload(event.key.entity_type, event.payload_version, event.payload)
    except PayloadError as error:
        return Prepared(event, Failed(ErrorClass.INVALID_PAYLOAD, str(error)))
    if payload.entity_id != event.key.entity_id:
        message = f"{event.key.entity_type}_id: differs from the row's entity_id"
        return Prepared(event, Failed(ErrorClass.INVALID_PAYLOAD, message))
    try:
        return Prepared(event, target.draft(event, payload))
    except (TransientError, MisconfiguredError):
        raise
    except Exception as error:  # noqa: BLE001 - a fault of ours in one event must not hold up all behind it
        # Its text may hold a value; the type and the place are what we need.
        place = traceback.extract_tb(error.__traceback__)[-1]
        message = f"a fault of emrsync: {type(error).__name__} in {Path(place.filename).name} line {place.lineno}"
        return Prepared(event, Failed(ErrorClass.INTERNAL, message))
