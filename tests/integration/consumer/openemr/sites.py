"""An OpenEMR site as the writer and as a clerk see it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import itertools
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pytest
import sqlalchemy as sa

from connectors.events import EntityKey, Event
from connectors.outbox import EntityType, Operation, TargetSystem
from consumer.apply import apply_events
from consumer.openemr import account, ledger_schema, session
from consumer.openemr.installation import install
from consumer.openemr.packet import Packet
from consumer.openemr.site import SiteChoices
from consumer.openemr.target import OpenEmrTarget
from consumer.openemr.verification import Verification, verify
from consumer.outcome import Applied, Failed, Outcome
from tests import clinic
from tests.scratch import connected

Fields = Mapping[str, Any]

ZONE: Final = "America/New_York"
TABLES: Final = {
    "patient": "patient_data",
    "encounter": "form_encounter",
    "order": "procedure_order",
    "medication": "prescriptions",
}

REFUSING: Final = (
    "CREATE TABLE refused_id (id VARCHAR(100) PRIMARY KEY)",
    """CREATE TRIGGER refusing BEFORE INSERT ON patient_data FOR EACH ROW
    IF EXISTS (SELECT 1 FROM refused_id r WHERE r.id = NEW.pubpid) THEN SET NEW.lname = NULL; END IF""",
)
"""Prepares a site whose database refuses the patients named in refused_id, after all our checks have passed them."""

_seq = itertools.count(1)


at = dt.datetime.fromisoformat
"""Local time of the site, as its datetime columns hold it."""


def key_of(fields: Fields) -> EntityKey:
    """Give the key that a payload's own id makes."""
    entity_type = next(
        one for one in (EntityType.ORDER, EntityType.ENCOUNTER, EntityType.PATIENT) if _id(one) in fields
    )
    return EntityKey(entity_type, fields[_id(entity_type)])


def _id(entity_type: EntityType) -> str:
    return f"{entity_type}_id"


def medication(patient_id: str, **changes: Any) -> dict[str, Any]:
    """Give the fields of a medication order of a patient."""
    fields = {name: value for name, value in clinic.order(patient_id).items() if name != "code"}
    return {**fields, "kind": "medication", "drug": "aspirin 100 mg", **changes}


def event(operation: str, fields: Fields, *, target: str = "openemr") -> Event:
    """Give an event that is newer than all before it."""
    return Event(
        outbox_id=uuid.uuid4(),
        key=key_of(fields),
        operation=Operation(operation),
        target_system=TargetSystem(target),
        seq=next(_seq),
        payload_version=1,
        created_at=dt.datetime.now(dt.UTC),
        payload=json.dumps(fields, ensure_ascii=False).encode(),
    )


