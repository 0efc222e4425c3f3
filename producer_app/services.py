"""What the clinic does: create, change and delete patients, encounters and orders, each in one transaction."""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pydantic
import pydantic_core

from connectors.events import EventError, check_entity_id
from connectors.outbox import EntityType, Operation, TargetSystem
from connectors.payloads import AnyPayload, EncounterV1, PatientV1, PayloadError
from producer_app import rows
from producer_app.errors import AlreadyExistsError, DeletedError, InvalidChangeError, NotFoundError
from producer_app.outbox import PayloadInput, checked_payload, record_change
from producer_app.unit_of_work import UnitOfWork

Targets = Sequence[TargetSystem] | None
"""The target systems of one call; None means those of the unit of work."""

_PLACEHOLDER_ID: Final = "-"
_ID_ATTEMPTS_MAX: Final = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Recorded:
    """A change that was committed: whose, and its outbox rows in the order of the targets."""

    entity_id: str
    outbox_ids: tuple[uuid.UUID, ...]


def create_patient(uow: UnitOfWork, payload: PayloadInput, *, targets: Targets = None) -> Recorded:
    """Create a patient; see create for contract and errors."""
    return create(uow, EntityType.PATIENT, payload, targets=targets)


def update_patient(uow: UnitOfWork, patient_id: str, payload: PayloadInput, *, targets: Targets = None) -> Recorded:
    """Replace a patient's state; see update for contract and errors."""
    return update(uow, EntityType.PATIENT, patient_id, payload, targets=targets)


def delete_patient(uow: UnitOfWork, patient_id: str, *, targets: Targets = None) -> Recorded:
    """Delete a patient, not its encounters and orders; see delete for contract and errors."""
    return delete(uow, EntityType.PATIENT, patient_id, targets=targets)


def create_encounter(uow: UnitOfWork, payload: PayloadInput, *, targets: Targets = None) -> Recorded:
    """Create an encounter of an existing patient; see create for contract and errors."""
    return create(uow, EntityType.ENCOUNTER, payload, targets=targets)


def update_encounter(uow: UnitOfWork, encounter_id: str, payload: PayloadInput, *, targets: Targets = None) -> Recorded:
    """Replace an encounter's state; see update for contract and errors."""
    return update(uow, EntityType.ENCOUNTER, encounter_id, payload, targets=targets)


def delete_encounter(uow: UnitOfWork, encounter_id: str, *, targets: Targets = None) -> Recorded:
    """Delete an encounter, not its orders; see delete for contract and errors."""
    return delete(uow, EntityType.ENCOUNTER, encounter_id, targets=targets)


def create_order(uow: UnitOfWork, payload: PayloadInput, *, targets: Targets = None) -> Recorded:
    """Create an order of an existing patient and, if it names one, encounter; see create for contract and errors."""
    return create(uow, EntityType.ORDER, payload, targets=targets)


def update_order(uow: UnitOfWork, order_id: str, payload: PayloadInput, *, targets: Targets = None) -> Recorded:
    """Replace an order's state; see update for contract and errors."""
    return update(uow, EntityType.ORDER, order_id, payload, targets=targets)


def delete_order(uow: UnitOfWork, order_id: str, *, targets: Targets = None) -> Recorded:
    """Delete an order; see delete for contract and errors."""
    return delete(uow, EntityType.ORDER, order_id, targets=targets)


def create(uow: UnitOfWork, entity_type: EntityType, payload: PayloadInput, *, targets: Targets = None) -> Recorded:
    """Write a new business row and its outbox rows in one transaction; an absent id is given out.

    Raises:
        InvalidChangeError: a field is wrong, or a patient or encounter it refers to does not exist.
        AlreadyExistsError: the id is taken, also by a deleted entity or by a transaction that was faster.
        UnavailableError, StorageError: the database's part; nothing was written.
    """
    fields = _fields(payload)
    if fields.get(_id_field(entity_type)) is not None:
        return _create(uow, _checked(entity_type, fields), entity_type, targets)
    # Checked before an id is spent on it.
    draft = _checked(entity_type, {**fields, _id_field(entity_type): _PLACEHOLDER_ID})
    for attempt in range(1, _ID_ATTEMPTS_MAX + 1):
        entity_id = uow.new_entity_id(entity_type)
        try:
            return _create(uow, draft.model_copy(update={_id_field(entity_type): entity_id}), entity_type, targets)
        except AlreadyExistsError:
            # Some caller has brought ids of this form itself; the counter walks past them.
            if attempt == _ID_ATTEMPTS_MAX:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def update(
    uow: UnitOfWork,
    entity_type: EntityType,
    entity_id: str,
    payload: PayloadInput,
    *,
    targets: Targets = None,
) -> Recorded:
    """Replace the full state of an entity and write its outbox rows in one transaction; its row is locked first.

    Raises:
        InvalidChangeError: a field is wrong, the payload's id is another, or what it refers to does not exist.
        NotFoundError: there is no such entity.
        DeletedError: it was deleted.
        UnavailableError, StorageError: the database's part; nothing was written.
    """
    fields = _fields(payload)
    named = fields.get(_id_field(entity_type))
    if named is not None and named != entity_id:
        raise InvalidChangeError.of(_id_field(entity_type), "differs from the id of the entity to change")
    checked = _checked(entity_type, {**fields, _id_field(entity_type): entity_id})
    with uow:
        _lock_live(uow, entity_type, entity_id)
        check_parents(uow, checked)
        rows.replace(uow.connection, entity_type, [checked], _now())
        outbox_ids = _record(uow, entity_type, Operation.UPDATE, checked, targets)
        uow.commit()
    return Recorded(entity_id, outbox_ids)


