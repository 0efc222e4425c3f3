"""Lets the application write events of entities again whose rows have left the outbox."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa

from connectors.outbox import EntityType
from operations.errors import ResyncError
from operations.recovery_ledger import FINISHED, PAUSED, RUNNING, STOPPED
from operations.resync import SLICE_ROWS, Ended
from operations.resync_ledger import ResyncLedger, ResyncRun
from operations.resync_selection import ResyncSelection
from operations.resync_throttle import Throttle
from producer_app.bootstrap import Application
from producer_app.resync import entities, tell_again, updated_at
from producer_app.tables import key_column

ENTITIES_MAX: Final = 20
"""Of one transaction, so that the application never waits long for one of their rows."""

ORDER: Final = (EntityType.PATIENT, EntityType.ENCOUNTER, EntityType.ORDER)
"""Parents first: a child that comes before its parent would have to wait."""


def chosen(entity_type: EntityType, selection: ResyncSelection) -> sa.Select[Any]:
    """Select the ids that a selection means."""
    found = entities(entity_type, every=selection.every).where(*selection.between(updated_at(entity_type)))
    return found.where(key_column(entity_type).in_(selection.entity_ids)) if selection.entity_ids else found


def look(engine: sa.Engine, selection: ResyncSelection) -> Counter[str]:
    """Count the entities of a selection by type; nothing is changed."""
    counts: Counter[str] = Counter()
    with engine.connect() as connection:
        for entity_type in selection.entity_types or ORDER:
            ids = chosen(entity_type, selection).subquery()
            counts[entity_type] = connection.scalar(sa.select(sa.func.count()).select_from(ids)) or 0
    return counts


class TablesResync:
    """One run, or one part of it."""

    def __init__(
        self,
        application: Application,
        ledger: ResyncLedger,
        run: ResyncRun,
        throttle: Throttle,
        *,
        portion: int = SLICE_ROWS,
    ) -> None:
        self._application = application
        self._ledger = ledger
        self._run = run
        self._throttle = throttle
        self._portion = portion
        self.refused: list[str] = []

    def carry_out(self, stop: Callable[[], bool], told: Callable[[int], None]) -> Ended:
        """Go on until all entities are told, or a stop is asked for; each transaction is finished and remembered."""
        since_wait = 0
        try:
            while not stop():
                if (portion := self._next()) is None:
                    return self._ended(FINISHED)
                entity_type, ids = portion
                self._tell(entity_type, ids)
                told(len(ids))
                since_wait += len(ids)
                if since_wait >= self._portion:
                    self._throttle.wait(since_wait)
                    since_wait = 0
        except ResyncError as error:
            return self._ended(STOPPED, str(error))
        return self._ended(PAUSED)

    def _next(self) -> tuple[EntityType, list[str]] | None:
        place = self._run.place
        types = [one for one in ORDER if one in (self._run.selection.entity_types or ORDER)]
        for entity_type in types[types.index(EntityType(place["entity_type"])) if place["entity_type"] else 0 :]:
            key = key_column(entity_type)
            after = place["after_id"] if place["entity_type"] == entity_type else ""
            asked = (
                chosen(entity_type, self._run.selection)
                .where(key > after)
                .order_by(key)
                .limit(min(ENTITIES_MAX, self._portion))
            )
            with self._application.engine.connect() as connection:
                ids = list(connection.scalars(asked))
            if ids:
                return entity_type, ids
        return None

    def _tell(self, entity_type: EntityType, ids: list[str]) -> None:
        told = tell_again(self._application.unit_of_work(), entity_type, ids)
        self.refused += told.refused
        place = {"entity_type": entity_type.value, "after_id": ids[-1]}
        self._run = dataclasses.replace(self._run, state=RUNNING, done=self._run.done + len(ids), place=place)
        self._ledger.save(self._run)

    def _ended(self, state: str, reason: str | None = None) -> Ended:
        self._run = dataclasses.replace(self._run, state=state)
        self._ledger.save(self._run)
        if reason is None and self.refused:
            reason = (
                f"{len(self.refused)} entities have a state that the contract refuses: {', '.join(self.refused[:5])}"
            )
        return Ended(state, self._run.done, reason)
