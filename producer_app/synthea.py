"""Importing a Synthea CSV export through the application's service functions."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from connectors.outbox import EntityType
from connectors.payloads import AnyPayload, EncounterV1, PatientV1, PayloadError
from producer_app.bulk import Saved, save_batch
from producer_app.errors import AlreadyExistsError, BusyError
from producer_app.outbox import checked_payload
from producer_app.services import Targets
from producer_app.synthea_files import SourceFile, folder_of, read
from producer_app.synthea_mapping import MAPPINGS, UnmappableError, order_id, order_key
from producer_app.unit_of_work import UnitOfWork

Progress: TypeAlias = Callable[[EntityType, int, int], None]
"""Called with the entity type under way, how many of its entities are settled, and how many there are."""

_ATTEMPTS_MAX: Final = 5
_WRITTEN: Final = (Saved.CREATED, Saved.UPDATED)


@dataclasses.dataclass(frozen=True, slots=True)
class FileReport:
    """What became of the rows of one file: rows = created + updated + unchanged + joined + all of refused.

    Attributes:
        file: Its name.
        rows: Rows read, those of patients beyond the limit apart.
        created: Rows that became a new entity.
        updated: Rows whose entity existed with another state.
        unchanged: Rows whose entity existed with the same state; nothing was written for them.
        joined: Further images of a study, which is one order.
        refused: Rows that became nothing, by reason.
        notes: Values that were left out of an entity, by reason.
    """

    file: SourceFile
    rows: int
    created: int
    updated: int
    unchanged: int
    joined: int
    refused: Mapping[str, int]
    notes: Mapping[str, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What became of a whole export; entities counts all that were looked at, outbox_rows those written."""

    files: tuple[FileReport, ...]
    entities: int
    outbox_rows: int
    seconds: float

    @property
    def refused(self) -> int:
        """How many rows became nothing."""
        return sum(sum(file.refused.values()) for file in self.files)


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    file: SourceFile
    payload: AnyPayload


class _Tally:
    """Counts by file while an import runs."""

    def __init__(self) -> None:
        self.rows: collections.Counter[SourceFile] = collections.Counter()
        self.joined: collections.Counter[SourceFile] = collections.Counter()
        self.saved: collections.Counter[tuple[SourceFile, Saved]] = collections.Counter()
        self.refused: collections.Counter[tuple[SourceFile, str]] = collections.Counter()
        self.notes: collections.Counter[tuple[SourceFile, str]] = collections.Counter()

    def file_report(self, file: SourceFile) -> FileReport:
        kept = (Saved.CREATED, Saved.UPDATED, Saved.UNCHANGED)
        left_out = {(name, saved.value): count for (name, saved), count in self.saved.items() if saved not in kept}
        return FileReport(
            file=file,
            rows=self.rows[file],
            created=self.saved[file, Saved.CREATED],
            updated=self.saved[file, Saved.UPDATED],
            unchanged=self.saved[file, Saved.UNCHANGED],
            joined=self.joined[file],
            refused=_of_file(file, self.refused | left_out),
            notes=_of_file(file, self.notes),
        )


