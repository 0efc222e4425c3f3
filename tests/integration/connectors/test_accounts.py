"""The three accounts of the source database: each can do its work, and is refused everything else."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

import producer_app.migrations
from connectors.accounts import AccountsError, Login, SourceAccounts, apply
from connectors.migrations import upgrade
from producer_app.tables import metadata as app_metadata

EVENT = (
    "INSERT INTO sync_outbox (entity_type, entity_id, operation, target_system, payload)"
    " VALUES ('patient', 'P-1', 'create', 'openemr', '{}')"
)
PATIENT = (
    "INSERT INTO patient_cache (patient_id, family_name, given_name, birth_date, state, created_at, updated_at)"
    " VALUES ('P-1', 'Kim', 'Min', '1980-02-29', '{}', '2025-01-01 00:00:00', '2025-01-01 00:00:00')"
)

MARK = (
    "UPDATE sync_outbox SET status = 'done', outcome = 'applied', retry_count = 1, next_attempt_at = NULL,"
    " error_class = NULL, error_message = NULL, processed_at = '2025-01-01 00:00:00' WHERE entity_id = 'P-1'"
)

SIGNAL = "INSERT INTO sync_signal (id, type, data) VALUES ('1', 'log', '{}')"

ALLOWED = {
    "app": [
        PATIENT,
        EVENT,
        "SELECT count(*) FROM sync_outbox",
        "UPDATE patient_cache SET given_name = 'Mina' WHERE patient_id = 'P-1'",
        "DELETE FROM patient_cache WHERE patient_id = 'P-9'",
    ],
    "cdc": ["SELECT * FROM sync_outbox WHERE status <> 'done' ORDER BY seq", "SELECT * FROM sync_signal"],
    "marker": [
        "SELECT * FROM sync_outbox",
        MARK,
        SIGNAL,
        "DELETE FROM sync_signal WHERE id = '1'",
        "UPDATE patient_cache SET last_synced_at = '2025-01-01 00:00:00' WHERE patient_id = 'P-1'",
        "SELECT patient_id, last_synced_at FROM patient_cache",
        "UPDATE order_cache SET last_synced_at = '2025-01-01 00:00:00' WHERE order_id = 'O-1'",
    ],
}
REFUSED = {
    "app": [
        "UPDATE sync_outbox SET status = 'done'",
        "DELETE FROM sync_outbox",
        "DROP TABLE sync_outbox",
        "CREATE TABLE mine (id int)",
        SIGNAL,
    ],
    "cdc": [
        EVENT,
        SIGNAL,
        "UPDATE sync_outbox SET status = 'done'",
        "DELETE FROM sync_outbox",
        "SELECT patient_id FROM patient_cache",
        "CREATE TABLE mine (id int)",
    ],
    "marker": [
        EVENT,
        "UPDATE sync_outbox SET payload = '{}'",
        "UPDATE sync_outbox SET entity_id = 'P-2'",
        "UPDATE sync_outbox SET seq = 7",
        "DELETE FROM sync_outbox",
        "SELECT family_name FROM patient_cache",
        "SELECT * FROM patient_cache",
        "UPDATE patient_cache SET family_name = 'X' WHERE patient_id = 'P-1'",
        "DELETE FROM patient_cache",
        "CREATE TABLE mine (id int)",
    ],
}


@dataclasses.dataclass(frozen=True)
class Site:
    """A source database with its schema, and accounts of its own that exist on it."""

    url: str
    accounts: SourceAccounts
    said: tuple[str, ...]

    def login(self, role: str) -> Login:
        """Return one account's name and password."""
        found: Login = getattr(self.accounts, role)
        return found

    def run(self, role: str, *statements: str) -> None:
        """Run statements as an account, in one transaction."""
        login = self.login(role)
        url = sa.make_url(self.url).set(username=login.user, password=login.password)
        with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)


@pytest.fixture
def site(source_url: str) -> Iterator[Site]:
    """Make schema and accounts, and remove the accounts afterwards."""
    upgrade(source_url)
    producer_app.migrations.upgrade(source_url)
    accounts = some_accounts()
    said: list[str] = []
    with admin(source_url) as connection:
        apply(connection, accounts, report=said.append)
        yield Site(source_url, accounts, tuple(said))
        connection.rollback()
        postgresql = connection.dialect.name == "postgresql"
        for login in (accounts.app, accounts.cdc, accounts.marker):
            if postgresql:
                connection.exec_driver_sql(f"DROP OWNED BY {login.user}")
            connection.exec_driver_sql(f"DROP {'ROLE' if postgresql else 'USER'} {login.user}")
        connection.commit()


