"""Single changes at a steady rate through the application's service functions, as a clinic makes them."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import sqlalchemy as sa

from producer_app import services
from producer_app.services import Targets
from producer_app.tables import patient_cache
from producer_app.unit_of_work import UnitOfWork

_LABORATORY: Final = {"system": "LOINC", "code": "2345-7", "display": "Glucose [Mass/volume] in Serum or Plasma"}


def patient_states(app: sa.Engine) -> Sequence[dict[str, Any]]:
    """Return the full state of every live patient, in the order of their ids."""
    key = patient_cache.c.patient_id
    state = sa.cast(patient_cache.c.state, sa.Text())
    query = sa.select(state).where(patient_cache.c.deleted_at.is_(None)).order_by(key)
    with app.connect() as connection:
        return [json.loads(text) for text in connection.execute(query).scalars()]


def make_changes(
    uow: UnitOfWork,
    patients: Sequence[dict[str, Any]],
    *,
    changes: int,
    rate_per_s: float,
    targets: Targets,
    made: Callable[[int], None],
) -> None:
    """Commit `changes` changes, one every 1/rate_per_s seconds; a late one does not delay the ones after it.

    made is told after each how many there were, and may raise to end it.
    """
    todo = _clinic_day(uow, patients, targets)
    started = time.monotonic()
    for number in range(changes):
        time.sleep(max(0.0, started + number / rate_per_s - time.monotonic()))
        next(todo)
        made(number + 1)


def _clinic_day(uow: UnitOfWork, patients: Sequence[dict[str, Any]], targets: Targets) -> Iterator[None]:
    """Make one change per step: a visit with an order, both changed again, then a prescription or a deletion."""
    visit = 0
    while True:
        patient = dict(patients[visit % len(patients)])
        visit += 1
        patient_id = str(patient.pop("patient_id"))
        services.update_patient(uow, patient_id, {**patient, "phone_home": f"555-01{visit % 100:02d}"}, targets=targets)
        yield
        encounter = {"patient_id": patient_id, "started_at": _now(), "class_code": "AMB", "reason": "Follow-up"}
        encounter_id = services.create_encounter(uow, encounter, targets=targets).entity_id
        yield
        order = {"patient_id": patient_id, "encounter_id": encounter_id, "ordered_at": _now(), "status": "active"}
        laboratory = {**order, "kind": "laboratory", "code": _LABORATORY}
        order_id = services.create_order(uow, laboratory, targets=targets).entity_id
        yield
        services.update_encounter(uow, encounter_id, {**encounter, "ended_at": _now()}, targets=targets)
        yield
        services.update_order(uow, order_id, {**laboratory, "status": "completed"}, targets=targets)
        yield
        if visit % 2:
            medication = {**order, "kind": "medication", "drug": "Metformin 500 MG Oral Tablet", "rxnorm": "860975"}
            services.create_order(uow, medication, targets=targets)
        else:
            services.delete_order(uow, order_id, targets=targets)
        yield


def _now() -> str:
    return dt.datetime.now(tz=dt.UTC).isoformat()
