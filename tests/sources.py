"""Source databases that tests have to themselves, with the marker's account."""

from __future__ import annotations

import contextlib
import datetime as dt
import uuid
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

import connectors.migrations
import producer_app.migrations
from connectors import accounts
from connectors.accounts import Login, SourceAccounts
from connectors.events import Event


def outbox_columns(one: Event) -> dict[str, Any]:
    """Give the columns that the application writes."""
    return {
        "outbox_id": one.outbox_id,
        "entity_type": one.key.entity_type.value,
        "entity_id": one.key.entity_id,
        "operation": one.operation.value,
        "target_system": one.target_system.value,
        "payload": one.payload.decode(),
        "created_at": one.created_at,
    }


def utc(value: Any) -> Any:
    """Give an instant in UTC, whether the database knows zones or not; anything else as it is."""
    if not isinstance(value, dt.datetime):
        return value
    return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


@contextlib.contextmanager
def source(admin_url: str, *, business_tables: bool = True) -> Iterator[tuple[str, str]]:
    """Give the administrator's and the marker's URL of a new source database."""
    name = uuid.uuid4().hex[:12]
    url = sa.make_url(admin_url)
    postgresql = url.get_backend_name() == "postgresql"
    own = url.set(database=f"test_{name}").render_as_string(hide_password=False)
    server = sa.create_engine(
        url if postgresql else url.set(database=None), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    app, cdc, marker = (Login(f"{role}_{name}", uuid.uuid4().hex) for role in ("app", "cdc", "marker"))
    with server.connect() as admin, contextlib.ExitStack() as held:
        for login in (app, cdc, marker):
            held.callback(admin.exec_driver_sql, f"DROP {'ROLE' if postgresql else 'USER'} IF EXISTS {login.user}")
        held.callback(admin.exec_driver_sql, f"DROP DATABASE test_{name}" + (" WITH (FORCE)" if postgresql else ""))
        admin.exec_driver_sql(f"CREATE DATABASE test_{name}")
        connectors.migrations.upgrade(own)
        if business_tables:
            producer_app.migrations.upgrade(own)
        engine = sa.create_engine(own, poolclass=sa.NullPool)
        with engine.connect() as connection:
            accounts.apply(connection, SourceAccounts(app, cdc, marker), report=lambda _line: None)
        marker_url = sa.make_url(own).set(username=marker.user, password=marker.password)
        yield own, marker_url.render_as_string(hide_password=False)
