"""Whether OpenEMR shows each live row that the ledger maps once, in every place, and no deleted one."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import sqlalchemy as sa

from connectors.outbox import EntityType
from consumer.openemr.behaviour import BEHAVIOURS, UNKNOWN, Behaviour
from consumer.openemr.ledger_schema import SCHEMA, checked_schema
from consumer.openemr.surfaces import SURFACES, Surface

CHUNK: Final = 500
"""Entities per question; MariaDB turns a list of 1,000 values into a subquery and reads the table instead."""

FINDINGS_MAX: Final = 1_000
"""Findings that are kept; all are counted."""

_TABLES: Final = {
    "patient": ("patient_data", "pid"),
    "encounter": ("form_encounter", "encounter"),
    "order": ("procedure_order", "procedure_order_id"),
    "medication": ("prescriptions", "id"),
}
_MAPPED: Final = """
    SELECT entity_type, entity_id, kind, uuid, local_id, deleted_at FROM {ledger}.entity_map
    WHERE entity_type = %s AND entity_id > %s ORDER BY entity_id LIMIT %s
"""
_NAMED: Final = """
    SELECT entity_type, entity_id, kind, uuid, local_id, deleted_at FROM {ledger}.entity_map
    WHERE entity_type IN %s AND entity_id IN %s ORDER BY entity_type, entity_id
"""
_TWICE: Final = "SELECT encounter FROM form_encounter GROUP BY encounter HAVING COUNT(*) > 1"

Row: TypeAlias = Sequence[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Shown:
    """One place: live rows that are due there and those of them shown once; absent says why it is not there at all."""

    surface: str
    kind: str
    due: int
    shown: int
    absent: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One entity that OpenEMR does not show as it should."""

    entity_type: str
    entity_id: str
    surface: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Verification:
    """What was found; unknown: ids asked for that the ledger does not map to a row."""

    version: str
    live: int
    deleted: int
    surfaces: tuple[Shown, ...]
    findings: tuple[Finding, ...]
    findings_count: int
    unknown: tuple[str, ...]

    @property
    def fine(self) -> bool:
        """Whether everything is shown as it should be."""
        return not self.findings_count and not self.unknown


class _Tally:
    def __init__(self, has: frozenset[Behaviour]) -> None:
        self._has = has
        self.live = self.deleted = self.findings_count = 0
        self.due: collections.Counter[str] = collections.Counter()
        self.shown: collections.Counter[str] = collections.Counter()
        self.findings: list[Finding] = []

    def find(self, row: Row, surface: str, reason: str) -> None:
        self.findings_count += 1
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(row[0], row[1], surface, reason))

    def ask(self, connection: sa.Connection, rows: Sequence[Row], twice: frozenset[int]) -> None:
        """Check the map's rows of one chunk, in one snapshot."""
        for kind, (table, id_column) in _TABLES.items():
            of_kind = {bytes(row[3]): row for row in rows if row[2] == kind and row[3] is not None}
            if not of_kind:
                continue
            sql = f"SELECT uuid, {id_column} FROM {table} WHERE uuid IN %s"  # noqa: S608 - names are ours
            there = {bytes(uuid): int(number) for uuid, number in connection.exec_driver_sql(sql, (tuple(of_kind),))}
            live = {}
            for uuid, row in of_kind.items():
                alive = row[5] is None
                self.live, self.deleted = self.live + alive, self.deleted + (not alive)
                if alive and there.get(uuid) != row[4]:
                    self.find(row, table, "its row is gone, or bears another number: merged or deleted in OpenEMR")
                elif alive:
                    live[uuid] = row
                if alive and kind == "encounter" and row[4] in twice:
                    self.find(row, table, "another encounter bears the same number")
            dead = {uuid: row for uuid, row in of_kind.items() if row[5] is not None and uuid in there}
            for surface in SURFACES:
                if surface.kind == kind and (surface.since is None or surface.since in self._has):
                    self._place(connection, surface, live, dead)

    def _place(
        self, connection: sa.Connection, surface: Surface, live: Mapping[bytes, Row], dead: Mapping[bytes, Row]
    ) -> None:
        copies = _copies(connection, surface.shown, (*live, *dead))
        due = live if surface.due is None else _copies(connection, surface.due, tuple(live))
        for uuid in due:
            self.due[surface.name] += 1
            self.shown[surface.name] += copies[uuid] == 1
            if copies[uuid] != 1:
                self.find(live[uuid], surface.name, f"is shown {copies[uuid]} times instead of once")
        if surface.deleted_shown is None:
            for uuid, row in dead.items():
                if copies[uuid]:
                    self.find(row, surface.name, "was deleted and is still shown")


