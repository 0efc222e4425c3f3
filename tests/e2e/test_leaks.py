"""A name that is planted in payloads and in records that are none is told by no log, message, metric or header."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import confluent_kafka
import sqlalchemy as sa

from connectors.outbox import EntityType
from connectors.topics import topics
from stack import Stack
from tests import clinic
from tests.chaos.arena import Arena, arena
from tests.chaos.checker import Checker
from tests.e2e.clinic_chain import Chain, Row
from tests.e2e.members import wait_for

MARK: Final = "Quillon-Verrazzano"
Headers: TypeAlias = list[tuple[str, object]]

OWN_HEADERS: Final = "emrsync."
REFUSED_NAME: Final = "refuse-me"

REFUSING: Final = (
    "SET SESSION sql_mode = 'STRICT_TRANS_TABLES,NO_ZERO_DATE'",
    # The database's own message then quotes the name.
    f"""CREATE OR REPLACE TRIGGER leaking BEFORE INSERT ON patient_data FOR EACH ROW
    IF NEW.fname = '{REFUSED_NAME}' THEN SET NEW.DOB = NEW.lname; END IF""",
)


def test_the_planted_name_is_found_nowhere_but_in_payloads(breakable: Stack, tmp_path: Path) -> None:
    """Good, waiting, unreadable, too long, refused by the database with its value quoted, and undecodable ones."""
    logs_before = {path: path.stat().st_size for path in breakable.layout.logs.glob("*.log")}
    with (
        arena(breakable, tmp_path, members=1) as opened,
        contextlib.closing(Checker(opened.variables)) as checker,
        contextlib.closing(Chain(opened.variables)) as chain,
        refusing(opened),
    ):
        plant(chain)
        wait_for(lambda: settled(checker), 60, checker.statuses)
        dead = wait_for_dead_letters(chain)
        # What is said of a lost connection could hold the statement.
        opened.openemr.drop()
        chain.write(Row(EntityType.PATIENT, clinic.patient(family_name=MARK)))
        wait_for(lambda: settled(checker), 60, checker.statuses)

        rows = checker.rows()
        told: dict[str, Any] = {
            "members": opened.members.logs(),
            "metrics": opened.members.metrics(),
            "error_message": [row["error_message"] for row in rows],
            "ledger": details(chain, checker.after),
            "headers": [header for record in records(chain, entity_topics()) for header in record],
            "reasons": [header for record in dead for header in record if header[0].startswith(OWN_HEADERS)],
            **{path.name: grown(path, logs_before.get(path, 0)) for path in breakable.layout.logs.glob("*.log")},
        }

    assert {"invalid_payload", "too_long", "refused"} <= {row["error_class"] for row in rows}
    assert len(dead) >= len(UNDECODABLE)
    assert 'error_class="invalid_payload"' in told["metrics"]
    assert [] == [place for place, text in told.items() if MARK in str(text)]


def plant(chain: Chain) -> None:
    """Write the name wherever a payload or a record can hold it."""
    known = clinic.patient(family_name=MARK)
    chain.write(
        Row(EntityType.PATIENT, known),
        Row(EntityType.PATIENT, clinic.patient(sex=MARK)),
        Row(EntityType.PATIENT, clinic.patient(birth_date=MARK)),
        Row(EntityType.PATIENT, clinic.patient(given_name=MARK * 50)),
        Row(EntityType.PATIENT, clinic.patient(address={"line": [MARK]})),
        Row(EntityType.PATIENT, clinic.patient(**{MARK: MARK, "email": {MARK: MARK}})),
        Row(EntityType.PATIENT, clinic.patient(given_name=REFUSED_NAME, family_name=MARK)),
        Row(EntityType.ENCOUNTER, clinic.encounter(known["patient_id"], reason=MARK)),
        Row(EntityType.ENCOUNTER, clinic.encounter(f"P-{uuid.uuid4().hex}", reason=MARK)),
        Row(EntityType.ENCOUNTER, clinic.encounter(known["patient_id"], ended_at=MARK)),
        Row(EntityType.ORDER, clinic.order(known["patient_id"], kind=MARK)),
        Row(EntityType.ORDER, clinic.order(known["patient_id"], instructions=MARK, status=MARK)),
        Row(EntityType.ORDER, clinic.order(known["patient_id"], code={"system": MARK, "code": MARK, "display": MARK})),
    )
    for value, headers in UNDECODABLE:
        chain.produce("emrsync.patient", "P-undecodable", value, headers)


UNDECODABLE: Final[Sequence[tuple[bytes | None, list[tuple[str, str | bytes | None]]]]] = (
    (MARK.encode(), []),
    (json.dumps({"family_name": MARK}).encode(), [("id", MARK)]),
    (json.dumps({"family_name": MARK}).encode(), [("id", str(uuid.uuid4())), ("entity_type", MARK)]),
    (MARK.encode() + b"\xff", [("id", b"\xff"), (MARK, MARK)]),
    (None, [("id", MARK)]),
)


@contextlib.contextmanager
def refusing(opened: Arena) -> Iterator[None]:
    """Let OpenEMR's database refuse some patients for the time of a block."""
    with opened.clerk.connect() as connection:
        for statement in REFUSING:
            connection.exec_driver_sql(statement)
    try:
        yield
    finally:
        with opened.clerk.connect() as connection:
            connection.exec_driver_sql("DROP TRIGGER IF EXISTS leaking")


