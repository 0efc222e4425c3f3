"""Make OpenEMR's rows of one kind what the changes say, and keep the entity map in step."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import sqlalchemy as sa

from connectors.events import EntityKey
from connectors.outbox import EntityType
from consumer.openemr import encounter, order, patient, visibility
from consumer.openemr.drafts import RowDraft
from consumer.openemr.encounter import EncounterTable
from consumer.openemr.identifiers import Numbers, row_uuid
from consumer.openemr.ledger import Ledger
from consumer.openemr.order import OrderTable
from consumer.openemr.patient import PatientTable
from consumer.openemr.prescription import PrescriptionTable
from consumer.openemr.rows import Expected, Held, Kept, RowPlan, Written, held_rows, live_rows, register
from consumer.openemr.trail import Action, TrailEntry, changed_columns
from consumer.outcome import Applied, ErrorClass, Failed
from consumer.ports import Change, Mapped, RefusedError

Table: TypeAlias = PatientTable | EncounterTable | OrderTable | PrescriptionTable

GONE: Final = "its row is gone from OpenEMR: deleted there, or merged into another patient"

_STAYS: Final = (
    "; that one was deleted, and its row stays in OpenEMR under this id: give the other record an id of its own, "
    "and settle this by emrsync conflict drop"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Writer:
    """Writes changes of one kind inside the caller's transaction."""

    connection: sa.Connection
    ledger: Ledger
    numbers: Numbers
    tables: Mapping[str, Table]
    trail: list[TrailEntry] = dataclasses.field(default_factory=list)

    def write(self, kind: str, changes: Sequence[Change]) -> Mapping[EntityKey, Applied | Failed]:
        """Write changes of one kind; see ports.TargetTransaction.write."""
        outcomes: dict[EntityKey, Applied | Failed] = {}
        consistent = [change for change in changes if _sound(change, outcomes)]
        sound, before = self._with_live_rows(kind, consistent, outcomes)
        inserts = [change for change in sound if change.draft is not None and _local_id(change) is None]
        updates = [change for change in sound if change.draft is not None and _local_id(change) is not None]
        changed = [change for change in updates if not _unchanged(change)]
        deletes = [change for change in sound if change.draft is None]
        mapped = [(change, _known(change)) for change in updates]
        mapped += self._insert(kind, inserts)
        if changed:
            self._update(kind, changed, before)
        mapped += self._delete(kind, deletes, outcomes)
        self._map(mapped)
        self.trail.extend(_entry(change, Action.INSERT, _content_hash(change)) for change in inserts)
        for change in (*inserts, *updates):
            outcomes[change.event.key] = Applied(_draft(change).detail)
        self._check_visible(kind, [change for change in (*inserts, *updates) if change.fhir])
        return outcomes

    def _with_live_rows(
        self, kind: str, changes: Sequence[Change], outcomes: dict[EntityKey, Applied | Failed]
    ) -> tuple[Sequence[Change], Mapping[int, Sequence[Any]]]:
        """Keep the changes whose parents' and own rows OpenEMR still has; hold those rows, and tell what they say."""
        orphans = self._parents_gone(changes)
        outcomes.update({key: Failed(ErrorClass.CONFLICT, reason) for key, reason in orphans.items()})
        changes = [change for change in changes if change.event.key not in orphans]
        mapped = [change.mapped for change in changes if change.mapped is not None and _has_row(change.mapped)]
        table = self.tables[kind]
        expected = Expected(table.table, table.id_column, {_row_key(kind, known): known.uuid for known in mapped})
        live = held_rows(self.connection, expected, table.compared[0].columns)
        kept: list[Change] = []
        for change in changes:
            if not _has_row(change.mapped) or _row_key(kind, change.mapped) in live:
                kept.append(change)
            elif change.draft is None:
                # What the delete asks for is so already; only the map is left to say it.
                kept.append(dataclasses.replace(change, mapped=_without_row(change.mapped)))
            else:
                key = change.event.key
                outcomes[key] = Failed(ErrorClass.CONFLICT, f"{key.entity_type} {key.entity_id}: {GONE}")
        return kept, live

    def _parents_gone(self, changes: Sequence[Change]) -> Mapping[EntityKey, str]:
        gone: dict[EntityKey, str] = {}
        kinds = (patient.KIND, encounter.KIND)
        asked = [
            Expected(
                self.tables[kind].table,
                self.tables[kind].id_column,
                {_row_key(kind, one): one.uuid for change in changes for one in change.parents if one.kind == kind},
            )
            for kind in kinds
        ]
        for kind, live in zip(kinds, live_rows(self.connection, asked), strict=True):
            for change in changes:
                if any(parent.kind == kind and _row_key(kind, parent) not in live for parent in change.parents):
                    gone[change.event.key] = f"{kind}_id: {GONE}"
        return gone

    def _insert(self, kind: str, changes: Sequence[Change]) -> list[tuple[Change, Mapped]]:
        if not changes:
            return []
        plans = [_plan(change) for change in changes]
        table = self.tables[kind]
        written = table.insert(self.connection, plans, self.numbers)
        # OpenEMR keeps the registry row of a removed encounter, so one that comes back has its own already.
        fresh = [plan.uuid for plan, change in zip(plans, changes, strict=True) if not _registered(change)]
        register(self.connection, table.table, fresh)
        return [
            (change, _new_mapped(kind, change, plan.uuid, numbers))
            for change, plan, numbers in zip(changes, plans, written, strict=True)
        ]

    def _update(self, kind: str, changes: Sequence[Change], before: Mapping[int, Sequence[Any]]) -> None:
        plans = [_plan(change) for change in changes]
        table = self.tables[kind]
        columns = changed_columns(self.connection, table.compared, plans, before)
        table.update(self.connection, plans)
        self.trail.extend(
            _entry(change, Action.UPDATE, _content_hash(change), names)
            for change, names in zip(changes, columns, strict=True)
        )

    def _delete(
        self, kind: str, changes: Sequence[Change], outcomes: dict[EntityKey, Applied | Failed]
    ) -> list[tuple[Change, Mapped]]:
        present = [change for change in changes if _has_row(change.mapped)]
        live = [change for change in present if change.mapped is not None and change.mapped.deleted_at is None]
        kept: Mapping[int, Kept | Held] = {}
        if live:
            kept = self.tables[kind].delete(self.connection, [_plan(change) for change in live])
        now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
        mapped: list[tuple[Change, Mapped]] = []
        for change in changes:
            known = change.mapped or Mapped(kind, None, None, None, None, 0, None, None)
            was_live = known.local_id is not None and known.deleted_at is None
            stays = kept.get(known.local_id) if was_live and known.local_id is not None else None
            if isinstance(stays, Held):
                outcomes[change.event.key] = Failed(ErrorClass.CONFLICT, stays.reason)
                continue
            if was_live and stays is None:
                known = dataclasses.replace(known, local_id=None, row_id=None)
            mapped.append(
                (change, dataclasses.replace(known, last_seq=change.event.seq, content_hash=None, deleted_at=now))
            )
            if was_live:
                self.trail.append(_entry(change, Action.DELETE, None))
            outcomes[change.event.key] = Applied(stays.detail if stays else None)
        return mapped

    def _map(self, mapped: Sequence[tuple[Change, Mapped]]) -> None:
        new = [(change.event.key, entry) for change, entry in mapped if change.mapped is None]
        known = [(change.event.key, entry) for change, entry in mapped if change.mapped is not None]
        self.ledger.insert_map(self.connection, new)
        self.ledger.update_map(self.connection, known)

    def _check_visible(self, kind: str, changes: Sequence[Change]) -> None:
        """Refuse the transaction when FHIR would not show a row it is meant for.

        Raises:
            RefusedError: the caller finds the guilty event by applying fewer at a time.
        """
        if not changes:
            return
        uuids = [_uuid(change) for change in changes]
        seen = _visible(self.connection, kind, uuids)
        if len(seen) < len(set(uuids)):
            message = f"target_system fhir: OpenEMR's FHIR API would not show this {kind}"
            raise RefusedError(ErrorClass.NOT_VISIBLE, message)


