"""Made-up outbox rows: new patients, and a mix of creates, updates and deletes over all entity types."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from connectors.outbox import EntityType, Operation, TargetSystem, sync_outbox
from producer_app.outbox import new_outbox_id

ROWS_PER_INSERT: Final = 1_000

_FAMILY: Final = ("Almeida", "Bergström", "Nguyễn", "O'Keefe", "김", "李", "Haddad")
_GIVEN: Final = ("Ana", "Björn", "Chi", "Dara", "유나", "伟", "Layla")


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One outbox row to come."""

    entity_type: EntityType
    operation: Operation
    payload: Mapping[str, Any]


def patient(number: int, revision: int = 0) -> Mapping[str, Any]:
    """Give a patient of about 0.9 kB as JSON."""
    return {
        "patient_id": f"P-2025-{number:07d}",
        "family_name": f"{_FAMILY[number % len(_FAMILY)]}-{number}",
        "given_name": _GIVEN[number % len(_GIVEN)],
        "middle_name": f"M{revision}",
        "birth_date": f"{1930 + number % 90}-{1 + number % 12:02d}-{1 + number % 28:02d}",
        "sex": ("male", "female", "unknown")[number % 3],
        "title": "Dr",
        "address": {
            "line": f"{number} Long Meadow Crescent",
            "line2": f"Apartment {number % 300}",
            "city": "Springfield upon the River",
            "state": "MA",
            "postal_code": f"{number % 100_000:05d}",
            "county": "Hampden",
            "country": "USA",
        },
        "phone_home": f"555-{number:07d}",
        "phone_mobile": f"556-{number:07d}",
        "phone_work": f"557-{number:07d}",
        "email": f"patient.{number}.revision.{revision}@clinic.example",
        "marital_status": ("single", "married", "widowed")[number % 3],
        "language": "English",
        "race": "white",
        "ethnicity": "not_hisp_or_latin",
        "national_id": f"999-{number:09d}",
        "registered_at": "2025-01-15T08:30:00+00:00",
    }


def encounter(number: int, patient_number: int, revision: int = 0) -> Mapping[str, Any]:
    """Give an encounter of a patient."""
    return {
        "encounter_id": f"E-2025-{number:07d}",
        "patient_id": f"P-2025-{patient_number:07d}",
        "started_at": f"2025-{1 + number % 12:02d}-{1 + number % 28:02d}T{number % 24:02d}:15:00+00:00",
        "class_code": "AMB",
        "reason": f"Follow-up visit number {number}, revision {revision}, with a reason of usual length",
    }


def order(number: int, patient_number: int, encounter_number: int, revision: int = 0) -> Mapping[str, Any]:
    """Give an order of an encounter: a medication, laboratory, imaging or procedure order by turns."""
    common = {
        "order_id": f"O-2025-{number:07d}",
        "patient_id": f"P-2025-{patient_number:07d}",
        "encounter_id": f"E-2025-{encounter_number:07d}",
        "ordered_at": f"2025-{1 + number % 12:02d}-{1 + number % 28:02d}T10:00:00+00:00",
        "status": "active",
        "instructions": f"Revision {revision}: take or do as told",
    }
    if number % 2:
        return {**common, "kind": "medication", "drug": f"Drug {number % 500} 10 MG Oral Tablet", "quantity": "30"}
    kind = ("laboratory", "imaging", "procedure")[number // 2 % 3]
    code = {"system": "LOINC", "code": f"{number % 400}-1", "display": f"Examination {number % 400}"}
    return {**common, "kind": kind, "code": code}


@dataclasses.dataclass(frozen=True, slots=True)
class Mix:
    """A base population, and events on it: 60 % updates, 30 % creates, 10 % deletes, of all three entity types.

    Of each three patients the first keeps living and has encounters and orders, and the others may be deleted.
    """

    patients: int
    events: int
    seed: int = 1

    def base(self) -> Iterator[Row]:
        """Give the rows that must be in OpenEMR before."""
        for number in range(self.patients):
            yield Row(EntityType.PATIENT, Operation.CREATE, patient(number))
        for number in range(self.patients):
            yield Row(EntityType.ENCOUNTER, Operation.CREATE, encounter(number, _living(number)))
        for number in range(self.patients):
            yield Row(EntityType.ORDER, Operation.CREATE, self._order(number))

    def rows(self) -> Iterator[Row]:
        """Give the events, in an order shuffled by the seed."""
        chance = random.Random(self.seed)
        deletes = iter(self._deletes(self.events // 10))
        wanted = ["update"] * (self.events * 6 // 10) + ["create"] * (self.events * 3 // 10)
        wanted += ["delete"] * (self.events - len(wanted))
        chance.shuffle(wanted)
        for index, what in enumerate(wanted):
            if what == "delete":
                yield next(deletes)
            elif what == "create":
                yield self._new(index, chance)
            else:
                yield self._update(index, chance)

    def _order(self, number: int, revision: int = 0) -> Mapping[str, Any]:
        visit = number - number % 3
        return order(number, _living(visit), visit, revision)

    def _update(self, index: int, chance: random.Random) -> Row:
        number = chance.randrange(self.patients // 3) * 3
        make = (
            Row(EntityType.PATIENT, Operation.UPDATE, patient(number, index)),
            Row(EntityType.ENCOUNTER, Operation.UPDATE, encounter(number, _living(number), index)),
            Row(EntityType.ORDER, Operation.UPDATE, self._order(number, index)),
        )
        return make[index % 3]

    def _new(self, index: int, chance: random.Random) -> Row:
        number, living = self.patients + index, chance.randrange(self.patients // 3) * 3
        make = (
            Row(EntityType.PATIENT, Operation.CREATE, patient(number)),
            Row(EntityType.ENCOUNTER, Operation.CREATE, encounter(number, living)),
            Row(EntityType.ORDER, Operation.CREATE, order(number, _living(living), living)),
        )
        return make[index % 3]

    def _deletes(self, count: int) -> Iterator[Row]:
        for number in range(count):
            place = number // 3 * 3 + 1
            yield (
                Row(EntityType.PATIENT, Operation.DELETE, patient(place)),
                Row(EntityType.ENCOUNTER, Operation.DELETE, encounter(place, _living(place))),
                Row(EntityType.ORDER, Operation.DELETE, self._order(place)),
            )[number % 3]


def _living(number: int) -> int:
    return number - number % 3


def insert(engine: sa.Engine, rows: Iterator[Row]) -> int:
    """Write outbox rows as the application's account, many to a transaction; return how many."""
    count = 0
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == ROWS_PER_INSERT:
            count += _insert(engine, batch)
            batch = []
    return count + _insert(engine, batch)


def _insert(engine: sa.Engine, rows: Sequence[Row]) -> int:
    if rows:
        with engine.begin() as connection:
            connection.execute(sa.insert(sync_outbox), [outbox_row(row) for row in rows])
    return len(rows)


def outbox_row(row: Row) -> dict[str, Any]:
    """Give the columns of one outbox row."""
    return {
        "outbox_id": new_outbox_id(),
        "entity_type": row.entity_type.value,
        "entity_id": row.payload[f"{row.entity_type}_id"],
        "operation": row.operation.value,
        "target_system": TargetSystem.OPENEMR.value,
        "payload": json.dumps(row.payload, ensure_ascii=False),
    }
