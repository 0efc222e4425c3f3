"""What points the other commands at a home, and the worker's configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy

from stack.accounts import Accounts
from stack.connect import worker
from stack.environment import variables
from stack.layout import Layout
from stack.ports import DEFAULT_PORTS
from stack.service import Site
from stack.state import State

WORKER_KEYS = {
    "config.providers": "env,file",
    "config.providers.env.param.allowlist.pattern": "EMRSYNC_.*",
    "connector.client.config.override.policy": "All",
    "listeners": "http://127.0.0.1:18083",
    "offset.flush.interval.ms": "5000",
    "plugin.discovery": "service_load",
    "plugin.path": "/cache/one,/cache/two",
    "scheduled.rebalance.max.delay.ms": "0",
}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Give a site with default ports, and each password named after its account."""
    accounts = (
        "source_admin",
        "openemr_admin",
        "emrsync_app",
        "emrsync_cdc",
        "emrsync_marker",
        "emrsync_writer",
    )
    return Site(
        layout=Layout(tmp_path),
        state=State("id", "cluster", (), 1, DEFAULT_PORTS, {account: f"of-{account}" for account in accounts}),
        accounts=Accounts(None, None, None),
        services=tmp_path,
        kafka_jars=Path("/cache/kafka"),
        plugin_folders=(Path("/cache/one"), Path("/cache/two")),
    )


def test_every_url_names_its_own_account_and_password(site: Site) -> None:
    """An application that could act as administrator would pass tests it should fail."""
    urls = {name: value for name, value in variables(site).items() if name.endswith("_URL") and "CONNECT" not in name}
    parts = {name: sqlalchemy.make_url(url) for name, url in urls.items()}

    assert {
        name: (url.drivername, url.username, url.password, url.port, url.database) for name, url in parts.items()
    } == {
        "EMRSYNC_SOURCE_ADMIN_URL": ("postgresql+psycopg", "emrsync_admin", "of-source_admin", 15432, "clinic"),
        "EMRSYNC_OPENEMR_ADMIN_URL": ("mysql+pymysql", "emrsync_admin", "of-openemr_admin", 13306, "openemr"),
        "EMRSYNC_APP_URL": ("postgresql+psycopg", "emrsync_app", "of-emrsync_app", 15432, "clinic"),
        "EMRSYNC_SOURCE_URL": ("postgresql+psycopg", "emrsync_marker", "of-emrsync_marker", 15432, "clinic"),
        "EMRSYNC_OPENEMR_URL": ("mysql+pymysql", "emrsync_writer", "of-emrsync_writer", 13306, "openemr"),
    }


def test_what_a_connector_may_read_is_complete_and_public_by_name(site: Site) -> None:
    """The names are the contract's; the worker's allow-list lets nothing else through."""
    assert worker.connector_variables(site) == {
        "EMRSYNC_CDC_USER": "emrsync_cdc",
        "EMRSYNC_CDC_PASSWORD": "of-emrsync_cdc",
        "EMRSYNC_CDC_HOST": "127.0.0.1",
        "EMRSYNC_CDC_PORT": "15432",
        "EMRSYNC_CDC_DATABASE": "clinic",
        "EMRSYNC_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:19092",
    }


def test_the_workers_properties_are_the_contracts_and_hold_no_secret(site: Site) -> None:
    """The password reaches the worker as a variable, never as a file that others may copy."""
    worker.service(site, 1).prepare()
    text = (site.services / "connect-1" / "worker.properties").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    properties = dict(line.split("=", 1) for line in lines)

    assert {key: properties[key] for key in WORKER_KEYS} == WORKER_KEYS
    assert "of-emrsync_cdc" not in text
    assert "@" not in "".join(lines)
