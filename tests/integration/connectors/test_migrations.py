"""The outbox's migrations: a new table and a completed classic one are the same, and no row is lost."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from connectors.migrations import MigrationError, upgrade
from connectors.outbox import metadata

FIRST, SECOND, THIRD = (uuid.UUID(f"0190a5b0-0000-7000-8000-00000000000{number}") for number in (1, 2, 3))

# As teams have it today: other widths, their own check without 'processing', instants without zone, JSON.
CLASSIC = {
    "postgresql": """
        CREATE TABLE sync_outbox (
            outbox_id varchar(36) PRIMARY KEY, entity_type varchar(50) NOT NULL, entity_id text NOT NULL,
            operation varchar(10) NOT NULL, target_system text NOT NULL, payload json NOT NULL,
            status varchar(20) DEFAULT 'pending' CHECK (status IN ('pending', 'done', 'failed')),
            retry_count integer DEFAULT 0, error_message text,
            created_at timestamp DEFAULT now(), processed_at timestamp)""",
    "mysql": """
        CREATE TABLE sync_outbox (
            outbox_id varchar(36) PRIMARY KEY, entity_type enum('patient', 'encounter', 'order') NOT NULL,
            entity_id varchar(80) NOT NULL, operation varchar(10) NOT NULL, target_system varchar(20) NOT NULL,
            payload json NOT NULL, status varchar(20) DEFAULT 'pending', retry_count integer DEFAULT 0,
            error_message text,
            created_at timestamp DEFAULT current_timestamp ON UPDATE current_timestamp, processed_at timestamp NULL,
            CONSTRAINT their_own CHECK (status IN ('pending', 'done', 'failed'))
        ) DEFAULT CHARACTER SET latin1""",
}
EVENT = """
    INSERT INTO sync_outbox (entity_type, entity_id, operation, target_system, payload)
    VALUES ('patient', 'P-1', 'create', 'openemr', '{}')"""
CLASSIC_ROWS = f"""
    INSERT INTO sync_outbox (outbox_id, entity_type, entity_id, operation, target_system, payload, status, created_at)
    VALUES
    ('{SECOND}', 'patient', 'P-2', 'create', 'openemr', '{{"family_name": "B"}}', 'done', '2025-02-02 10:00:00'),
    ('{FIRST}', 'patient', 'P-1', 'create', 'openemr', '{{"family_name": "A"}}', 'pending', '2025-01-01 10:00:00'),
    ('{THIRD}', 'order', 'O-1', 'delete', 'fhir', '{{}}', NULL, '2025-03-03 10:00:00')"""


def test_a_new_and_a_completed_classic_table_have_the_same_schema(source_url: str) -> None:
    """Types, nullability, defaults, checks, keys and indexes."""
    upgrade(source_url)
    new = described(source_url)
    execute(source_url, "DROP TABLE sync_outbox", "DROP TABLE alembic_version_outbox")
    execute(source_url, CLASSIC[sa.make_url(source_url).get_backend_name()])

    upgrade(source_url)

    assert described(source_url) == new


def test_the_migrated_table_is_the_declared_one(source_url: str) -> None:
    """SQLAlchemy's table and the DDL are written apart, and must not drift apart."""
    upgrade(source_url)
    migrated = described(source_url)
    execute(source_url, "DROP TABLE sync_outbox")
    metadata.create_all(engine(source_url))

    declared = described(source_url)

    if sa.make_url(source_url).get_backend_name() == "mysql":
        # SQLAlchemy writes AUTO_INCREMENT for primary keys only.
        declared["columns"]["seq"]["extra"] = "auto_increment"
    assert declared == migrated


def test_rows_of_a_classic_table_are_kept_and_numbered_by_age(source_url: str) -> None:
    """What the application wrote is what the pipeline reads."""
    execute(source_url, CLASSIC[sa.make_url(source_url).get_backend_name()], CLASSIC_ROWS)

    upgrade(source_url)

    rows = fetch(
        source_url,
        "SELECT outbox_id, seq, entity_id, status, retry_count, payload_version, outcome, created_at FROM sync_outbox"
        " ORDER BY seq",
    )
    assert [(uuid.UUID(str(row[0])), *row[1:7]) for row in rows] == [
        (FIRST, 1, "P-1", "pending", 0, 1, None),
        (SECOND, 2, "P-2", "done", 0, 1, None),
        (THIRD, 3, "O-1", "pending", 0, 1, None),
    ]
    assert [row[7].strftime("%Y-%m-%d %H:%M") for row in rows] == [
        "2025-01-01 10:00",
        "2025-02-02 10:00",
        "2025-03-03 10:00",
    ]


