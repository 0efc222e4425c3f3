"""Ids like P-2025-000001 for entities whose caller brings none."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa

from connectors.outbox import EntityType
from producer_app.database_errors import is_duplicate
from producer_app.errors import StorageError
from producer_app.tables import id_counter

LETTERS: Final[Mapping[EntityType, str]] = {
    EntityType.PATIENT: "P",
    EntityType.ENCOUNTER: "E",
    EntityType.ORDER: "O",
}


def entity_id(entity_type: EntityType, year: int, number: int) -> str:
    """Write an id: letter, year, and the number in at least six digits."""
    return f"{LETTERS[entity_type]}-{year}-{number:06d}"


def next_entity_id(engine: sa.Engine, entity_type: EntityType, today: dt.date) -> str:
    """Give out the next id of this entity type and year, committed at once in a transaction of its own.

    A counter row locked in the business transaction would make all creations of a type wait for each other until
    commit; here they wait for one short update. The price is a gap where the business transaction rolls back.
    A sequence would do the same, but MySQL has none, and one per year is DDL, which the application may not do.
    """
    number = _count_up(engine, entity_type, today.year)
    if number is None:
        _start_year(engine, entity_type, today.year)
        number = _count_up(engine, entity_type, today.year)
    if number is None:
        raise StorageError(f"the id counter of {entity_type} and {today.year} vanished")
    return entity_id(entity_type, today.year, number)


def _count_up(engine: sa.Engine, entity_type: EntityType, year: int) -> int | None:
    of_year = (id_counter.c.entity_type == entity_type.value) & (id_counter.c.year == year)
    count_up = sa.update(id_counter).where(of_year).values(last_number=id_counter.c.last_number + 1)
    with engine.begin() as connection:
        if connection.execute(count_up).rowcount == 0:
            # Not read all the same: another may start the year just now, and that row would not be locked by us.
            return None
        # The update holds the row's lock, so the number read after it is ours alone.
        number: int | None = connection.execute(sa.select(id_counter.c.last_number).where(of_year)).scalar()
    return number


def _start_year(engine: sa.Engine, entity_type: EntityType, year: int) -> None:
    try:
        with engine.begin() as connection:
            connection.execute(sa.insert(id_counter).values(entity_type=entity_type.value, year=year, last_number=0))
    except sa.exc.IntegrityError as error:
        # Someone else started the year between our update and our insert.
        if not is_duplicate(error):
            raise
