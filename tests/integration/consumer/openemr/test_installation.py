"""An installed database is what the facts say, and no other database is touched."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import consumer.openemr.installation
from consumer.openemr.installation import (
    IncompleteDatabaseError,
    InstallationError,
    OtherVersionError,
    UnknownVersionError,
    install,
    versions,
)
from tests.scratch import connected, scratch_database

FACTS = Path(consumer.openemr.installation.__file__).parent / "facts"

COLUMNS = """
    SELECT table_name, column_name, column_type, is_nullable, column_default, extra
    FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY table_name, ordinal_position
"""
KEYS = """
    SELECT table_name, index_name, non_unique, column_name, sub_part
    FROM information_schema.statistics WHERE table_schema = DATABASE() ORDER BY table_name, index_name, seq_in_index
"""
ENGINES = "SELECT table_name, engine, table_collation FROM information_schema.tables WHERE table_schema = DATABASE()"

ZERO_PADDING = r"\0"

Facts = dict[tuple[str, str], object]


@dataclasses.dataclass(frozen=True)
class InstalledRows:
    """What differs between versions."""

    version_row: tuple[object, ...]
    decline: str
    priorities: str


@pytest.fixture
def database(openemr_admin_url: str) -> Iterator[str]:
    """Give a database name of this test's own."""
    with scratch_database(openemr_admin_url) as name:
        yield name


def default_shown(kind: str, default: str | None) -> object:
    """Give a default without its wording: servers quote, pad and round them."""
    if default is None or default == "NULL":
        return None
    text = default.strip("'").replace(ZERO_PADDING, "").replace("\0", "")
    if re.match(r"\w*int|float|double|decimal", kind):
        return Decimal(text).normalize()
    return text.removesuffix("()").upper() if "timestamp" in text.lower() else text


def stated(version: str) -> Facts:
    """Give the facts of a file, read without the product's code."""
    facts: Facts = {}
    schema: dict[str, Any] = json.loads((FACTS / f"{version}.json").read_text(encoding="utf-8"))
    for name, table in schema["tables"].items():
        facts[name, "table"] = (table["engine"], "utf8mb4_general_ci")
        for place, column in enumerate(table["columns"]):
            extra = {"auto_increment"} if column["auto_increment"] else set()
            extra |= {f"on update {column['on_update'].lower()}"} if column["on_update"] else set()
            default = default_shown(column["type"], column["default"])
            facts[name, column["name"]] = (place, column["type"], column["nullable"], default, extra)
        keys = {key: (True, parts) for key, parts in table["unique"].items()}
        keys |= {key: (False, parts) for key, parts in table["indexes"].items()}
        keys |= {"PRIMARY": (True, table["primary_key"])} if table["primary_key"] else {}
        facts |= {(name, f"key {key}"): fact for key, fact in keys.items()}
    return facts


def found(connection: sa.Connection) -> Facts:
    """Give the same facts as the server sees them."""
    facts: Facts = {}
    places: dict[str, int] = {}
    for name, engine, collation in connection.exec_driver_sql(ENGINES):
        facts[name, "table"] = (engine, collation)
    for name, column, kind, nullable, default, extra in connection.exec_driver_sql(COLUMNS):
        places[name] = places.get(name, -1) + 1
        extras = {word.strip() for word in extra.replace("()", "").split(",")} - {""}
        facts[name, column] = (places[name], kind, nullable == "YES", default_shown(kind, default), extras)
    parts: dict[tuple[str, str], tuple[bool, list[str]]] = {}
    for name, key, non_unique, column, length in connection.exec_driver_sql(KEYS):
        of_key = parts.setdefault((name, f"key {key}"), (not non_unique, []))
        of_key[1].append(f"{column}({length})" if length else column)
    return facts | parts


def options_stated(version: str) -> list[tuple[object, ...]]:
    """Give all list options of a version, read without the product's code."""
    seeds = json.loads((FACTS / "seed_rows.json").read_text(encoding="utf-8"))
    of_version = seeds["versions"][version]
    lists = {
        name: [option for option, _ in seeds["list_sets"][key]] for name, key in of_version["list_options"].items()
    }
    lists |= {name: seeds["id_sets"][key] for name, key in of_version["list_option_ids"].items()}
    lists["race"] = of_version["race"]["main_option_ids"]
    return sorted((name, option) for name, options in lists.items() for option in options)


