"""Provisioning empty servers, provisioning them again, and asking where things are."""

from __future__ import annotations

import dataclasses
import json
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping

import pytest
import sqlalchemy as sa
from confluent_kafka.admin import AdminClient

from connectors.connect_client import ConnectClient
from connectors.topics import topics
from consumer.openemr.installation import DEFAULT_VERSION
from operations import cli
from operations.config import OperationsSettings
from operations.errors import ProvisionError
from operations.provision import Choices, provision

Run = Callable[..., tuple[int, str]]

SENTINEL = "Zyxwv-Family-Name"


@dataclasses.dataclass(frozen=True)
class Place:
    """Databases, accounts, topics and a connector of its own, by the variables that name them."""

    name: str
    variables: Mapping[str, str]
    said: tuple[str, ...] = ()

    @property
    def settings(self) -> OperationsSettings:
        """Return the settings that the variables give."""
        return OperationsSettings.of(self.variables)

    def source(self, *statements: str) -> None:
        """Run statements in the source database, as the administrator."""
        with _engine(self.variables["EMRSYNC_SOURCE_ADMIN_URL"]).begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)


@pytest.fixture(scope="module")
def place(chain: Mapping[str, str]) -> Iterator[Place]:
    """Provision empty servers, and remove everything afterwards."""
    name = f"t{uuid.uuid4().hex[:10]}"
    variables = _variables(chain, name)
    with _engine(chain["EMRSYNC_SOURCE_ADMIN_URL"], autocommit=True).connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    one = Place(name, variables)
    said: list[str] = []
    try:
        provision(one.settings, Choices(openemr_version=DEFAULT_VERSION), report=said.append)
        yield dataclasses.replace(one, said=tuple(said))
    finally:
        _remove(chain, name)


