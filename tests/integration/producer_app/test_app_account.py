"""The application works with its own account, which may do nothing else."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

import connectors.accounts
from connectors.accounts import Login, SourceAccounts
from producer_app import services
from producer_app.bootstrap import Application, build
from producer_app.config import AppSettings
from producer_app.synthea import import_folder
from producer_app.tables import metadata
from tests import clinic
from tests.integration.producer_app.conftest import migrate

SAMPLE = Path(__file__).parents[2] / "synthea_sample"


@pytest.fixture(params=["postgresql", "mariadb"])
def as_app(request: pytest.FixtureRequest) -> Iterator[Application]:
    """Give the application wired with the account that provisioning makes."""
    url = request.getfixturevalue("app_url" if request.param == "postgresql" else "mariadb_url")
    if request.param == "mariadb":
        migrate(url)
    mark = uuid.uuid4().hex[:8]
    users = [f"{role}_{mark}" for role in ("app", "cdc", "marker")]
    app, cdc, marker = (Login(user, "Sesame") for user in users)
    accounts = SourceAccounts(app, cdc, marker, app_tables=tuple(metadata.tables))
    admin = sa.create_engine(url, poolclass=sa.NullPool)
    with admin.connect() as connection:
        connectors.accounts.apply(connection, accounts, report=lambda _line: None)
    own = sa.make_url(url).set(username=app.user, password=app.password).render_as_string(hide_password=False)
    application = build(AppSettings.read(app_url=own))
    yield application
    application.close()
    with admin.begin() as connection:
        for user in users:
            if request.param == "postgresql":
                connection.exec_driver_sql(f"DROP OWNED BY {user}")
            connection.exec_driver_sql(f"DROP {'ROLE' if request.param == 'postgresql' else 'USER'} {user}")


def test_every_service_and_an_import_run(as_app: Application) -> None:
    """No privilege is missing."""
    uow = as_app.unit_of_work()
    patient_id = services.create_patient(uow, clinic.patient(patient_id=None)).entity_id
    services.update_patient(uow, patient_id, clinic.patient(patient_id=None))
    services.create_encounter(uow, clinic.encounter(patient_id))
    services.delete_patient(uow, patient_id)

    assert import_folder(uow, SAMPLE).outbox_rows == 12


@pytest.mark.parametrize("statement", ["UPDATE sync_outbox SET status = 'done'", "DELETE FROM sync_outbox"])
def test_it_cannot_change_what_it_recorded(as_app: Application, statement: str) -> None:
    """Marking rows is the consumer's part."""
    with as_app.engine.connect() as connection, pytest.raises(sa.exc.DBAPIError):
        connection.execute(sa.text(statement))
