"""A connection to OpenEMR's database that is lost, with a target that goes on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pytest

from consumer.apply import apply_events
from consumer.openemr.session import SQL_MODE, utc_offset
from consumer.outcome import Applied
from consumer.ports import Settlement, TransientError
from tests import clinic
from tests.integration.consumer.openemr.sites import Site, installed_site
from tests.made_events import event


@pytest.fixture(scope="module")
def site(openemr_admin_url: str) -> Iterator[Site]:
    """Give a site in New York."""
    with installed_site(openemr_admin_url, "8.2.0-dev") as one:
        yield one


def kill(site: Site) -> None:
    """End the writer's connection, as a server's restart does."""
    with site.target._connection.begin():
        number = site.target._connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one()
    site.change(f"KILL {number}")


def test_a_lost_connection_is_transient_and_the_next_transaction_works(site: Site) -> None:
    """The event is applied once, by the second try."""
    created = event(clinic.patient())

    def apply() -> list[Settlement]:
        return list(apply_events(site.target, [created], (), clock=lambda: dt.datetime.now(dt.UTC)))

    kill(site)
    with pytest.raises(TransientError):
        apply()

    assert [Applied()] == [one.outcome for one in apply()]


def test_a_new_connection_has_the_sites_time_zone_and_our_sql_mode(site: Site) -> None:
    """Else OpenEMR's own timestamps would be in the server's zone from then on."""
    kill(site)
    with pytest.raises(TransientError):
        site.put(clinic.patient())
    site.put(clinic.patient())

    with site.target._connection.begin():
        found = site.target._connection.exec_driver_sql("SELECT @@session.time_zone, @@session.sql_mode").one()
    assert (utc_offset(site.target.site.zone, dt.datetime.now(dt.UTC)), set(SQL_MODE.split(","))) == (
        found[0],
        set(found[1].split(",")),
    )


def test_a_connection_lost_at_the_commit_is_transient_and_the_next_transaction_works(site: Site) -> None:
    """SQLAlchemy leaves a transaction whose commit failed on the connection; nobody could begin another one."""

    def lose() -> None:
        with site.target.transaction() as transaction:
            number = site.target._connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one()
            site.change(f"KILL {number}")
            transaction.commit()

    with pytest.raises(TransientError):
        lose()

    site.put(clinic.patient())
