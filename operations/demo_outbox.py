"""What the demo reads: how rows stand in the outbox, how long they took, and how many OpenEMR shows."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Final

import sqlalchemy as sa

from connectors.outbox import EntityType, Status, sync_outbox
from consumer.openemr.visibility import VisibleCount, count_visible
from operations.config import OperationsSettings
from operations.engines import reading_engine, source

KINDS: Final = ("patient", "encounter", "order", "medication")
"""What OpenEMR keeps apart: a medication order is a prescription there."""

_ROW = sync_outbox.c

# The demo's own stack has PostgreSQL as its source.
_BY_KIND: Final = """
    SELECT CASE WHEN payload ->> 'kind' = 'medication' THEN 'medication' ELSE entity_type END AS kind,
      status, error_class, count(*) AS rows, min(error_message) AS example
    FROM sync_outbox GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
_TIMES: Final = """
    SELECT extract(epoch FROM processed_at - created_at)::float8 AS took_s,
      extract(epoch FROM created_at)::float8 AS created_s, extract(epoch FROM processed_at)::float8 AS processed_s
    FROM sync_outbox WHERE seq > :after AND seq <= :until AND status = 'done' AND processed_at IS NOT NULL
"""
_LIVE: Final = """
    SELECT 'patient' AS kind, count(*) FROM patient_cache WHERE deleted_at IS NULL
    UNION ALL SELECT 'encounter', count(*) FROM encounter_cache WHERE deleted_at IS NULL
    UNION ALL SELECT CASE WHEN kind = 'medication' THEN 'medication' ELSE 'order' END, count(*)
    FROM order_cache WHERE deleted_at IS NULL GROUP BY 1
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """Rows of the outbox by entity type and status."""

    rows: Mapping[tuple[EntityType, Status], int]

    def count(self, entity_type: EntityType | None = None, *statuses: Status) -> int:
        """Count rows; no entity type means all of them, and no status too."""
        return sum(
            number
            for (kind, status), number in self.rows.items()
            if entity_type in (None, kind) and (not statuses or status in statuses)
        )

    @property
    def unsettled(self) -> int:
        """Rows of which nobody can say yet what becomes of them."""
        return self.count(None, Status.PENDING, Status.PROCESSING)


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """Rows that failed for one reason, with the message of one of them."""

    error_class: str
    rows: int
    example: str


@dataclasses.dataclass(frozen=True, slots=True)
class KindRows:
    """The outbox rows of one kind."""

    rows: int
    done: int
    failures: tuple[Failure, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Timing:
    """How long settled rows took from created_at, just before the source's commit, to OpenEMR's commit.

    rows_per_s: over the time from the first created_at to the last commit.
    """

    rows: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    seconds: float
    rows_per_s: float


@contextlib.contextmanager
def reading(settings: OperationsSettings) -> Iterator[sa.Connection]:
    """Keep one connection to the source, by the marker account, that sees what others commit."""
    with source(settings).connect() as connection:
        yield connection.execution_options(isolation_level="AUTOCOMMIT")


def standing(connection: sa.Connection) -> Standing:
    """Count the outbox by entity type and status."""
    kinds = _ROW.entity_type, _ROW.status
    found = connection.execute(sa.select(*kinds, sa.func.count()).group_by(*kinds))
    return Standing({(EntityType(entity_type), Status(status)): number for entity_type, status, number in found})


def last_seq(connection: sa.Connection) -> int:
    """Return the highest seq that is committed."""
    return int(connection.scalar(sa.select(sa.func.coalesce(sa.func.max(_ROW.seq), 0))) or 0)


def by_kind(connection: sa.Connection) -> Mapping[str, KindRows]:
    """Count the outbox by what OpenEMR keeps apart."""
    found = connection.execute(sa.text(_BY_KIND)).all()
    counted = {}
    for kind in KINDS:
        of_kind = [row for row in found if row.kind == kind]
        failures = tuple(
            Failure(row.error_class or "unknown", row.rows, row.example or "")
            for row in of_kind
            if row.status == Status.FAILED
        )
        done = sum(row.rows for row in of_kind if row.status == Status.DONE)
        counted[kind] = KindRows(sum(row.rows for row in of_kind), done, failures)
    return counted


def timing(connection: sa.Connection, *, after: int, until: int) -> Timing | None:
    """Measure the settled rows with after < seq <= until; None when there are none."""
    rows = connection.execute(sa.text(_TIMES), {"after": after, "until": until}).all()
    if not rows:
        return None
    took_ms = sorted(1_000 * row.took_s for row in rows)
    seconds = max(row.processed_s for row in rows) - min(row.created_s for row in rows)
    return Timing(
        rows=len(rows),
        p50_ms=_percentile(took_ms, 50),
        p95_ms=_percentile(took_ms, 95),
        p99_ms=_percentile(took_ms, 99),
        max_ms=took_ms[-1],
        seconds=seconds,
        rows_per_s=len(rows) / max(seconds, 0.001),
    )


def live_in_app(app: sa.Engine) -> Mapping[str, int]:
    """Count the application's undeleted entities by kind."""
    with app.connect() as connection:
        found = {row[0]: int(row[1]) for row in connection.execute(sa.text(_LIVE))}
    return {kind: found.get(kind, 0) for kind in KINDS}


def shown_by_openemr(settings: OperationsSettings) -> Mapping[str, VisibleCount]:
    """Count OpenEMR's rows of ours by kind, and which of them its screens and FHIR queries show."""
    with reading_engine(settings.database_url("openemr_url")).connect() as connection:
        return count_visible(connection, ledger_schema=settings.ledger_schema)


def _percentile(ordered: list[float], percent: int) -> float:
    """Give the nearest rank: the smallest value that `percent` per cent of all do not exceed."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
