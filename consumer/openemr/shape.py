"""What the tables we write look like, so that a change by an upgrade of OpenEMR is noticed and can be told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final, TypeAlias

import sqlalchemy as sa

from consumer.openemr.site import TABLES, require_tables

Shape: TypeAlias = Mapping[str, str]
"""By table and column (`patient_data.fname`) what the column is; by `version.v_…` what OpenEMR's version row says."""

_COLUMNS: Final = """
    SELECT table_name, column_name, column_type, is_nullable, column_default, character_set_name
    FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name IN %s
"""


def read_shape(connection: sa.Connection) -> Shape:
    """Read the columns of the tables we write and the version row, which an upgrade changes too.

    Raises:
        TablesMissingError: the database is no OpenEMR.
    """
    found: dict[str, str] = {}
    for table, column, kind, nullable, default, charset in connection.exec_driver_sql(_COLUMNS, (TABLES,)):
        words = [str(kind), "null" if nullable == "YES" else "not null"]
        words += [] if default is None else [f"default {default}"]
        words += [] if charset is None else [str(charset)]
        found[f"{table}.{column}"] = " ".join(words)
    require_tables({name.partition(".")[0] for name in found})
    # All its columns: which there are differs between versions, and so is part of the shape.
    version = connection.exec_driver_sql("SELECT * FROM version").mappings().first()
    found |= {f"version.{name}": str(value) for name, value in (version or {}).items()}
    return found


def written(shape: Shape) -> str:
    """Give the text that is stored: the same for the same shape."""
    return json.dumps(dict(shape), sort_keys=True, ensure_ascii=False)


def fingerprint(shape: Shape) -> bytes:
    """Give 16 bytes that tell one shape from another."""
    return hashlib.blake2b(written(shape).encode(), digest_size=16).digest()


def differences(before: Shape, after: Shape) -> tuple[str, ...]:
    """Tell, in one line each, what is different, in the order of the names."""
    lines: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        was, becomes = before.get(name), after.get(name)
        if was is None:
            lines.append(f"{name}: new, {becomes}")
        elif becomes is None:
            lines.append(f"{name}: gone, was {was}")
        elif was != becomes:
            lines.append(f"{name}: {was} -> {becomes}")
    return tuple(lines)
