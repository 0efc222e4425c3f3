"""What OpenEMR shows, comparable between two sites: local numbers stand for entities, times of writing are left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

Row: TypeAlias = Mapping[str, Any]
Tables: TypeAlias = Mapping[str, Sequence[Row]]

# What hangs on when and by which transaction a row was written, and its own automatic number.
_OF_THE_WRITE: Final[Mapping[str, frozenset[str]]] = {
    "patient_data": frozenset({"id", "pid", "date", "last_updated"}),
    "form_encounter": frozenset({"id", "encounter", "last_update"}),
    "forms": frozenset({"id"}),
    "procedure_order": frozenset({"procedure_order_id"}),
    "procedure_order_code": frozenset(),
    "procedure_type": frozenset({"procedure_type_id"}),
    "prescriptions": frozenset({"id", "date_modified"}),
    "uuid_registry": frozenset({"created"}),
}

# By table and column, whose number it holds.
_POINTS_TO: Final[Mapping[tuple[str, str], str]] = {
    ("form_encounter", "pid"): "patient",
    ("forms", "pid"): "patient",
    ("forms", "encounter"): "encounter",
    ("procedure_order", "patient_id"): "patient",
    ("procedure_order", "encounter_id"): "encounter",
    ("procedure_order_code", "procedure_order_id"): "order",
    ("procedure_type", "parent"): "code",
    ("prescriptions", "patient_id"): "patient",
    ("prescriptions", "encounter"): "encounter",
}

# Per kind of number: table, its column, and what is the same on every site.
_NUMBERS: Final[Mapping[str, tuple[str, str, str]]] = {
    "patient": ("patient_data", "pid", "uuid"),
    "encounter": ("form_encounter", "encounter", "uuid"),
    "encounter row": ("form_encounter", "id", "uuid"),
    "order": ("procedure_order", "procedure_order_id", "uuid"),
    "code": ("procedure_type", "procedure_type_id", "procedure_code"),
}
_FORMS: Final = {"newpatient": "encounter row", "procedure_order": "order"}


def comparable(tables: Tables) -> Mapping[str, list[str]]:
    """Give each table's rows in an order of their own, with clinical times, and who hangs on whom.

    A removed row leaves its uuid in the registry, if it ever was there: an entity that came and went within one batch
    was not.
    """
    there = {row["uuid"] for table, rows in tables.items() if table != "uuid_registry" for row in rows if "uuid" in row}
    names = {
        kind: {row[number]: row[stable] for row in tables[table]} for kind, (table, number, stable) in _NUMBERS.items()
    }

    def named(table: str, row: Row) -> str:
        kept = {name: value for name, value in row.items() if name not in _OF_THE_WRITE[table]}
        for (of_table, column), kind in _POINTS_TO.items():
            if of_table == table:
                kept[column] = _named(names[kind], kept[column])
        if table == "forms":
            kept["form_id"] = _named(names[_FORMS[row["formdir"]]], kept["form_id"])
        return str(list(kept.items()))

    wanted: Callable[[str, Row], bool] = lambda table, row: table != "uuid_registry" or row["uuid"] in there  # noqa: E731
    return {table: sorted(named(table, row) for row in rows if wanted(table, row)) for table, rows in tables.items()}


def _named(names: Mapping[int, Any], number: int | None) -> Any:
    """Give whose number it is; one that is nobody's is told as such, as the same one may be another's elsewhere."""
    return names.get(number, "nobody") if number else number
