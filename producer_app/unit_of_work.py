"""The unit of work: one database transaction that holds business rows and outbox rows alike."""

from __future__ import annotations

import datetime as dt
import types
from typing import Self

import sqlalchemy as sa

from connectors.outbox import EntityType, TargetSystem
from producer_app.database_errors import database_errors, translated
from producer_app.errors import TransactionError
from producer_app.identifiers import next_entity_id


class UnitOfWork:
    """`with uow:` opens a transaction, `uow.commit()` keeps it, and leaving without commit rolls it back.

    One at a time and of one thread, but as often as wanted. targets are those of changes that name none.
    Inside and at commit every database error becomes an AppError (UnavailableError, StorageError).
    """

    def __init__(self, engine: sa.Engine, targets: tuple[TargetSystem, ...]) -> None:
        self.targets = targets
        self._engine = engine
        self._connection: sa.Connection | None = None

    @property
    def connection(self) -> sa.Connection:
        """The connection of the open transaction."""
        if self._connection is None:
            raise TransactionError("the unit of work is not open: use `with uow:`")
        return self._connection

    def new_entity_id(self, entity_type: EntityType) -> str:
        """Give out an id of this year, for good; before the transaction, so that no call holds two connections."""
        if self._connection is not None:
            raise TransactionError("ids are given out before the transaction begins")
        with database_errors():
            return next_entity_id(self._engine, entity_type, dt.datetime.now(tz=dt.UTC).date())

    def __enter__(self) -> Self:
        if self._connection is not None:
            raise TransactionError("the unit of work is open already")
        with database_errors():
            connection = self._engine.connect()
            connection.begin()
        self._connection = connection
        return self

    def commit(self) -> None:
        """Make everything since `with` permanent, or raise and keep none of it."""
        with database_errors():
            self.connection.commit()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        connection, self._connection = self.connection, None
        with database_errors():
            # Closing rolls back what was not committed.
            connection.close()
        if isinstance(error, sa.exc.SQLAlchemyError):
            raise translated(error) from None
