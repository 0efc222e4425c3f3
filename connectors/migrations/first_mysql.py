"""Revision outbox_0001 on MySQL and MariaDB."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import sqlalchemy as sa

from connectors.migrations import classic
from connectors.migrations.errors import MigrationError

# JSON columns stream other text than was stored, and MariaDB's UUID type loses trailing zero bytes in the binlog.
_COLUMNS: Final[Mapping[str, str]] = {
    "outbox_id": "CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT (UUID())",
    "entity_type": "VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL",
    "entity_id": "VARCHAR(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL",
    "operation": "VARCHAR(10) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL",
    "target_system": "VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL",
    "payload": "LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL",
    "payload_version": "SMALLINT NOT NULL DEFAULT 1",
    "status": "VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT 'pending'",
    "outcome": "VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL",
    "retry_count": "INT NOT NULL DEFAULT 0",
    "next_attempt_at": "DATETIME(6) NULL",
    "error_class": "VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL",
    "error_message": "TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL",
    "created_at": "DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6))",
    "processed_at": "DATETIME(6) NULL",
}

_PAYLOAD_CHECK: Final = "ck_sync_outbox_payload"
_CHECKS: Final[Mapping[str, str]] = {**classic.CHECKS, _PAYLOAD_CHECK: "JSON_VALID(payload)"}

_INDEXES: Final[Mapping[str, str]] = {
    "ix_sync_outbox_status_next_attempt_at": "status, next_attempt_at",
    "ix_sync_outbox_entity": "entity_type, entity_id, seq",
}

# What rows of an older table may lack.
_FILLS: Final[Mapping[str, str]] = {"status": "'pending'", "retry_count": "0", "created_at": "UTC_TIMESTAMP(6)"}

# The rows keep the order in which the application made them.
_NUMBER_ROWS: Final = """
UPDATE sync_outbox
JOIN (
    SELECT outbox_id, ROW_NUMBER() OVER (ORDER BY created_at, outbox_id) AS seq FROM sync_outbox AS unnumbered
) AS numbered ON numbered.outbox_id = sync_outbox.outbox_id
SET sync_outbox.seq = numbered.seq
"""


def create(connection: sa.Connection) -> None:
    """Create the table with its checks and indexes, in one statement."""
    outbox_id, *others = (f"{name} {definition}" for name, definition in _COLUMNS.items())
    lines = [outbox_id, "seq BIGINT NOT NULL AUTO_INCREMENT", *others]
    lines += ["PRIMARY KEY (outbox_id)", "UNIQUE KEY uq_sync_outbox_seq (seq)"]
    lines += [f"KEY {name} ({columns})" for name, columns in _INDEXES.items()]
    lines += [f"CONSTRAINT {name} CHECK ({condition})" for name, condition in _CHECKS.items()]
    connection.execute(
        sa.text(
            f"CREATE TABLE sync_outbox ({', '.join(lines)})"
            " ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        )
    )


def complete(connection: sa.Connection, report: Callable[[str], None]) -> None:
    """Bring an existing table to the same schema; every row is kept.

    DDL is not transactional here, so each step looks whether it is needed: a run that was cut short is run again.
    """
    # TIMESTAMP columns are converted by the session's zone, and a value that does not fit must not be cut.
    connection.execute(sa.text("SET time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'"))
    classic.check_columns(connection)
    types = _types(connection)
    _check_values(connection, types)
    for name in classic.foreign_checks(connection):
        if name in _CHECKS or name in types:
            continue  # a check of MariaDB that belongs to the column goes when the column is defined anew
        connection.execute(sa.text(f"ALTER TABLE sync_outbox DROP CONSTRAINT {_quoted(connection, name)}"))
        report(f"check {name} removed: the contract's own check takes its place")
    _define(connection, types, report)
    _number(connection, report)
    _constrain(connection)


def _types(connection: sa.Connection) -> dict[str, str]:
    found = connection.execute(
        sa.text(
            "SELECT column_name, column_type FROM information_schema.columns"
            " WHERE table_schema = DATABASE() AND table_name = 'sync_outbox'"
        )
    )
    return {str(row[0]): str(row[1]).lower() for row in found}


def _check_values(connection: sa.Connection, types: Mapping[str, str]) -> None:
    classic.check_rows(connection, types)
    if not types["outbox_id"].startswith(("char(", "varchar(", "uuid", "tinytext", "text")):
        raise MigrationError(f"sync_outbox.outbox_id is {types['outbox_id']}: it must hold UUIDs as text")
    invalid = connection.scalar(sa.text("SELECT count(*) FROM sync_outbox WHERE NOT JSON_VALID(payload)"))
    if invalid:
        raise MigrationError(
            f"{invalid} rows of sync_outbox have a payload that is no JSON: change or remove them first"
        )


def _quoted(connection: sa.Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote(name)


def _define(connection: sa.Connection, types: Mapping[str, str], report: Callable[[str], None]) -> None:
    # ON UPDATE CURRENT_TIMESTAMP would make every row that is touched below look new.
    instants = [name for name in ("created_at", "processed_at") if name in types]
    plain = ", ".join(f"MODIFY COLUMN {name} DATETIME(6) NULL" for name in instants)
    connection.execute(sa.text(f"ALTER TABLE sync_outbox {plain}"))
    for name, value in _FILLS.items():
        if name in types:
            connection.execute(sa.text(f"UPDATE sync_outbox SET {name} = {value} WHERE {name} IS NULL"))  # noqa: S608 - our names
    # A commit here, because ALTER TABLE would make one anyway.
    connection.execute(sa.text("COMMIT"))
    verbs = (f"{'MODIFY' if name in types else 'ADD'} COLUMN {name} {text}" for name, text in _COLUMNS.items())
    connection.execute(
        sa.text(
            f"ALTER TABLE sync_outbox {', '.join(verbs)},"
            " ENGINE=InnoDB, DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        )
    )
    added = ", ".join(name for name in _COLUMNS if name not in types)
    report(f"columns defined as the contract says; added: {added or 'none'}")


def _number(connection: sa.Connection, report: Callable[[str], None]) -> None:
    defined = connection.execute(
        sa.text(
            "SELECT extra FROM information_schema.columns"
            " WHERE table_schema = DATABASE() AND table_name = 'sync_outbox' AND column_name = 'seq'"
        )
    ).scalar_one_or_none()
    if defined is not None and "auto_increment" in str(defined).lower():
        return
    # A row that the application inserts between numbering and AUTO_INCREMENT would stay without a number.
    connection.execute(sa.text("LOCK TABLES sync_outbox WRITE, sync_outbox AS unnumbered READ"))
    try:
        if defined is None:
            connection.execute(sa.text("ALTER TABLE sync_outbox ADD COLUMN seq BIGINT NULL AFTER outbox_id"))
        connection.execute(sa.text(_NUMBER_ROWS))
        connection.execute(
            sa.text(
                "ALTER TABLE sync_outbox MODIFY COLUMN seq BIGINT NOT NULL AUTO_INCREMENT,"
                " ADD UNIQUE KEY uq_sync_outbox_seq (seq)"
            )
        )
    finally:
        connection.execute(sa.text("UNLOCK TABLES"))
    report("column seq added: rows numbered by created_at")


def _constrain(connection: sa.Connection) -> None:
    inspector = sa.inspect(connection)
    named = {check["name"] for check in inspector.get_check_constraints("sync_outbox")}
    for name, condition in _CHECKS.items():
        if name not in named:
            connection.execute(sa.text(f"ALTER TABLE sync_outbox ADD CONSTRAINT {name} CHECK ({condition})"))
    indexed = {index["name"] for index in inspector.get_indexes("sync_outbox")}
    for name, columns in _INDEXES.items():
        if name not in indexed:
            connection.execute(sa.text(f"CREATE INDEX {name} ON sync_outbox ({columns})"))