@pytest.mark.parametrize("version", versions())
def test_the_server_sees_every_fact_of_the_version(openemr_admin_url: str, database: str, version: str) -> None:
    """Every column, default, key and engine, and no table more."""
    install(openemr_admin_url, version=version, database=database)

    with connected(openemr_admin_url, database) as connection:
        have = found(connection)
    want = stated(version)
    assert {fact: (want.get(fact), have.get(fact)) for fact in want | have if want.get(fact) != have.get(fact)} == {}


NEW = InstalledRows((8, 2, 0, 0, "-dev", 541, 13), "decline_to_specify", "high normal routine urgent asap stat")
OLD = InstalledRows((7, 0, 3, 3, "", 506, 12), "declne_to_specfy", "high normal")


@pytest.mark.parametrize(("version", "expected"), [("7.0.3", OLD), ("8.2.0-dev", NEW)])
def test_the_rows_are_those_of_the_file_and_of_the_installer(
    openemr_admin_url: str, database: str, version: str, expected: InstalledRows
) -> None:
    """What a writer finds when it reads the site."""
    install(openemr_admin_url, version=version, database=database, time_zone="America/New_York")

    with connected(openemr_admin_url, database) as connection:

        def rows(query: str) -> list[tuple[object, ...]]:
            return [tuple(row) for row in connection.exec_driver_sql(query)]

        assert rows("SELECT * FROM version") == [expected.version_row]
        assert rows("SELECT id FROM sequences") == [(1,)]
        assert rows("SELECT id, name FROM facility") == [(3, "Your Clinic Name Here")]
        assert rows("SELECT id, username, authorized, active, npi FROM users ORDER BY id") == [
            (1, "admin", 1, 1, None),
            (2, "emrsync", 0, 1, None),
            (3, "clinician", 1, 1, "1234567893"),
        ]
        assert rows("SELECT name, user FROM `groups` ORDER BY id") == [
            ("Default", "admin"),
            ("Default", "emrsync"),
            ("Default", "clinician"),
        ]
        assert rows("SELECT gl_name, gl_value FROM globals ORDER BY gl_name") == [
            ("allow_pat_delete", "0"),
            ("full_new_patient_form", "1"),
            ("gbl_time_zone", "America/New_York"),
        ]
        assert rows("SELECT pc_catid FROM openemr_postcalendar_categories WHERE pc_cattype = 0 AND pc_catid < 11") == [
            (1,),
            (5,),
            (9,),
            (10,),
        ]
        assert ("newpatient", 1) in rows("SELECT directory, state FROM registry")
        assert ("UUID_Service", 1, 240) in rows("SELECT name, active, execute_interval FROM background_services")
        option_ids = "SELECT option_id FROM list_options WHERE list_id = '{}' ORDER BY seq"
        assert rows(option_ids.format("ord_priority")) == [(priority,) for priority in expected.priorities.split()]
        assert (expected.decline,) in rows(option_ids.format("race"))
        assert ("white",) in rows(option_ids.format("race"))
        assert ("hisp_or_latin", "Hispanic or Latino") in rows(
            "SELECT option_id, title FROM list_options WHERE list_id = 'ethnicity'"
        )
        assert rows("SELECT option_id, title FROM list_options WHERE list_id = 'country'") == [("USA", "USA")]
        lists = "SELECT list_id, option_id FROM list_options"
        assert sorted(rows(lists)) == options_stated(version)


def test_a_second_installation_changes_nothing(openemr_admin_url: str, database: str) -> None:
    """The site's work, and its time zone, stay."""
    install(openemr_admin_url, version="7.0.3", database=database, time_zone="America/New_York")
    with connected(openemr_admin_url, database) as connection:
        connection.exec_driver_sql("UPDATE sequences SET id = 4711")
        connection.commit()

    install(openemr_admin_url, version="7.0.3", database=database, time_zone="Europe/Berlin")

    with connected(openemr_admin_url, database) as connection:
        assert connection.exec_driver_sql("SELECT id FROM sequences").scalars().all() == [4711]
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM users").scalar() == 3
        zones = connection.exec_driver_sql("SELECT gl_value FROM globals WHERE gl_name = 'gbl_time_zone'").scalars()
        assert zones.all() == ["America/New_York"]