def settled(checker: Checker) -> bool:
    """Tell whether all has come to its end, but for the one whose parent never comes."""
    statuses: Mapping[str, int] = checker.statuses()
    return not any(status.startswith("pending") for status in statuses)


def details(chain: Chain, after: int) -> list[Any]:
    """Give what the ledger says besides payloads."""
    with chain.openemr.connect() as connection:
        sql = "SELECT detail FROM emr_sync.applied_event WHERE seq > %s AND detail IS NOT NULL"
        return [row[0] for row in connection.exec_driver_sql(sql, (after,))]


def entity_topics() -> list[str]:
    """Give the topics that the connector writes."""
    return [topic.name for topic in topics() if topic.name.removeprefix("emrsync.") in set(EntityType)]


def wait_for_dead_letters(chain: Chain) -> list[Headers]:
    """Give the headers of the records that were parked, as soon as all of ours are among them."""

    def ours() -> list[Headers]:
        return records(chain, ["emrsync.dead-letter"])

    wait_for(lambda: len(ours()) >= len(UNDECODABLE), 30, ours, interval_s=0.5)
    return ours()


def records(chain: Chain, names: Sequence[str]) -> list[Headers]:
    """Read the headers of all records of topics, but for those of the records that this test made up."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": chain.variables["EMRSYNC_KAFKA_BOOTSTRAP_SERVERS"],
            "group.id": f"look-{uuid.uuid4()}",
            "enable.auto.commit": False,
        }
    )
    try:
        known = consumer.list_topics(timeout=10).topics
        parts = [confluent_kafka.TopicPartition(name, number, 0) for name in names for number in known[name].partitions]
        left = sum(end - low for low, end in (consumer.get_watermark_offsets(part, timeout=10) for part in parts))
        consumer.assign(parts)
        found: list[Headers] = []
        while left > 0:
            for message in consumer.consume(min(left, 10_000), 1.0):
                left -= 1
                if message.topic() not in entity_topics() or message.key() != b"P-undecodable":
                    found.append(list(_pairs(message)))
        return found
    finally:
        consumer.close()


def _pairs(message: confluent_kafka.Message) -> Iterator[tuple[str, object]]:
    headers: Any = message.headers() or ()
    yield from headers


def grown(path: Path, size_before: int) -> str:
    """Read what a log has gained since then."""
    with path.open("rb") as file:
        file.seek(size_before)
        return file.read().decode("utf-8", errors="replace")


def test_the_search_itself_finds_what_is_there(breakable: Stack, tmp_path: Path) -> None:
    """Or the test above would prove nothing."""
    engine = sa.create_engine(breakable.env()["EMRSYNC_SOURCE_ADMIN_URL"])
    path = breakable.layout.log_of("postgresql")
    before = path.stat().st_size
    # An administrator's own mistake: PostgreSQL writes the statement into its log.
    with contextlib.suppress(sa.exc.ProgrammingError), engine.connect() as connection:
        connection.exec_driver_sql(f'SELECT no_such_column AS "{MARK}"')
    engine.dispose()

    wait_for(lambda: MARK in grown(path, before), 10, lambda: grown(path, before))
