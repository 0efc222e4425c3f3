"""The application's tables as the migrations make them, on PostgreSQL and MariaDB."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import connectors.migrations
import producer_app.migrations
from connectors.outbox import LAST_SYNCED
from producer_app.bootstrap import build
from producer_app.config import AppSettings
from producer_app.services import create_encounter, create_order, create_patient, delete_order, update_patient
from producer_app.tables import metadata
from tests import clinic
from tests.integration.producer_app.conftest import database


@pytest.fixture(params=["postgresql", "mariadb"])
def empty_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Give the URL of a new database without tables."""
    admin = "source_admin_url" if request.param == "postgresql" else "openemr_admin_url"
    with database(request.getfixturevalue(admin)) as url:
        yield url


def tables(url: str) -> set[str]:
    """Return the names of the tables."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    return set(sa.inspect(engine).get_table_names())


def test_the_migrations_make_what_the_metadata_says(empty_url: str) -> None:
    """Statements are built from the metadata, tables from the migrations; a drift shows here."""
    producer_app.migrations.upgrade(empty_url)

    engine = sa.create_engine(empty_url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, metadata)
    ours = [one for one in differences if "alembic_version_app" not in str(one)]
    assert ours == []


def test_they_live_beside_those_of_the_outbox_and_can_be_repeated(empty_url: str) -> None:
    """Each has its own version table, so the order in which they run is no matter."""
    for _ in range(2):
        producer_app.migrations.upgrade(empty_url)
        connectors.migrations.upgrade(empty_url)

    assert tables(empty_url) == {
        "alembic_version_app",
        "alembic_version_outbox",
        "encounter_cache",
        "id_counter",
        "order_cache",
        "patient_cache",
        "sync_outbox",
        "sync_signal",
    }


def test_the_consumer_finds_the_columns_it_marks(empty_url: str) -> None:
    """The contract names table, key and last_synced_at; the application owns them."""
    producer_app.migrations.upgrade(empty_url)

    inspector = sa.inspect(sa.create_engine(empty_url, poolclass=sa.NullPool))
    for clause in LAST_SYNCED.values():
        names = {column["name"] for column in inspector.get_columns(clause.name)}
        assert {column.name for column in clause.columns} <= names


def test_every_service_works_on_either_database(empty_url: str) -> None:
    """A name of four-byte characters at full width, a counted id, a change, a delete."""
    producer_app.migrations.upgrade(empty_url)
    connectors.migrations.upgrade(empty_url)
    application = build(AppSettings.read(app_url=empty_url))
    uow = application.unit_of_work()

    patient_id = create_patient(uow, clinic.patient(patient_id=None, family_name="🙂" * 1_000)).entity_id
    update_patient(uow, patient_id, clinic.patient(patient_id=patient_id, birth_date="1900-01-01"))
    encounter_id = create_encounter(uow, clinic.encounter(patient_id, started_at="1969-07-20T20:17:40Z")).entity_id
    order_id = create_order(uow, clinic.order(patient_id, encounter_id=encounter_id)).entity_id
    delete_order(uow, order_id)

    with application.engine.connect() as connection:
        operations = list(connection.execute(sa.text("SELECT operation FROM sync_outbox ORDER BY seq")).scalars())
        started_at = connection.execute(sa.text("SELECT started_at FROM encounter_cache")).scalar_one()
    application.close()
    assert operations == ["create", "update", "create", "create", "delete"]
    assert started_at.isoformat().removesuffix("+00:00") == "1969-07-20T20:17:40"


def test_ids_that_differ_in_case_are_different(empty_url: str) -> None:
    """As they are to Kafka; MariaDB's usual collation would make them one patient."""
    producer_app.migrations.upgrade(empty_url)
    connectors.migrations.upgrade(empty_url)
    application = build(AppSettings.read(app_url=empty_url))

    create_patient(application.unit_of_work(), clinic.patient(patient_id="P-x"))
    create_patient(application.unit_of_work(), clinic.patient(patient_id="p-X"))

    application.close()
