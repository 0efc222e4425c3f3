"""What OpenEMR's database takes: by hand-written statements alone, and by our apply path, empty and populated."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pymysql
import sqlalchemy as sa

from benchmarks.workload import patient
from connectors.events import EntityKey, Event
from connectors.outbox import EntityType, Operation, TargetSystem
from consumer.apply import apply_events
from consumer.bootstrap import tune_memory
from consumer.openemr import installation, ledger_schema, session
from consumer.openemr.site import SiteChoices
from consumer.openemr.target import OpenEmrTarget
from producer_app.outbox import new_outbox_id
from tests.chain import OPENEMR_VERSION

BATCH: Final = 500
POPULATION_STEP: Final = 100_000


@dataclasses.dataclass(frozen=True, slots=True)
class Scratch:
    """An OpenEMR database with a ledger, for one measurement."""

    admin_url: str
    database: str
    ledger: str

    @property
    def url(self) -> str:
        """The administrator's URL with this database."""
        return sa.make_url(self.admin_url).set(database=self.database).render_as_string(hide_password=False)


@contextlib.contextmanager
def scratch(admin_url: str) -> Iterator[Scratch]:
    """Install an OpenEMR database and a ledger, and drop both at the end."""
    name = uuid.uuid4().hex[:12]
    made = Scratch(admin_url, f"bench_{name}", f"bench_sync_{name}")
    engine = sa.create_engine(admin_url)
    try:
        installation.install(admin_url, version=OPENEMR_VERSION, database=made.database)
        ledger_schema.upgrade(admin_url, schema=made.ledger)
        yield made
    finally:
        with engine.begin() as connection:
            for schema in (made.database, made.ledger):
                connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {schema}")
        engine.dispose()


def raw_limit(place: Scratch, rows: int) -> float:
    """Return rows per second of new patients by hand-written multi-row INSERTs: the same tables, columns and values.

    Four statements and a commit per batch, strings ready beforehand: no pipeline, no checks, no reads.
    """
    url = sa.make_url(place.url)
    batches = [_raw_batch(start) for start in range(1, rows + 1, BATCH)]
    connection = pymysql.connect(
        host=url.host or "127.0.0.1",
        port=url.port or 3306,
        user=url.username or "",
        password=str(url.password or ""),
        database=place.database,
        charset="utf8mb4",
        init_command=f"SET SESSION sql_mode='{session.SQL_MODE}', tx_isolation='READ-COMMITTED'",
    )
    with connection, connection.cursor() as cursor:
        started = time.perf_counter()
        for patients, registry, mapped, applied in batches:
            cursor.executemany(_PATIENT, patients)
            cursor.executemany(_REGISTRY, registry)
            cursor.executemany(_MAP.format(ledger=place.ledger), mapped)
            cursor.executemany(_APPLIED.format(ledger=place.ledger), applied)
            connection.commit()
        return rows / (time.perf_counter() - started)


_COLUMNS: Final = (
    "pid, uuid, pubpid, lname, fname, mname, preferred_name, suffix, title, DOB, sex, street, street_line_2, city, "
    "state, postal_code, county, country_code, phone_home, phone_cell, phone_biz, email, status, language, race, "
    "ethnicity, ss, deceased_date, regdate, date, created_by, updated_by"
)
_PATIENT: Final = f"INSERT INTO patient_data ({_COLUMNS}) VALUES ({', '.join(['%s'] * 32)})"  # noqa: S608 - constants
_REGISTRY: Final = "INSERT INTO uuid_registry (uuid, table_name, table_id, created) VALUES (%s, %s, %s, %s)"
_MAP: Final = (
    "INSERT INTO {ledger}.entity_map (entity_type, entity_id, kind, local_id, row_id, uuid, parent_id, last_seq, "
    "content_hash, deleted_at, created_at, updated_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
)
_APPLIED: Final = (
    "INSERT INTO {ledger}.applied_event (outbox_id, entity_type, entity_id, seq, operation, target_system, outcome, "
    "detail, applied_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
)