def test_an_installation_that_was_cut_off_is_finished(openemr_admin_url: str, database: str) -> None:
    """Tables are there, but not all, and no row: as after a kill between two CREATE TABLEs."""
    install(openemr_admin_url, version="8.2.0-dev", database=database)
    with connected(openemr_admin_url, database) as connection:
        tables = connection.exec_driver_sql(f"SELECT table_name FROM ({ENGINES}) AS t").scalars().all()
        for table in tables:
            connection.exec_driver_sql(f"TRUNCATE `{table}`")
        connection.exec_driver_sql("DROP TABLE users, version")

    install(openemr_admin_url, version="8.2.0-dev", database=database)

    with connected(openemr_admin_url, database) as connection:
        assert found(connection) == stated("8.2.0-dev")
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM version").scalar() == 1
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM users").scalar() == 3


@pytest.mark.parametrize(("first", "second"), [("7.0.3", "8.2.0-dev"), ("7.0.2", "7.0.3")])
def test_a_database_of_another_version_is_refused(
    openemr_admin_url: str, database: str, first: str, second: str
) -> None:
    """7.0.2 and 7.0.3 have the same tables and differ by the version row only."""
    install(openemr_admin_url, version=first, database=database)

    with pytest.raises(OtherVersionError, match=re.escape(f"holds OpenEMR {first}")):
        install(openemr_admin_url, version=second, database=database)

    with connected(openemr_admin_url, database) as connection:
        assert found(connection) == stated(first)


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("CREATE TABLE invoices (id INT PRIMARY KEY)", id="a table of something else"),
        pytest.param("CREATE TABLE patient_data (pid BIGINT PRIMARY KEY)", id="other columns"),
    ],
)
def test_a_database_with_foreign_tables_is_refused(openemr_admin_url: str, database: str, statement: str) -> None:
    """No table is added to it."""
    with connected(openemr_admin_url) as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {database}")
        connection.exec_driver_sql(f"USE {database}")
        connection.exec_driver_sql(statement)

    with pytest.raises(OtherVersionError, match=r"invoices|patient_data"):
        install(openemr_admin_url, version="7.0.3", database=database)

    with connected(openemr_admin_url, database) as connection:
        assert len(connection.exec_driver_sql(ENGINES).all()) == 1


def test_a_database_loaded_without_an_installer_is_refused(openemr_admin_url: str, database: str) -> None:
    """Its version row is all zeroes: what it holds is not known."""
    install(openemr_admin_url, version="7.0.3", database=database)
    with connected(openemr_admin_url, database) as connection:
        connection.exec_driver_sql("UPDATE version SET v_major = 0, v_patch = 0, v_realpatch = 0, v_database = 0")
        connection.commit()

    with pytest.raises(OtherVersionError, match=r"holds OpenEMR 0\.0\.0\.0"):
        install(openemr_admin_url, version="7.0.3", database=database)


def test_an_installed_database_that_lost_a_table_is_refused(openemr_admin_url: str, database: str) -> None:
    """Making the table anew would hide that its rows are lost."""
    install(openemr_admin_url, version="7.0.3", database=database)
    with connected(openemr_admin_url, database) as connection:
        connection.exec_driver_sql("DROP TABLE prescriptions")

    with pytest.raises(IncompleteDatabaseError, match="lacks prescriptions"):
        install(openemr_admin_url, version="7.0.3", database=database)


def test_installers_of_one_database_wait_for_each_other(openemr_admin_url: str, database: str) -> None:
    """Three at once: one installs, two find it complete."""
    errors: list[InstallationError | sa.exc.SQLAlchemyError] = []

    def run() -> None:
        try:
            install(openemr_admin_url, version="7.0.3", database=database)
        except (InstallationError, sa.exc.SQLAlchemyError) as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    with connected(openemr_admin_url, database) as connection:
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM version").scalar() == 1
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM sequences").scalar() == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"version": "9.9.9"}, UnknownVersionError, "9.9.9 is unknown"),
        ({"version": "7.0.3", "time_zone": "Mars/Olympus"}, InstallationError, "time zone"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_made(
    openemr_admin_url: str, database: str, arguments: dict[str, str], error: type[InstallationError], message: str
) -> None:
    """No empty database stays behind."""
    with pytest.raises(error, match=message):
        install(openemr_admin_url, database=database, **arguments)

    with connected(openemr_admin_url) as connection:
        assert connection.exec_driver_sql("SHOW DATABASES LIKE %s", (database,)).all() == []


def test_another_driver_is_refused() -> None:
    """The message names the scheme, not the password."""
    with pytest.raises(InstallationError, match=r"mysql\+pymysql://, not postgresql\+psycopg://$"):
        install("postgresql+psycopg://root:secret@localhost/x", version="7.0.3")