def verify(
    engine: sa.Engine,
    *,
    ledger_schema: str = SCHEMA,
    entity_ids: Sequence[str] | None = None,
    entity_types: Sequence[EntityType] = tuple(EntityType),
) -> Verification:
    """Check every mapped entity, or those of the ids given, chunk by chunk, each in one snapshot of the database.

    engine: of OpenEMR's database, by an account that may read it and the ledger.
    """
    ledger = checked_schema(ledger_schema)
    known: set[str] = set()
    types = tuple(one.value for one in entity_types)
    with engine.connect() as connection:
        with connection.begin():
            version, has = _site(connection)
            twice = frozenset(int(row[0]) for row in connection.exec_driver_sql(_TWICE) if row[0] is not None)
        tally = _Tally(has)
        for rows in _chunks(connection, ledger, types, entity_ids):
            here = [row for row in rows if row[4] is not None]
            known.update(row[1] for row in here if entity_ids is not None)
            tally.ask(connection, here, twice)
    surfaces = tuple(
        Shown(one.name, one.kind, tally.due[one.name], tally.shown[one.name], _absent(one, has, version))
        for one in SURFACES
    )
    unknown = tuple(one for one in entity_ids or () if one not in known)
    findings = tuple(tally.findings)
    return Verification(version, tally.live, tally.deleted, surfaces, findings, tally.findings_count, unknown)


def _chunks(
    connection: sa.Connection, ledger: str, types: tuple[str, ...], entity_ids: Sequence[str] | None
) -> Iterator[Sequence[Row]]:
    if entity_ids is not None:
        for start in range(0, len(entity_ids), CHUNK):
            with connection.begin():
                named = (types, tuple(entity_ids[start : start + CHUNK]))
                yield connection.exec_driver_sql(_NAMED.format(ledger=ledger), named).all()
        return
    for entity_type in types:
        after = ""
        while True:
            with connection.begin():
                rows = connection.exec_driver_sql(_MAPPED.format(ledger=ledger), (entity_type, after, CHUNK)).all()
                if not rows:
                    break
                yield rows
            after = rows[-1][1]


def _copies(connection: sa.Connection, sql: str, uuids: Sequence[bytes]) -> collections.Counter[bytes]:
    if not uuids:
        return collections.Counter()
    return collections.Counter(bytes(row[0]) for row in connection.exec_driver_sql(sql, (uuids,)))


def _site(connection: sa.Connection) -> tuple[str, frozenset[Behaviour]]:
    row = connection.exec_driver_sql("SELECT v_major, v_minor, v_patch FROM version LIMIT 1").one_or_none() or UNKNOWN
    version = (int(row[0]), int(row[1]), int(row[2]))
    columns: dict[str, set[str]] = {}
    for table, column in connection.exec_driver_sql(
        "SELECT table_name, column_name FROM information_schema.columns "
        "WHERE table_schema = DATABASE() AND table_name IN %s",
        (tuple({one.table for one in BEHAVIOURS}),),
    ):
        columns.setdefault(str(table), set()).add(str(column))
    text = "of unknown version" if version == UNKNOWN else ".".join(map(str, version))
    return text, frozenset(one for one in BEHAVIOURS if one.shown_by(version, columns))


def _absent(surface: Surface, has: frozenset[Behaviour], version: str) -> str | None:
    if surface.since is None or surface.since in has:
        return None
    since = ".".join(map(str, surface.since.since))
    return f"OpenEMR {version} does not have it ({since} has): {surface.since.meaning}"
