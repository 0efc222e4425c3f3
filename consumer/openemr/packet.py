"""Keeps back statements that give no result, and sends them in one packet when a result is needed or at the commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pymysql
import sqlalchemy as sa

PACKET_CHARACTERS_MAX: Final = 4_194_304
"""Sent at the latest when so much is kept back: a quarter of the least max_allowed_packet in use, in bytes of UTF-8."""

_OPTION: Final = "emrsync_packet"


class PacketConnection(pymysql.connections.Connection):
    """A connection to the server that can be told that a packet has committed already."""

    is_committed = False

    def commit(self) -> None:
        """Commit, unless a packet has just done so: that would be one more round trip on the event's way."""
        if not self.is_committed:
            super().commit()


class Packet:
    """The statements kept back on one connection; they run in the order in which they were added.

    Each round trip to the server costs as much as the statement of a small batch itself, and six of the seven
    statements of one new patient give no result. An error comes out of whatever sends the packet, with the statement
    that met it.
    """

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._statements: list[str] = []
        self._characters = 0
        self._transaction: sa.RootTransaction | None = None
        connection.execution_options(**{_OPTION: self})

    def open(self, transaction: sa.RootTransaction) -> None:
        """Begin to keep back the statements of a transaction that has begun."""
        self._statements, self._characters, self._transaction = [], 0, transaction

    def discard(self) -> None:
        """Forget what was not sent; the transaction is over."""
        self._statements, self._characters, self._transaction = [], 0, None

    def add(self, sql: str) -> None:
        """Keep a whole statement back, or run it when none are kept back now."""
        if self._transaction is None:
            self._connection.exec_driver_sql(sql, None, {"no_parameters": True})
            return
        if self._characters + len(sql) > PACKET_CHARACTERS_MAX:
            self.send()
        self._statements.append(sql)
        self._characters += len(sql)

    def send(self) -> None:
        """Run what is kept back.

        Raises:
            sqlalchemy.exc.DBAPIError: the server refused a statement; those behind it did not run.
        """
        self._send(())

    @property
    def is_open(self) -> bool:
        """Tell whether statements are kept back now."""
        return self._transaction is not None

    def select(self, statements: Sequence[str]) -> Sequence[Sequence[tuple[Any, ...]]]:
        """Run what is kept back and, in the same packet, some SELECTs; give the rows of each. Raises as send does."""
        return self._send(statements)

    def commit(self, after: str) -> Sequence[tuple[Any, ...]]:
        """Run what is kept back, commit, and then, in the same packet, ask; give the answer's rows.

        Nothing is asked when nothing was kept back, and the answer is empty. Raises as send does.
        """
        assert self._transaction is not None  # noqa: S101 - the caller's order
        answer: Sequence[tuple[Any, ...]] = ()
        server = _dbapi_connection(self._connection)
        if self._statements:
            # The server commits unless an error stopped it before. The question begins a transaction of its own,
            # which must not outlive it: it would hold up whoever alters the ledger.
            _, answer, _ = self._send(["COMMIT", after, "COMMIT"])
            server.is_committed = True
        try:
            self._transaction.commit()
        except sa.exc.DBAPIError:
            # A transaction whose commit failed stays on the connection until it is rolled back, and no other begins.
            self._transaction.rollback()
            raise
        finally:
            server.is_committed = False
        return answer

    def _send(self, last: Sequence[str]) -> Sequence[Sequence[tuple[Any, ...]]]:
        """Run what is kept back and then the last ones, and give what each of these answers."""
        kept = len(self._statements)
        statements, self._statements, self._characters = [*self._statements, *last], [], 0
        answers: list[Sequence[tuple[Any, ...]]] = []
        if not statements:
            return answers
        done = 0
        cursor = self._connection.connection.cursor()
        try:
            cursor.execute(";\n".join(statements))
            for done in range(len(statements)):
                if done > 0:
                    cursor.nextset()
                if done >= kept:
                    answers.append(cursor.fetchall())
        except pymysql.Error as error:
            raise self._wrapped(statements[done], error) from None
        cursor.close()
        return answers

    def _wrapped(self, statement: str, error: pymysql.Error) -> sa.exc.DBAPIError:
        """Make of the driver's error what SQLAlchemy makes of it, and give up a connection that is lost."""
        is_lost = self._connection.dialect.is_disconnect(error, None, None)  # type: ignore[arg-type]
        if is_lost:
            self._connection.invalidate(error)
        wrapped: Any = sa.exc.DBAPIError.instance(
            statement, None, error, pymysql.Error, hide_parameters=True, connection_invalidated=is_lost
        )
        assert isinstance(wrapped, sa.exc.DBAPIError)  # noqa: S101 - what instance() gives for a driver's error
        return wrapped


def _dbapi_connection(connection: sa.Connection) -> PacketConnection:
    found = connection.connection.dbapi_connection
    assert isinstance(found, PacketConnection)  # noqa: S101 - keep_back has opened it
    return found


def packet_of(connection: sa.Connection) -> Packet | None:
    """Return the packet of a connection that has one."""
    found = connection.get_execution_options().get(_OPTION)
    return found if isinstance(found, Packet) else None


def keep_back(engine: sa.Engine) -> None:
    """Let packets be sent on the engine's connections, before every statement that SQLAlchemy runs."""

    def connect(_dialect: object, _record: object, arguments: Any, options: Any) -> PacketConnection:
        return PacketConnection(*arguments, **options)

    def send(connection: sa.Connection, *_rest: object) -> None:
        packet = packet_of(connection)
        if packet is not None:
            packet.send()

    sa.event.listen(engine, "do_connect", connect)
    sa.event.listen(engine, "before_cursor_execute", send)
