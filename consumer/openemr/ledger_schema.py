"""Creates and upgrades the ledger schema beside an OpenEMR database."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

SCHEMA: Final = "emr_sync"

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,47}")


def checked_schema(name: str) -> str:
    """Return a schema name that may stand in SQL as it is; raise ValueError for any other."""
    if not _NAME.fullmatch(name):
        raise ValueError("ledger schema: takes a to z, 0 to 9 and _, begins with a letter, 48 characters at most")
    return name


def upgrade(admin_url: str, *, schema: str = SCHEMA) -> None:
    """Create the schema if it is absent and bring its tables to the newest revision; harmless when repeated.

    admin_url is a SQLAlchemy URL of an account that may create schemas and tables on OpenEMR's server.
    """
    name = checked_schema(schema)
    engine = sa.create_engine(admin_url)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4")
            connection.commit()
            config.attributes.update(connection=connection, ledger_schema=name)
            command.upgrade(config, "head")
            connection.commit()
    finally:
        engine.dispose()
