"""Runs the ledger's migrations on the connection that ledger_schema.upgrade hands over."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
schema = context.config.attributes["ledger_schema"]

context.configure(connection=connection, version_table="ledger_version", version_table_schema=schema)
with context.begin_transaction():
    context.run_migrations()