@dataclasses.dataclass(frozen=True)
class Site:
    """One OpenEMR database with its ledger, a writer with the writer's account, and a clerk with all rights."""

    version: str
    database: str
    ledger: str
    writer_url: str
    clerk: sa.Connection
    target: OpenEmrTarget

    @property
    def old(self) -> bool:
        """Tell 7.0.3 and older from 7.0.4 and newer."""
        return tuple(int(part) for part in self.version.split("-")[0].split(".")) < (7, 0, 4)

    def apply(self, *events: Event) -> Sequence[Outcome]:
        """Apply events in one call, and give the outcomes in their order."""
        settlements = apply_events(self.target, events, (), clock=lambda: dt.datetime.now(dt.UTC))
        outcomes = {id(one.event): one.outcome for one in settlements}
        return [outcomes[id(one)] for one in events]

    def put(self, *several: Fields, operation: str = "create", target: str = "openemr") -> None:
        """Apply payloads that must succeed without a remark."""
        assert self.apply(*(event(operation, fields, target=target) for fields in several)) == [Applied()] * len(
            several
        )

    def delete(self, fields: Fields) -> Outcome:
        """Apply a delete."""
        return self.apply(event("delete", fields))[0]

    def refusal(self, fields: Fields, *, operation: str = "create", target: str = "openemr") -> tuple[str, str]:
        """Apply a payload that must fail, and give class and message."""
        outcome = self.apply(event(operation, fields, target=target))[0]
        assert isinstance(outcome, Failed), outcome
        return outcome.error_class.value, outcome.message

    def mapped(self, fields: Fields) -> Mapping[str, Any]:
        """Give the ledger's row of an entity."""
        key = key_of(fields)
        return self.row(
            f"SELECT * FROM {self.ledger}.entity_map WHERE entity_type = %s AND entity_id = %s",
            key.entity_type.value,
            key.entity_id,
        )

    def of(self, fields: Fields) -> Mapping[str, Any]:
        """Give OpenEMR's row of an entity, found by the uuid in the ledger."""
        known = self.mapped(fields)
        return self.row(f"SELECT * FROM {TABLES[known['kind']]} WHERE uuid = %s", known["uuid"])

    def rows(self, sql: str, *values: Any) -> list[Mapping[str, Any]]:
        """Give rows as the clerk sees them."""
        return [dict(row._mapping) for row in self.clerk.exec_driver_sql(sql, values or None)]

    def row(self, sql: str, *values: Any) -> Mapping[str, Any]:
        """Give the only row."""
        rows = self.rows(sql, *values)
        assert len(rows) == 1, f"{len(rows)} rows: {sql} {values}"
        return rows[0]

    def value(self, sql: str, *values: Any) -> Any:
        """Give the only value."""
        return next(iter(self.row(sql, *values).values()))

    def change(self, sql: str, *values: Any) -> int:
        """Change rows as a clerk does, and give how many."""
        return self.clerk.exec_driver_sql(sql, values or None).rowcount

    def verified(self, *entity_ids: str, entity_types: Sequence[EntityType] = tuple(EntityType)) -> Verification:
        """Ask what OpenEMR shows of these, or of all, with the writer's account."""
        engine = sa.create_engine(self.writer_url, poolclass=sa.NullPool)
        return verify(engine, ledger_schema=self.ledger, entity_ids=entity_ids or None, entity_types=entity_types)

    @contextlib.contextmanager
    def reopened(self) -> Iterator[Site]:
        """Give the same site to a writer that has just started."""
        target = open_target(self.writer_url, self.ledger)
        try:
            yield dataclasses.replace(self, target=target)
        finally:
            target.close()

    @contextlib.contextmanager
    def statements(self) -> Iterator[list[str]]:
        """Record what the writer sends for the time of a block."""
        sent: list[str] = []

        def record(_c: Any, _cursor: Any, statement: str, _p: Any, _context: Any, _many: bool) -> None:
            sent.append(" ".join(statement.split()))

        def keep(packet: Packet, statement: str) -> None:
            # A packet is a list of statements, and the driver runs it past SQLAlchemy.
            sent.append(" ".join(statement.split()))
            add(packet, statement)

        def read(packet: Packet, statements: Sequence[str]) -> Sequence[Sequence[tuple[Any, ...]]]:
            sent.extend(" ".join(one.split()) for one in statements)
            return select(packet, statements)

        def ask(packet: Packet, statement: str) -> Sequence[tuple[Any, ...]]:
            sent.append(" ".join(statement.split()))
            return commit(packet, statement)

        add, select, commit, engine = Packet.add, Packet.select, Packet.commit, self.target._engine
        sa.event.listen(engine, "before_cursor_execute", record)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Packet, "add", keep)
                patch.setattr(Packet, "select", read)
                patch.setattr(Packet, "commit", ask)
                yield sent
        finally:
            sa.event.remove(engine, "before_cursor_execute", record)


def open_target(
    url: str, ledger: str, *, username: str = "emrsync", group_id: str = "rules", **chosen: Any
) -> OpenEmrTarget:
    """Start a writer; its connections are given back when it does not start."""
    engine = session.create_engine(url)
    try:
        return OpenEmrTarget(engine, ledger_schema=ledger, group_id=group_id, choices=SiteChoices(username, **chosen))
    except BaseException:
        engine.dispose()
        raise


def _remove(admin_url: str, schemas: list[str], user: str) -> None:
    """Drop what a site was made of, on a new connection: a test may have restarted the server under the old one."""
    with connected(admin_url) as admin:
        for schema in schemas:
            admin.exec_driver_sql(f"DROP DATABASE IF EXISTS {schema}")
        admin.exec_driver_sql(f"DROP USER IF EXISTS {user}")


@contextlib.contextmanager
def installed_site(admin_url: str, version: str, *prepared: str, charset: str = "utf8mb4") -> Iterator[Site]:
    """Install a site, let the administrator run statements on it, and start a writer with the writer's account."""
    name = uuid.uuid4().hex[:16]
    database, ledger, user, password = f"test_{name}", f"test_ledger_{name}", f"w_{name}", uuid.uuid4().hex
    with connected(admin_url) as admin, contextlib.ExitStack() as held:
        admin.execution_options(isolation_level="AUTOCOMMIT")
        held.callback(_remove, admin_url, [database, ledger], user)
        admin.exec_driver_sql(f"CREATE DATABASE {database} CHARACTER SET {charset} COLLATE {charset}_general_ci")
        install(admin_url, version=version, database=database, time_zone=ZONE)
        ledger_schema.upgrade(admin_url, schema=ledger)
        admin.exec_driver_sql(f"USE {database}")
        for statement in prepared:
            admin.exec_driver_sql(statement)
        account.apply(admin_url, user=user, password=password, database=database, ledger_schema=ledger)
        url = sa.make_url(admin_url).set(username=user, password=password, database=database)
        writer_url = url.render_as_string(hide_password=False)
        target = open_target(writer_url, ledger)
        held.callback(target.close)
        yield Site(version, database, ledger, writer_url, admin, target)