def _raw_batch(start: int) -> tuple[Sequence[Any], ...]:
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    patients, registry, mapped, applied = [], [], [], []
    for number in range(start, start + BATCH):
        fields, key = patient(number), uuid.uuid4().bytes
        patients.append((number, key, *_patient_values(fields), now, 2, 2))
        registry.append((key, "patient_data", "id", now))
        entity = ("patient", fields["patient_id"])
        mapped.append((*entity, "patient", number, None, key, None, number, key, None, now, now))
        applied.append((new_outbox_id().bytes, *entity, number, "create", "openemr", "applied", None, now))
    return patients, registry, mapped, applied


def _patient_values(fields: Mapping[str, Any]) -> Sequence[Any]:
    address = fields["address"]
    return (
        *(fields[name] for name in ("patient_id", "family_name", "given_name", "middle_name")),
        None,
        None,
        *(fields[name] for name in ("title", "birth_date", "sex")),
        *(address[name] for name in ("line", "line2", "city", "state", "postal_code", "county", "country")),
        *(fields[name] for name in ("phone_home", "phone_mobile", "phone_work", "email", "marital_status")),
        *(fields[name] for name in ("language", "race", "ethnicity", "national_id")),
        None,
        "2025-01-15 08:30:00",
    )


def apply_rate(place: Scratch, events: int, first_number: int) -> float:
    """Return events per second of new patients through the apply path: decode, check, write, record; no Kafka."""
    target = OpenEmrTarget(
        session.create_engine(place.url),
        ledger_schema=place.ledger,
        group_id="bench",
        choices=SiteChoices("emrsync"),
    )
    batches = [_events(start, first_number) for start in range(0, events, BATCH)]
    tune_memory()
    try:
        started = time.perf_counter()
        for batch in batches:
            apply_events(target, batch, (), clock=_now)
        return events / (time.perf_counter() - started)
    finally:
        target.close()


def _events(start: int, first_number: int) -> Sequence[Event]:
    return [
        Event(
            outbox_id=new_outbox_id(),
            key=EntityKey(EntityType.PATIENT, f"P-2025-{first_number + number:07d}"),
            operation=Operation.CREATE,
            target_system=TargetSystem.OPENEMR,
            seq=first_number + number,
            payload_version=1,
            created_at=_now(),
            payload=json.dumps(patient(first_number + number), ensure_ascii=False).encode(),
        )
        for number in range(start, start + BATCH)
    ]


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def populate(place: Scratch, patients: int) -> None:
    """Put patients and their registry and ledger rows into the database by INSERT … SELECT, far from the pid block."""
    engine = sa.create_engine(place.url)
    with engine.connect() as connection:
        for start in range(1, patients + 1, POPULATION_STEP):
            numbers = f"seq_{start}_to_{min(start + POPULATION_STEP - 1, patients)}"
            for statement in _POPULATE:
                connection.exec_driver_sql(statement.format(numbers=numbers, ledger=place.ledger))
            connection.commit()
        connection.exec_driver_sql("ANALYZE TABLE patient_data, uuid_registry")
    engine.dispose()


_POPULATE: Final = (
    (
        "INSERT INTO patient_data (pid, uuid, pubpid, lname, fname, DOB, sex, street, city, email, date) "
        "SELECT seq, UNHEX(MD5(seq)), CONCAT('X-', seq), CONCAT('Family', seq), 'Given', '1970-01-01', 'Male', "
        "CONCAT(seq, ' Long Meadow Crescent'), 'Springfield', CONCAT(seq, '@clinic.example'), NOW() FROM {numbers}"
    ),
    (
        "INSERT INTO uuid_registry (uuid, table_name, table_id, created) "
        "SELECT UNHEX(MD5(seq)), 'patient_data', 'id', NOW() FROM {numbers}"
    ),
    (
        "INSERT INTO {ledger}.entity_map (entity_type, entity_id, kind, local_id, uuid, last_seq, created_at, "
        "updated_at) SELECT 'patient', CONCAT('X-', seq), 'patient', seq, UNHEX(MD5(seq)), seq, NOW(6), NOW(6) "
        "FROM {numbers}"
    ),
    (
        "INSERT INTO {ledger}.applied_event (outbox_id, entity_type, entity_id, seq, operation, target_system, "
        "outcome, applied_at) SELECT UNHEX(CONCAT('0190', RIGHT(MD5(seq), 28))), 'patient', CONCAT('X-', seq), "
        "seq, 'create', 'openemr', 'applied', NOW(6) FROM {numbers}"
    ),
)
