"""What an existing sync_outbox must bring before it can be completed, whatever the database."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

import sqlalchemy as sa

from connectors.migrations.errors import MigrationError

REQUIRED: Final = ("outbox_id", "entity_type", "entity_id", "operation", "target_system", "payload", "created_at")
"""Columns that no migration can make up; the others are added where they are absent."""

ALLOWED: Final[Mapping[str, tuple[str, ...]]] = {
    "entity_type": ("patient", "encounter", "order"),
    "operation": ("create", "update", "delete"),
    "target_system": ("openemr", "fhir"),
    "status": ("pending", "processing", "done", "failed"),
}

CHECKS: Final[Mapping[str, str]] = {
    f"ck_sync_outbox_{column}": f"{column} IN ({', '.join(repr(value) for value in values)})"
    for column, values in ALLOWED.items()
}

_CHECKED: Final = re.compile(rf"\b({'|'.join((*ALLOWED, 'payload'))})\b", re.IGNORECASE)


def check_columns(connection: sa.Connection) -> None:
    """Raise MigrationError unless the required columns are there and outbox_id alone is the primary key."""
    inspector = sa.inspect(connection)
    present = {column["name"] for column in inspector.get_columns("sync_outbox")}
    absent = [column for column in REQUIRED if column not in present]
    if absent:
        raise MigrationError(f"sync_outbox exists without the columns {', '.join(absent)}: add and fill them first")
    key = inspector.get_pk_constraint("sync_outbox")["constrained_columns"]
    if key != ["outbox_id"]:
        raise MigrationError(
            f"the primary key of sync_outbox is ({', '.join(key)}): make it outbox_id, which must hold UUIDs"
        )


def check_rows(connection: sa.Connection, present: Collection[str]) -> None:
    """Raise MigrationError when rows hold no value where one is needed, or one the contract does not know."""
    for column in REQUIRED:
        absent = connection.scalar(sa.text(f"SELECT count(*) FROM sync_outbox WHERE {column} IS NULL"))  # noqa: S608 - our names
        if absent and column != "created_at":
            raise MigrationError(f"{absent} rows of sync_outbox have no {column}: fill or remove them, then run again")
    for column, values in ALLOWED.items():
        if column not in present:
            continue
        # A cast takes an enumeration of the application's own for text; a binary comparison keeps 'PATIENT' out.
        text = f"CAST({column} AS CHAR(40))" if connection.dialect.name == "postgresql" else f"BINARY {column}"
        trimmed = f"trim({text})" if connection.dialect.name == "postgresql" else text
        listed = ", ".join(f"'{value}'" for value in values)
        unknown = connection.scalar(
            sa.text(f"SELECT count(*) FROM sync_outbox WHERE {trimmed} NOT IN ({listed})")  # noqa: S608 - our names
        )
        if unknown:
            raise MigrationError(
                f"{unknown} rows of sync_outbox have a {column} other than {', '.join(values)}:"
                " change them, then run again"
            )


def foreign_checks(connection: sa.Connection) -> tuple[str, ...]:
    """Name the table's own checks of columns that the contract checks: one that is narrower would refuse our marks."""
    found = sa.inspect(connection).get_check_constraints("sync_outbox")
    return tuple(
        str(check["name"])
        for check in found
        if check["name"] is not None and check["name"] not in CHECKS and _CHECKED.search(str(check["sqltext"]))
    )
