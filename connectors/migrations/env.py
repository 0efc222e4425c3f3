"""How Alembic runs the migrations of the outbox: on the connection that upgrade() made."""

from __future__ import annotations

from alembic import context

VERSION_TABLE = "alembic_version_outbox"


def run() -> None:
    """Run what is outstanding, each revision in a transaction where the database has transactional DDL."""
    context.configure(
        connection=context.config.attributes["connection"],
        version_table=VERSION_TABLE,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


# Alembic loads this file under that name; importing it as a module does nothing.
if __name__ == "env_py":
    run()
