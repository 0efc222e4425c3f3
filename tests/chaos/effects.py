"""A diary of every row that is written into OpenEMR, kept by triggers: what was written twice, or older over newer."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Final

import sqlalchemy as sa

SCHEMA: Final = "emrsync_diary"

WORDS: Final[Mapping[str, str]] = {
    "patient_data": "mname",
    "form_encounter": "reason",
    "procedure_order": "patient_instructions",
    "prescriptions": "drug_dosage_instructions",
}
"""The column of each table that carries the revision of the payload, which grows with seq."""

LIVE: Final[Mapping[str, str]] = {
    "patient_data": "1",
    "form_encounter": "1",
    "procedure_order": "activity",
    "prescriptions": "active",
}
"""What is 0 in a row that was deleted by leaving it there as inactive."""

_REVISION: Final = re.compile(r"^M(\d+)$|[Rr]evision (\d+)")


@contextlib.contextmanager
def diary(openemr: sa.Engine, database: str) -> Iterator[None]:
    """Keep the diary for the time of a block."""
    with openemr.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql(f"CREATE DATABASE IF NOT EXISTS {SCHEMA}")
        connection.exec_driver_sql(
            f"CREATE OR REPLACE TABLE {SCHEMA}.effect (id BIGINT AUTO_INCREMENT PRIMARY KEY, "
            "place VARCHAR(64) NOT NULL, uuid BINARY(16) NULL, word TEXT NULL, live INT NOT NULL) CHARACTER SET utf8mb4"
        )
        for place, column in WORDS.items():
            live = LIVE[place] if LIVE[place] == "1" else f"NEW.{LIVE[place]}"
            for moment in ("INSERT", "UPDATE"):
                connection.exec_driver_sql(
                    f"CREATE OR REPLACE TRIGGER {database}.diary_{place}_{moment.lower()} AFTER {moment} "
                    f"ON {database}.{place} FOR EACH ROW INSERT INTO {SCHEMA}.effect (place, uuid, word, live) "
                    f"VALUES ('{place}', NEW.uuid, NEW.{column}, {live})"
                )
    try:
        yield
    finally:
        with openemr.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            for place in WORDS:
                for moment in ("insert", "update"):
                    connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {database}.diary_{place}_{moment}")
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {SCHEMA}")


def violations(openemr: sa.Engine) -> list[str]:
    """Find rows that were written twice by one event, or with an older state after a newer one."""
    newest: dict[tuple[str, bytes], tuple[int, bool]] = {}
    found: list[str] = []
    with openemr.connect() as connection:
        rows = connection.exec_driver_sql(f"SELECT place, uuid, word, live FROM {SCHEMA}.effect ORDER BY id")
        for place, uuid, word, live in rows:
            revision = revision_of(word)
            if revision is None:
                continue
            # A delete leaves the revision as it was.
            state = revision, not live
            before = newest.get((place, uuid))
            if before is not None and state <= before:
                found.append(f"I4: {place} {uuid.hex()} was written with revision {revision} after {before[0]}")
            newest[place, uuid] = state
    return found


def revision_of(word: str | None) -> int | None:
    """Read the revision out of the column that carries it."""
    match = _REVISION.search(word or "")
    return None if match is None else int(match[1] or match[2])