def import_folder(
    uow: UnitOfWork,
    folder: Path,
    *,
    patients_max: int | None = None,
    batch: int = 100,
    targets: Targets = None,
    progress: Progress = lambda _entity_type, _done, _total: None,
) -> Report:
    """Import an export: patients, then encounters, then orders, each in the order of time, `batch` per transaction.

    A second import of the same export writes nothing; after a break it goes on where it was. All entities of one
    type are held in memory, about 3 kB each.

    Args:
        uow: Unit of work, used for one batch after the other.
        folder: The folder with the files, or the one that Synthea was given.
        patients_max: Only so many patients, from the top of patients.csv, with all of their rows.
        batch: Entities per transaction.
        targets: Target systems; None means those of the unit of work.
        progress: Is told after every batch.

    Raises:
        SyntheaInputError: the folder is no Synthea export.
        UnavailableError, StorageError: the database's part; batches committed before stay.
    """
    started = time.monotonic()
    files = folder_of(folder)
    tally = _Tally()
    only = None if patients_max is None else _first_patients(files, patients_max)
    entities = 0
    for entity_type in EntityType:
        found = _found(files, entity_type, only, tally)
        progress(entity_type, 0, len(found))
        for start in range(0, len(found), batch):
            part = found[start : start + batch]
            saved = _save(uow, entity_type, [one.payload for one in part], targets)
            tally.saved.update((one.file, saved[one.payload.entity_id]) for one in part)
            progress(entity_type, start + len(part), len(found))
        entities += len(found)
    written = sum(count for (_, saved), count in tally.saved.items() if saved in _WRITTEN)
    return Report(
        files=tuple(tally.file_report(file) for file in SourceFile),
        entities=entities,
        outbox_rows=written * len(uow.targets if targets is None else targets),
        seconds=time.monotonic() - started,
    )


def _found(folder: Path, entity_type: EntityType, only: frozenset[str] | None, tally: _Tally) -> list[_Found]:
    """Map all rows that become this type, in the order of time."""
    files = (file for file in SourceFile if MAPPINGS[file][0] is entity_type)
    return sorted((one for file in files for one in _map_file(folder, file, only, tally)), key=_when)


def _first_patients(folder: Path, patients_max: int) -> frozenset[str]:
    rows = itertools.islice(read(folder, SourceFile.PATIENTS), patients_max)
    return frozenset(row.fields.get("Id", "") for row in rows)


def _map_file(folder: Path, file: SourceFile, only: frozenset[str] | None, tally: _Tally) -> Iterator[_Found]:
    entity_type, mapping = MAPPINGS[file]
    seen: collections.Counter[tuple[str, ...]] = collections.Counter()
    owner = "Id" if file is SourceFile.PATIENTS else "PATIENT"
    for row in read(folder, file):
        if only is not None and row.fields.get(owner, "") not in only:
            continue
        tally.rows[file] += 1
        if row.torn:
            tally.refused[file, "the row has more or fewer fields than the header"] += 1
            continue
        key = order_key(file, row.fields) if entity_type is EntityType.ORDER else (row.fields.get("Id", ""),)
        occurrence, seen[key] = seen[key], seen[key] + 1
        if occurrence and file is SourceFile.IMAGING_STUDIES:
            tally.joined[file] += 1
            continue
        if occurrence and "Id" in row.fields and entity_type is not EntityType.ORDER:
            tally.refused[file, "Id: stands in an earlier row"] += 1
            continue
        try:
            mapped = mapping(row.fields)
            made = {"order_id": order_id(key, occurrence)} if entity_type is EntityType.ORDER else {}
            payload = checked_payload(entity_type, {**mapped.fields, **made})
        except (UnmappableError, PayloadError) as error:
            tally.refused[file, str(error)] += 1
            continue
        tally.notes.update((file, note) for note in mapped.notes)
        yield _Found(file, payload)


def _when(found: _Found) -> tuple[float, str]:
    payload = found.payload
    if isinstance(payload, PatientV1):
        return float(payload.birth_date.toordinal()), payload.entity_id
    instant = payload.started_at if isinstance(payload, EncounterV1) else payload.ordered_at
    return instant.timestamp(), payload.entity_id


def _save(
    uow: UnitOfWork, entity_type: EntityType, payloads: Sequence[AnyPayload], targets: Targets
) -> dict[str, Saved]:
    for attempt in range(1, _ATTEMPTS_MAX + 1):
        try:
            return save_batch(uow, entity_type, payloads, targets=targets)
        except (AlreadyExistsError, BusyError):
            # Another import or a request got there first; what it committed is seen at the next attempt.
            if attempt == _ATTEMPTS_MAX:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def _of_file(file: SourceFile, counts: Mapping[tuple[SourceFile, str], int]) -> dict[str, int]:
    return {reason: count for (name, reason), count in sorted(counts.items()) if name is file}