def test_a_table_of_the_first_version_gets_the_cause_and_the_table_of_signals(source_url: str) -> None:
    """What a running pipeline has is kept, and its rows have no cause."""
    upgrade(source_url)
    new = described(source_url)
    execute(source_url, "ALTER TABLE sync_outbox DROP COLUMN cause")
    if "postgresql" in source_url:
        execute(source_url, "ALTER PUBLICATION emrsync SET TABLE sync_outbox")
    execute(source_url, "DROP TABLE sync_signal", "UPDATE alembic_version_outbox SET version_num = 'outbox_0001'")
    execute(source_url, EVENT)

    upgrade(source_url)

    assert described(source_url) == new
    assert [(None,)] == [tuple(row) for row in fetch(source_url, "SELECT cause FROM sync_outbox")]
    assert [] == fetch(source_url, "SELECT id, type, data FROM sync_signal")


def test_a_column_named_cause_that_is_no_text_is_left_alone(source_url: str) -> None:
    """It is the application's own."""
    execute(source_url, CLASSIC[sa.make_url(source_url).get_backend_name()])
    execute(source_url, "ALTER TABLE sync_outbox ADD COLUMN cause INTEGER")

    with pytest.raises(MigrationError, match="a column cause that is no text"):
        upgrade(source_url)


def test_running_again_changes_nothing_and_says_nothing(source_url: str) -> None:
    """Every start of a stack runs the migrations."""
    said: list[str] = []
    upgrade(source_url, report=said.append)
    first = described(source_url)
    assert said
    said.clear()

    upgrade(source_url, report=said.append)

    assert described(source_url) == first
    assert said == []


def test_a_row_of_plain_sql_gets_all_the_rest_by_default(source_url: str) -> None:
    """Any program may write events, knowing no more than the contract."""
    upgrade(source_url)

    execute(source_url, EVENT)

    row = fetch(source_url, "SELECT seq, payload_version, status, retry_count, outbox_id FROM sync_outbox")[0]
    assert tuple(row[:4]) == (1, 1, "pending", 0)
    assert uuid.UUID(str(row[4]))
    now = "clock_timestamp()" if "postgresql" in source_url else "UTC_TIMESTAMP(6)"
    age = fetch(source_url, f"SELECT {now} - created_at, {now} >= created_at FROM sync_outbox")[0]
    assert age[1]


@pytest.mark.parametrize(
    "values",
    [
        "'PATIENT', 'P-1', 'create', 'openemr', '{}'",
        "'patient', 'P-1', 'upsert', 'openemr', '{}'",
        "'patient', 'P-1', 'create', 'hl7', '{}'",
        "'patient', 'P-1', 'create', 'openemr', 'no json'",
    ],
    ids=["entity type", "operation", "target", "payload"],
)
def test_the_database_refuses_what_is_no_event(source_url: str, values: str) -> None:
    """Whoever writes by plain SQL learns of a mistake at once."""
    upgrade(source_url)

    with pytest.raises(sa.exc.DBAPIError):
        execute(
            source_url,
            f"INSERT INTO sync_outbox (entity_type, entity_id, operation, target_system, payload) VALUES ({values})",
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "UPDATE sync_outbox SET operation = 'Upsert' WHERE entity_id = 'P-1'",
            "1 rows .* operation other than",
        ),
        ("UPDATE sync_outbox SET target_system = 'OPENEMR'", "3 rows of sync_outbox have a target_system other than"),
        ("ALTER TABLE sync_outbox DROP COLUMN created_at", "without the columns created_at"),
    ],
    ids=["unknown operation", "other case", "column absent"],
)
def test_a_classic_table_that_contradicts_the_contract_is_left_alone(
    source_url: str, change: str, message: str
) -> None:
    """The error says what to change, and how many rows it is about, and shows none."""
    execute(source_url, CLASSIC[sa.make_url(source_url).get_backend_name()], CLASSIC_ROWS, change)
    before = described(source_url)

    with pytest.raises(MigrationError, match=message) as raised:
        upgrade(source_url)

    assert "Upsert" not in str(raised.value)
    assert described(source_url) == before


