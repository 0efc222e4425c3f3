"""CREATE TABLE statements for MariaDB and MySQL."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from consumer.openemr.installation.schema import Column, InstallationError, Table

_KEY_PART = re.compile(r"(?P<name>\w+)(?P<length>\(\d+\))?")


def create_table(table: Table) -> str:
    """Return the statement that makes the table if there is none of its name."""
    lines = ",\n  ".join([*map(column_definition, table.columns), *_key_definitions(table)])
    return f"CREATE TABLE IF NOT EXISTS {quoted_name(table.name)} (\n  {lines}\n) ENGINE={table.engine}"


def column_definition(column: Column) -> str:
    """Return one column's line: NULL is always said, as TIMESTAMP is NOT NULL without it."""
    words = [quoted_name(column.name), column.type, "NULL" if column.nullable else "NOT NULL"]
    if column.default is not None:
        words += ["DEFAULT", column.default if column.default_is_expression else quoted_text(column.default)]
    elif column.nullable:
        words.append("DEFAULT NULL")
    if column.on_update is not None:
        words += ["ON UPDATE", column.on_update]
    if column.auto_increment:
        words.append("AUTO_INCREMENT")
    return " ".join(words)


def quoted_name(name: str) -> str:
    """Return an identifier that may hold any character."""
    return f"`{name.replace('`', '``')}`"


def quoted_text(text: str) -> str:
    r"""Return a string literal, right in every sql_mode but NO_BACKSLASH_ESCAPES."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _key_definitions(table: Table) -> Iterator[str]:
    if table.primary_key:
        yield f"PRIMARY KEY ({_key_parts(table.primary_key)})"
    for name, parts in table.unique.items():
        yield f"UNIQUE KEY {quoted_name(name)} ({_key_parts(parts)})"
    for name, parts in table.indexes.items():
        yield f"KEY {quoted_name(name)} ({_key_parts(parts)})"


def _key_parts(parts: Iterable[str]) -> str:
    return ", ".join(map(_key_part, parts))


def _key_part(part: str) -> str:
    match = _KEY_PART.fullmatch(part)
    if match is None:
        raise InstallationError(f"{part!r} is no key part: a column name, or one with a length in brackets")
    return quoted_name(match["name"]) + (match["length"] or "")