@pytest.fixture
def run(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a function that runs a command with the place's variables, and returns exit code and standard output."""

    def command(*arguments: str, **changed: str) -> tuple[int, str]:
        for name, value in {**place.variables, **changed, "COLUMNS": "200"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["emrsync", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), capsys.readouterr().out

    return command


def test_provisioning_again_finds_everything_ready(place: Place) -> None:
    """Nothing is created, changed or restarted twice."""
    said: list[str] = []

    provision(place.settings, Choices(openemr_version=DEFAULT_VERSION), report=said.append)

    assert [line for line in place.said if "created" in line] != []
    assert [line for line in said if "created" in line or "added" in line or "corrected" in line] == []
    assert said[-1] == "connector: ready"


def test_no_secret_is_told(place: Place) -> None:
    """What is reported ends in logs."""
    passwords = {
        sa.make_url(url).password for name, url in place.variables.items() if name.endswith("_URL") and "@" in url
    }

    assert [password for password in passwords if password and password in " ".join(place.said)] == []


def test_topics_that_differ_are_told_and_left_alone(place: Place) -> None:
    """More partitions would send an entity's events to another one, and fewer cannot be had."""
    said: list[str] = []
    settings = OperationsSettings.of({**place.variables, "EMRSYNC_KAFKA_PARTITIONS": "3"})

    provision(settings, Choices(), report=said.append)

    assert [line for line in said if f"{place.name}.patient: partitions is 6, not 3" in line] != []


def test_an_empty_openemr_database_is_not_filled_unasked(place: Place) -> None:
    """The error says what there is to choose."""
    url = sa.make_url(place.variables["EMRSYNC_OPENEMR_URL"]).set(database=f"{place.name}_none")
    variables = {**place.variables, "EMRSYNC_OPENEMR_URL": url.render_as_string(hide_password=False)}

    with pytest.raises(ProvisionError, match="--openemr-version"):
        provision(OperationsSettings.of(variables), Choices(), report=lambda _line: None)


def test_status_is_fine_and_counts_what_is_there(place: Place, run: Run) -> None:
    """Every stage answers with the parts' own accounts."""
    code, shown = run("status", "--json")

    answer = json.loads(shown)
    assert (code, answer["findings"]) == (0, [])
    assert answer["slot"]["active"]
    assert answer["connector"]["running"]
    assert {one["topic"] for one in answer["lag"]} == {
        f"{place.name}.{one}" for one in ("patient", "encounter", "order")
    }


def test_an_event_is_followed_and_its_payload_is_never_shown(place: Place, run: Run) -> None:
    """No consumer runs here, so it stays pending; then it is marked as failed."""
    place.source(
        "INSERT INTO sync_outbox (entity_type, entity_id, operation, target_system, payload)"
        f" VALUES ('patient', 'P-77', 'create', 'openemr', '{{\"family_name\": \"{SENTINEL}\"}}')"
    )

    code, shown = run("where", "P-77")
    assert code == 0
    assert "in the outbox, not yet applied: create of patient" in " ".join(shown.split())
    assert SENTINEL not in shown

    place.source(
        "UPDATE sync_outbox SET status = 'failed', outcome = 'failed', error_class = 'too_long',"
        " error_message = 'family_name: is too long', retry_count = 1"
    )
    code, shown = run("where", "P-77", "--type", "patient", "--json")
    answer = json.loads(shown)
    assert code == 0
    assert "too_long: family_name: is too long" in answer["now"][0]
    assert answer["now"][1] == "not in OpenEMR"
    assert SENTINEL not in shown
    code, shown = run("status")
    assert code == 1
    assert "1 rows have failed" in shown
    place.source("DELETE FROM sync_outbox")


def test_an_unknown_id_ends_with_code_1(run: Run) -> None:
    """A script can ask whether a record is known."""
    code, shown = run("where", "P-none")

    assert code == 1
    assert "P-none is not known" in shown


@pytest.mark.parametrize(
    ("variable", "address", "said"),
    [
        ("EMRSYNC_OPENEMR_URL", "mysql+pymysql://w:x@127.0.0.1:9/openemr", "OpenEMR's database could not be asked"),
        ("EMRSYNC_SOURCE_URL", "postgresql+psycopg://m:x@127.0.0.1:9/clinic", "the source database could not be asked"),
    ],
)
def test_where_works_with_one_database_down_and_says_which(run: Run, variable: str, address: str, said: str) -> None:
    """Exit code 1, as the answer is not whole."""
    code, shown = run("where", "P-77", **{variable: address})

    assert code == 1
    assert said in " ".join(shown.split())


def _variables(chain: Mapping[str, str], name: str) -> dict[str, str]:
    def at(variable: str, user: str | None = None) -> str:
        url = sa.make_url(chain[variable]).set(database=name)
        url = url if user is None else url.set(username=f"{name}_{user}", password=f"secret-of-{name}-{user}")
        return url.render_as_string(hide_password=False)

    return {
        **{variable: value for variable, value in chain.items() if variable.startswith(("EMRSYNC_CDC", "EMRSYNC_K"))},
        "EMRSYNC_CONNECT_URL": chain["EMRSYNC_CONNECT_URL"],
        "EMRSYNC_SOURCE_ADMIN_URL": at("EMRSYNC_SOURCE_ADMIN_URL"),
        "EMRSYNC_OPENEMR_ADMIN_URL": chain["EMRSYNC_OPENEMR_ADMIN_URL"],
        "EMRSYNC_APP_URL": at("EMRSYNC_SOURCE_ADMIN_URL", "app"),
        "EMRSYNC_SOURCE_URL": at("EMRSYNC_SOURCE_ADMIN_URL", "marker"),
        "EMRSYNC_OPENEMR_URL": at("EMRSYNC_OPENEMR_ADMIN_URL", "writer"),
        "EMRSYNC_LEDGER_SCHEMA": f"{name}_ledger",
        "EMRSYNC_CDC_DATABASE": name,
        "EMRSYNC_CDC_SLOT": name,
        "EMRSYNC_TOPIC_PREFIX": name,
        "EMRSYNC_CONNECTOR_NAME": name,
    }


def _engine(url: str, *, autocommit: bool = False) -> sa.Engine:
    options = {"isolation_level": "AUTOCOMMIT"} if autocommit else {}
    return sa.create_engine(url, poolclass=sa.NullPool, **options)


def _remove(chain: Mapping[str, str], name: str) -> None:
    with ConnectClient(chain["EMRSYNC_CONNECT_URL"]) as client:
        if name in client.names():
            client.stop(name)
            client.delete(name)
    admin = AdminClient({"bootstrap.servers": chain["EMRSYNC_KAFKA_BOOTSTRAP_SERVERS"]})
    present = admin.list_topics(timeout=10).topics
    doomed = [topic.name for topic in topics(prefix=name) if topic.name in present]
    for answer in admin.delete_topics(doomed).values() if doomed else ():
        answer.result(timeout=20)
    slot = (
        "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = %s AND active",
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
    )
    with _engine(chain["EMRSYNC_SOURCE_ADMIN_URL"], autocommit=True).connect() as connection:
        for statement in slot:
            connection.exec_driver_sql(statement, (name,))
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        for role in ("app", "marker"):
            connection.exec_driver_sql(f"DROP ROLE IF EXISTS {name}_{role}")
    with _engine(chain["EMRSYNC_OPENEMR_ADMIN_URL"]).connect() as connection:
        for database in (name, f"{name}_ledger"):
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {database}")
        connection.exec_driver_sql(f"DROP USER IF EXISTS {name}_writer")
