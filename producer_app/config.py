"""The settings of the clinic application: EMRSYNC_APP_URL and its kin."""

from __future__ import annotations

from typing import Annotated

import pydantic
import sqlalchemy as sa

from connectors.config import Settings
from producer_app.targets import TargetChoice


def _known_url(url: pydantic.SecretStr) -> pydantic.SecretStr:
    """Refuse what is no URL of a usable database; the error never holds the URL, which has a password."""
    try:
        driver = sa.make_url(url.get_secret_value()).drivername
    except sa.exc.ArgumentError:
        raise ValueError("is no SQLAlchemy URL") from None
    if driver not in {"postgresql+psycopg", "mysql+pymysql", "mariadb+pymysql"}:
        raise ValueError("must begin with postgresql+psycopg, mysql+pymysql or mariadb+pymysql")
    return url


class AppSettings(Settings):
    """What the application must know; only app_url has no default."""

    app_url: Annotated[pydantic.SecretStr, pydantic.AfterValidator(_known_url)]
    """SQLAlchemy URL of the application's own account."""

    app_targets: TargetChoice = TargetChoice.OPENEMR
    """Where changes go that name no target themselves."""

    app_pool_size: Annotated[int, pydantic.Field(ge=1, le=200)] = 10
    """Connections to the database, and so changes in progress, at most."""

    app_pool_timeout_seconds: Annotated[float, pydantic.Field(gt=0, le=60)] = 5.0
    """How long a request waits for a free connection before it is refused with 503."""

    app_connect_timeout_seconds: Annotated[int, pydantic.Field(ge=2, le=60)] = 5
    """How long to wait for the database to accept a connection."""

    app_lock_timeout_seconds: Annotated[int, pydantic.Field(ge=1, le=60)] = 5
    """How long a change waits for another change of the same entity."""

    app_import_batch: Annotated[int, pydantic.Field(ge=1, le=1_000)] = 100
    """Entities per transaction of an import."""

    app_host: str = "127.0.0.1"
    """Address the HTTP API listens on."""

    app_port: Annotated[int, pydantic.Field(ge=1, le=65_535)] = 8_000
    """Port the HTTP API listens on."""