def _entry(change: Change, action: Action, after: bytes | None, changed: Sequence[str] | None = None) -> TrailEntry:
    before = None if change.mapped is None else change.mapped.content_hash
    return TrailEntry(change.event.outbox_id, change.event.key, action, before, after, changed)


def _visible(connection: sa.Connection, kind: str, uuids: Sequence[bytes]) -> frozenset[bytes]:
    if kind == patient.KIND:
        return visibility.visible_patients(connection, uuids)
    if kind == encounter.KIND:
        return visibility.visible_encounters(connection, uuids)
    if kind == order.KIND:
        return visibility.visible_orders(connection, uuids)
    return visibility.visible_prescriptions(connection, uuids)


def _sound(change: Change, outcomes: dict[EntityKey, Applied | Failed]) -> bool:
    """Refuse what OpenEMR's rows cannot follow: an entity that changes its kind or its patient."""
    known = change.mapped
    if known is None or change.draft is None:
        return True
    if known.local_id is None:
        return True
    if known.kind != _draft(change).kind:
        message = "kind: differs from what this order was created as"
    elif known.parent_id is not None and known.parent_id != _patient_id(change):
        message = "patient_id: differs from the patient this was created for"
    else:
        return True
    kept = "" if known.deleted_at is None else _STAYS
    outcomes[change.event.key] = Failed(ErrorClass.CONFLICT, message + kept)
    return False