@pytest.mark.parametrize("role", sorted(ALLOWED))
def test_an_account_can_do_its_work(site: Site, role: str) -> None:
    """Everything that its part of the pipeline does."""
    for statement in ALLOWED[role]:
        site.run(role, statement)


@pytest.mark.parametrize("role", sorted(REFUSED))
def test_an_account_is_refused_what_it_must_not_do(site: Site, role: str) -> None:
    """A stolen password of one part is no key to the others."""
    site.run("app", PATIENT, EVENT)

    for statement in REFUSED[role]:
        with pytest.raises(
            (sa.exc.ProgrammingError, sa.exc.OperationalError), match=r"permission denied|must be owner|denied"
        ):
            site.run(role, statement)


def test_only_the_cdc_account_may_replicate(site: Site) -> None:
    """The right to stream is the right to read every change of its publication."""
    with admin(site.url) as connection:
        if connection.dialect.name == "postgresql":
            query = "SELECT rolreplication, rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = %s"
            found = {role: tuple(connection.exec_driver_sql(query, (site.login(role).user,)).one()) for role in ALLOWED}
            assert found == {"app": (False, False), "cdc": (True, False), "marker": (False, False)}
        else:
            query = "SELECT privilege_type FROM information_schema.user_privileges WHERE grantee = %s"
            rights = {
                role: {row[0] for row in connection.exec_driver_sql(query, (f"'{site.login(role).user}'@'%'",))}
                for role in ALLOWED
            }
            assert rights["app"] == rights["marker"] == {"USAGE"}
            assert len(rights["cdc"]) == 3
            assert {"RELOAD", "REPLICATION SLAVE"} < rights["cdc"]


def test_applying_again_changes_the_password_only(site: Site) -> None:
    """Rotation is: set another password, provision, restart the part."""
    new = dataclasses.replace(site.accounts, marker=Login(site.accounts.marker.user, "another'%:one"))
    with admin(site.url) as connection:
        apply(connection, new, report=lambda _line: None)

    with pytest.raises(sa.exc.OperationalError):
        site.run("marker", "SELECT 1")
    dataclasses.replace(site, accounts=new).run("marker", *ALLOWED["marker"])


def test_no_password_is_told(site: Site) -> None:
    """Neither in what is reported nor in a value's own text."""
    shown = " ".join([*site.said, repr(site.accounts)])

    assert [role for role in ALLOWED if site.login(role).password in shown] == []
    assert site.accounts.cdc.user in shown


def test_two_parts_with_one_account_are_refused(source_url: str) -> None:
    """Their rights would add up."""
    accounts = some_accounts()
    with admin(source_url) as connection, pytest.raises(AccountsError, match="must be three accounts"):
        apply(connection, dataclasses.replace(accounts, marker=accounts.app), report=lambda _line: None)


def test_the_administrators_own_account_is_not_taken(source_url: str) -> None:
    """Its password would be changed under its owner."""
    own = sa.make_url(source_url).username or ""
    accounts = dataclasses.replace(some_accounts(), app=Login(own, "x"))
    with admin(source_url) as connection, pytest.raises(AccountsError, match="administrator's own"):
        apply(connection, accounts, report=lambda _line: None)


def test_a_refusal_names_the_reason_without_password(site: Site) -> None:
    """An administrator without enough rights learns what is missing."""
    accounts = some_accounts()
    login = site.login("app")
    url = sa.make_url(site.url).set(username=login.user, password=login.password)
    limited = sa.create_engine(url, poolclass=sa.NullPool)
    with limited.connect() as connection, pytest.raises(AccountsError, match="refuses to set the source") as raised:
        apply(connection, accounts, report=lambda _line: None)

    assert accounts.app.password not in str(raised.value)
    assert "SCRAM" not in str(raised.value)


def admin(url: str) -> sa.Connection:
    """Connect as the administrator."""
    return sa.create_engine(url, poolclass=sa.NullPool).connect()


def some_accounts() -> SourceAccounts:
    """Name three accounts that nobody else has, with passwords that need quoting."""
    mark = uuid.uuid4().hex[:8]
    app, cdc, marker = (Login(f"t_{mark}_{role}", f"it's %s :x {mark} {role}") for role in ("app", "cdc", "marker"))
    return SourceAccounts(app=app, cdc=cdc, marker=marker, app_tables=tuple(app_metadata.tables))
