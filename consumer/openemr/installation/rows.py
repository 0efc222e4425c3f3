"""The rows that OpenEMR's SQL file and its installer put into a new database."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from consumer.openemr.installation.schema import Schema, read_facts

WRITER_USERNAME: Final = "emrsync"
"""The OpenEMR user in whose name rows are written; it has no password row and so nobody can log in as it."""

CLINICIAN_NPI: Final = "1234567893"
"""The identifier of the clinician in a new database; a real one would belong to a person."""

_FACILITY_ID: Final = 3
_USER_COLUMNS: Final = (
    "id",
    "username",
    "password",
    "authorized",
    "fname",
    "lname",
    "facility_id",
    "active",
    "calendar",
    "npi",
)

Value = str | int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one table, each in the order of the columns."""

    table: str
    columns: tuple[str, ...]
    values: tuple[tuple[Value, ...], ...]


def initial_rows(schema: Schema, *, time_zone: str) -> Iterator[Rows]:
    """Yield all rows of a new database but the version row, which says that the others are there."""
    seeds = read_facts("seed_rows.json")
    stated = seeds["versions"][schema.version]
    yield Rows("sequences", ("id",), tuple((number,) for number in stated["sequences"]))
    yield _row_set("facility", stated["facility"])
    for table in ("registry", "openemr_postcalendar_categories"):
        yield _row_set(table, seeds["row_sets"][stated[table]])
    yield _background_services(seeds["row_sets"][stated["background_services"]])
    yield _list_options(seeds, stated)
    yield _users()
    yield _groups()
    yield _globals(time_zone)


def version_rows(schema: Schema) -> Rows:
    """Return the version row, which is written last."""
    columns = tuple(field.name for field in dataclasses.fields(schema.version_row))
    return Rows("version", columns, (dataclasses.astuple(schema.version_row),))


def _row_set(table: str, stated: Mapping[str, Any]) -> Rows:
    return Rows(table, tuple(stated["columns"]), tuple(map(tuple, stated["rows"])))


def _background_services(stated: Mapping[str, Any]) -> Rows:
    known = _row_set("background_services", stated)
    # Titles and PHP functions are no facts we keep, but their columns have no default.
    filled = tuple((*row, row[known.columns.index("name")], "") for row in known.values)
    return Rows(known.table, (*known.columns, "title", "function"), filled)


def _list_options(seeds: Mapping[str, Any], stated: Mapping[str, Any]) -> Rows:
    lists: dict[str, Sequence[Sequence[str]]] = {
        name: seeds["list_sets"][content] for name, content in stated["list_options"].items()
    }
    # Of these lists only the ids are known; an id is a readable title.
    for name, content in stated["list_option_ids"].items():
        lists[name] = [(option_id, option_id) for option_id in seeds["id_sets"][content]]
    lists["race"] = [(option_id, option_id) for option_id in stated["race"]["main_option_ids"]]
    values = tuple(
        (name, option_id, title, place * 10)
        for name, options in lists.items()
        for place, (option_id, title) in enumerate(options, 1)
    )
    return Rows("list_options", ("list_id", "option_id", "title", "seq"), values)


def _users() -> Rows:
    unused = "NoLongerUsed"
    return Rows(
        "users",
        _USER_COLUMNS,
        (
            (1, "admin", unused, 1, "", "Administrator", _FACILITY_ID, 1, 1, None),
            (2, WRITER_USERNAME, unused, 0, "", "emrsync", _FACILITY_ID, 1, 0, None),
            (3, "clinician", unused, 1, "Clara", "Clinician", _FACILITY_ID, 1, 1, CLINICIAN_NPI),
        ),
    )


def _groups() -> Rows:
    members = ("admin", WRITER_USERNAME, "clinician")
    return Rows("groups", ("name", "user"), tuple(("Default", member) for member in members))


def _globals(time_zone: str) -> Rows:
    return Rows(
        "globals",
        ("gl_name", "gl_index", "gl_value"),
        (("gbl_time_zone", 0, time_zone), ("full_new_patient_form", 0, "1"), ("allow_pat_delete", 0, "0")),
    )
