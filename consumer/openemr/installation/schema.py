"""The tables of one OpenEMR version, as its fact file states them."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import re
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from typing import Any, Final

DEFAULT_VERSION: Final = "8.2.0-dev"
"""The newest version with facts; unlike 7.0.3, it has the FHIR resource ServiceRequest."""

_FACTS_FILE = re.compile(r"(?P<version>(?P<numbers>\d+\.\d+\.\d+)(-\w+)?)\.json")
_VERSION_PHP = re.compile(r"(\d+)\.(\d+)\.(\d+)\.(\d+)(-\w+)?")


class InstallationError(RuntimeError):
    """The base of what stops an installation."""


class UnknownVersionError(InstallationError):
    """No facts are kept of the version asked for."""


@dataclasses.dataclass(frozen=True, slots=True)
class VersionRow:
    """The row of OpenEMR's table `version`; fields are named and ordered as its columns."""

    v_major: int
    v_minor: int
    v_patch: int
    v_realpatch: int
    v_tag: str
    v_database: int
    v_acl: int

    def __str__(self) -> str:
        numbers = f"{self.v_major}.{self.v_minor}.{self.v_patch}.{self.v_realpatch}"
        return f"{numbers}{self.v_tag} (database {self.v_database}, access control {self.v_acl})"


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """One column; a default of None is DEFAULT NULL where the column is nullable, and no default where not."""

    name: str
    type: str
    nullable: bool
    default: str | None
    auto_increment: bool
    on_update: str | None
    default_is_expression: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """One table; key parts are column names, with a prefix length where there is one: "name(20)"."""

    name: str
    engine: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    unique: Mapping[str, tuple[str, ...]]
    indexes: Mapping[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True, slots=True)
class Schema:
    """What one version has; version_row is what its installer writes."""

    version: str
    version_row: VersionRow
    tables: tuple[Table, ...]


def versions() -> tuple[str, ...]:
    """Return the versions that can be installed, oldest first."""
    found = [match for file in _facts().iterdir() if (match := _FACTS_FILE.fullmatch(file.name))]
    ordered = sorted(found, key=lambda match: [int(number) for number in match["numbers"].split(".")])
    return tuple(match["version"] for match in ordered)


def read_schema(version: str) -> Schema:
    """Return the tables of one version.

    Raises:
        UnknownVersionError: when no facts are kept of it.
    """
    if version not in versions():
        raise UnknownVersionError(f"OpenEMR {version} is unknown; known are {', '.join(versions())}")
    stated = read_facts(f"{version}.json")
    return Schema(
        version=version,
        version_row=_version_row(stated),
        tables=tuple(_table(name, table) for name, table in stated["tables"].items()),
    )


def read_facts(file_name: str) -> dict[str, Any]:
    """Return the JSON object that a file of facts holds."""
    stated: dict[str, Any] = json.loads(_facts().joinpath(file_name).read_text(encoding="utf-8"))
    return stated


def _facts() -> Traversable:
    return importlib.resources.files("consumer.openemr.installation").joinpath("facts")


def _version_row(stated: Mapping[str, Any]) -> VersionRow:
    match = _VERSION_PHP.fullmatch(stated["version_php"])
    if match is None:
        raise InstallationError(f"the facts of {stated['version']} state no usable version_php")
    major, minor, patch, real_patch, tag = match.groups(default="")
    return VersionRow(int(major), int(minor), int(patch), int(real_patch), tag, stated["v_database"], stated["v_acl"])


def _table(name: str, stated: Mapping[str, Any]) -> Table:
    return Table(
        name=name,
        engine=stated["engine"],
        columns=tuple(Column(**column) for column in stated["columns"]),
        primary_key=tuple(stated["primary_key"]),
        unique={key: tuple(parts) for key, parts in stated["unique"].items()},
        indexes={key: tuple(parts) for key, parts in stated["indexes"].items()},
    )