def _draft(change: Change) -> RowDraft:
    assert isinstance(change.draft, RowDraft)  # noqa: S101 - deletes do not come here
    return change.draft


def _patient_id(change: Change) -> str | None:
    if change.draft is None:
        return None
    return next((key.entity_id for key in change.draft.parents if key.entity_type is EntityType.PATIENT), None)


def _has_row(mapped: Mapped | None) -> bool:
    return mapped is not None and mapped.local_id is not None


def _without_row(mapped: Mapped | None) -> Mapped | None:
    return None if mapped is None else dataclasses.replace(mapped, local_id=None, row_id=None)


def _local_id(change: Change) -> int | None:
    return None if change.mapped is None else change.mapped.local_id


def _row_key(kind: str, mapped: Mapped | None) -> int:
    """Return the number that the kind's table is keyed by."""
    number = None if mapped is None else mapped.row_id if kind == encounter.KIND else mapped.local_id
    assert number is not None  # noqa: S101 - only rows that are there are asked for
    return number


def _registered(change: Change) -> bool:
    return change.mapped is not None and change.mapped.uuid is not None


def _uuid(change: Change) -> bytes:
    if change.mapped is not None and change.mapped.uuid is not None:
        return change.mapped.uuid
    return row_uuid(change.event.key)


def _content_hash(change: Change) -> bytes:
    return _draft(change).content_hash


def _unchanged(change: Change) -> bool:
    """Tell whether the row is as the payload says, so that FHIR's _lastUpdated stays honest."""
    mapped = change.mapped
    return mapped is not None and mapped.alive and mapped.content_hash == _content_hash(change)


def _plan(change: Change) -> RowPlan:
    numbers = {parent.kind: parent.local_id or 0 for parent in change.parents}
    draft = None if change.draft is None else _draft(change)
    mapped = change.mapped
    return RowPlan(
        draft=draft,
        uuid=_uuid(change),
        pid=numbers.get(patient.KIND, 0),
        visit=numbers.get(encounter.KIND, 0),
        local_id=None if mapped is None else mapped.local_id,
        row_id=None if mapped is None else mapped.row_id,
    )


def _known(change: Change) -> Mapped:
    assert change.mapped is not None  # noqa: S101 - updates have a row
    return dataclasses.replace(
        change.mapped, last_seq=change.event.seq, content_hash=_content_hash(change), deleted_at=None
    )


def _new_mapped(kind: str, change: Change, uuid: bytes, written: Written) -> Mapped:
    return Mapped(
        kind=kind,
        local_id=written.local_id,
        row_id=written.row_id,
        uuid=uuid,
        parent_id=_patient_id(change),
        last_seq=change.event.seq,
        content_hash=_content_hash(change),
        deleted_at=None,
    )