def test_text_that_is_too_long_is_refused_and_not_cut(postgresql_url: str) -> None:
    """An id that is cut is another entity's."""
    execute(postgresql_url, CLASSIC["postgresql"], CLASSIC_ROWS)
    execute(postgresql_url, "UPDATE sync_outbox SET entity_id = repeat('Q', 101) WHERE entity_id = 'P-1'")

    with pytest.raises(MigrationError, match=r"entity_id cannot be converted.*does not fit") as raised:
        upgrade(postgresql_url)

    assert "QQQ" not in str(raised.value)
    assert fetch(postgresql_url, "SELECT max(length(entity_id)) FROM sync_outbox")[0][0] == 101


def test_the_publication_lets_inserts_of_outbox_and_signals_out_and_nothing_else(postgresql_url: str) -> None:
    """One that somebody made for more is corrected."""
    execute(postgresql_url, "CREATE TABLE other (id int primary key)", "CREATE PUBLICATION emrsync FOR TABLE other")

    upgrade(postgresql_url)

    flags = fetch(
        postgresql_url, "SELECT pubinsert, pubupdate, pubdelete, pubtruncate, puballtables FROM pg_publication"
    )
    tables = fetch(postgresql_url, "SELECT pubname, tablename FROM pg_publication_tables ORDER BY 2")
    assert [tuple(row) for row in flags] == [(True, False, False, False, False)]
    assert [tuple(row) for row in tables] == [("emrsync", "sync_outbox"), ("emrsync", "sync_signal")]


def engine(url: str) -> sa.Engine:
    """Connect as the administrator."""
    return sa.create_engine(url, poolclass=sa.NullPool)


def execute(url: str, *statements: str) -> None:
    """Run statements in one transaction."""
    with engine(url).begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def fetch(url: str, query: str) -> list[Any]:
    """Return the rows of a query."""
    with engine(url).connect() as connection:
        return list(connection.exec_driver_sql(query))


def described(url: str) -> dict[str, Any]:
    """Describe sync_outbox by the database's own catalogue; the order of columns does not matter."""
    inspect = _described_by_postgresql if sa.make_url(url).get_backend_name() == "postgresql" else _described_by_mysql
    return inspect(url)


def _described_by_postgresql(url: str) -> dict[str, Any]:
    columns = fetch(
        url,
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,"
        " pg_get_expr(d.adbin, d.adrelid) FROM pg_attribute a"
        " LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
        " WHERE a.attrelid = 'sync_outbox'::regclass AND a.attnum > 0 AND NOT a.attisdropped",
    )
    constraints = fetch(
        url,
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'sync_outbox'::regclass",
    )
    indexes = fetch(url, "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'sync_outbox'")
    return {
        "columns": {row[0]: tuple(row[1:]) for row in columns},
        "constraints": {row[0]: row[1] for row in constraints},
        "indexes": {row[0]: row[1] for row in indexes},
    }


def _described_by_mysql(url: str) -> dict[str, Any]:
    here = "table_schema = DATABASE() AND table_name = 'sync_outbox'"
    names = ("type", "nullable", "default", "extra", "character set", "collation")
    columns = fetch(
        url,
        "SELECT column_name, column_type, is_nullable, column_default, extra, character_set_name, collation_name"
        f" FROM information_schema.columns WHERE {here}",
    )
    indexes = fetch(
        url,
        "SELECT index_name, seq_in_index, column_name, non_unique FROM information_schema.statistics"
        f" WHERE {here} ORDER BY index_name, seq_in_index",
    )
    table = fetch(url, f"SELECT engine, table_collation FROM information_schema.tables WHERE {here}")
    checks = sa.inspect(engine(url)).get_check_constraints("sync_outbox")
    return {
        "columns": {row[0]: dict(zip(names, row[1:], strict=True)) for row in columns},
        "indexes": [tuple(row) for row in indexes],
        "checks": {check["name"]: check["sqltext"] for check in checks},
        "table": tuple(table[0]),
    }