def delete(uow: UnitOfWork, entity_type: EntityType, entity_id: str, *, targets: Targets = None) -> Recorded:
    """Mark an entity deleted and write its last full state as the delete's outbox rows, in one transaction.

    Raises:
        NotFoundError: there is no such entity.
        DeletedError: it was deleted before.
        UnavailableError, StorageError: the database's part; nothing was written.
    """
    with uow:
        row = _lock_live(uow, entity_type, entity_id)
        rows.mark_deleted(uow.connection, entity_type, entity_id, _now())
        outbox_ids = _record(uow, entity_type, Operation.DELETE, row.state, targets)
        uow.commit()
    return Recorded(entity_id, outbox_ids)


def check_parents(uow: UnitOfWork, payload: AnyPayload) -> None:
    """Keep the patient and encounter this payload refers to from being deleted; whether they are synced is no matter.

    Raises:
        InvalidChangeError: one does not exist, or was deleted.
    """
    for entity_type, entity_id in parents(payload):
        if not rows.lock_live(uow.connection, entity_type, [entity_id]):
            raise missing_parent(entity_type)


def missing_parent(entity_type: EntityType) -> InvalidChangeError:
    """Say that what a payload refers to is not there."""
    return InvalidChangeError.of(f"{entity_type}_id", f"no such {entity_type}, or it was deleted")


def parents(payload: AnyPayload) -> tuple[tuple[EntityType, str], ...]:
    """Return what must exist before this payload, in the order in which everybody locks: encounter, then patient."""
    if isinstance(payload, PatientV1):
        return ()
    patient = (EntityType.PATIENT, payload.patient_id)
    if isinstance(payload, EncounterV1) or payload.encounter_id is None:
        return (patient,)
    return ((EntityType.ENCOUNTER, payload.encounter_id), patient)


def _create(uow: UnitOfWork, payload: AnyPayload, entity_type: EntityType, targets: Targets) -> Recorded:
    with uow:
        # The insert is the lock: a second creation of this id waits here, and then fails.
        rows.insert(uow.connection, entity_type, [payload], _now())
        check_parents(uow, payload)
        outbox_ids = _record(uow, entity_type, Operation.CREATE, payload, targets)
        uow.commit()
    return Recorded(payload.entity_id, outbox_ids)


def _lock_live(uow: UnitOfWork, entity_type: EntityType, entity_id: str) -> rows.LockedRow:
    try:
        check_entity_id(entity_id)
    except EventError:
        raise NotFoundError(f"there is no {entity_type} with this id") from None
    row = rows.lock(uow.connection, entity_type, [entity_id]).get(entity_id)
    if row is None:
        raise NotFoundError(f"there is no {entity_type} with this id")
    if row.deleted:
        raise DeletedError(f"the {entity_type} was deleted")
    return row


def _record(
    uow: UnitOfWork, entity_type: EntityType, operation: Operation, payload: PayloadInput, targets: Targets
) -> tuple[uuid.UUID, ...]:
    try:
        return record_change(
            uow.connection,
            entity_type=entity_type,
            operation=operation,
            payload=payload,
            targets=uow.targets if targets is None else targets,
        )
    except PayloadError as error:
        raise InvalidChangeError.of_payload(error) from None


def _fields(payload: PayloadInput) -> dict[str, Any]:
    """Give the top-level fields, so that an id can be looked for and put in."""
    if isinstance(payload, pydantic.BaseModel):
        return payload.model_dump(mode="json", exclude_none=True)
    if isinstance(payload, Mapping):
        return dict(payload)
    if not isinstance(payload, str | bytes):
        raise TypeError(f"payload: is a {type(payload).__name__}; give a payload model, a mapping or JSON text")
    try:
        fields = pydantic_core.from_json(payload)
    except ValueError:
        raise InvalidChangeError.of("payload", "is no valid JSON") from None
    if not isinstance(fields, dict):
        raise InvalidChangeError.of("payload", "is no JSON object")
    return fields


def _checked(entity_type: EntityType, fields: Mapping[str, Any]) -> AnyPayload:
    try:
        return checked_payload(entity_type, fields)
    except PayloadError as error:
        raise InvalidChangeError.of_payload(error) from None


def _id_field(entity_type: EntityType) -> str:
    return f"{entity_type}_id"


def _now() -> dt.datetime:
    return dt.datetime.now(tz=dt.UTC)
