"""Statements that are kept back run in order, all or none, and an error tells which of them met it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from consumer.openemr import packet as packet_module
from consumer.openemr.errors import translated
from consumer.openemr.packet import Packet
from consumer.openemr.session import create_engine
from consumer.openemr.statements import insert_rows
from consumer.ports import RefusedError, TransientError

TABLE = "emrsync_packet_test.kept"


@pytest.fixture
def engine(openemr_admin_url: str) -> Iterator[sa.Engine]:
    """Give an engine as the target's, and a table of short texts."""
    made = create_engine(openemr_admin_url)
    with made.begin() as connection:
        connection.exec_driver_sql("CREATE DATABASE emrsync_packet_test CHARACTER SET utf8mb4")
        connection.exec_driver_sql(f"CREATE TABLE {TABLE} (id INT PRIMARY KEY, word VARCHAR(10) NOT NULL)")
    yield made
    with made.begin() as connection:
        connection.exec_driver_sql("DROP DATABASE emrsync_packet_test")
    made.dispose()


@pytest.fixture
def connection(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Give one connection."""
    with engine.connect() as one:
        yield one


def put(connection: sa.Connection, *rows: tuple[int, str | None]) -> None:
    """Insert rows, each by a statement of its own."""
    for row in rows:
        insert_rows(connection, TABLE, ("id", "word"), [row])


def words(engine: sa.Engine) -> list[str]:
    """Read what is committed."""
    with engine.connect() as other:
        return list(other.exec_driver_sql(f"SELECT word FROM {TABLE} ORDER BY id").scalars())


def test_statements_are_kept_back_until_the_commit(engine: sa.Engine, connection: sa.Connection) -> None:
    """Whatever the values hold."""
    packet = Packet(connection)
    with connection.begin() as transaction:
        packet.open(transaction)
        put(connection, (1, "a;b"), (2, "it's"), (3, "50 %s"), (4, "\\'; --"))
        assert [] == words(engine)
        assert [(4,)] == list(packet.commit(f"SELECT COUNT(*) FROM {TABLE}"))

    assert ["a;b", "it's", "50 %s", "\\'; --"] == words(engine)


def test_a_commit_is_not_sent_twice_and_leaves_no_transaction(engine: sa.Engine, connection: sa.Connection) -> None:
    """Neither of the rows nor of the question behind them; the next one commits again."""
    packet = Packet(connection)
    number, before = own_id_and_commits(connection)
    with connection.begin() as transaction:
        packet.open(transaction)
        put(connection, (1, "one"))
        packet.commit(f"SELECT COUNT(*) FROM {TABLE}")
    packet.discard()
    with engine.begin() as other:
        open_ones = "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_mysql_thread_id = %s"
        assert 0 == other.exec_driver_sql(open_ones, (number,)).scalar()
        other.exec_driver_sql(f"ALTER TABLE {TABLE} MODIFY word VARCHAR(20) NOT NULL")
    # Ours are the one for the rows and the one for the question, and that of the look before.
    assert before + 3 == own_id_and_commits(connection)[1]

    with connection.begin():
        put(connection, (2, "two"))
    assert ["one", "two"] == words(engine)


def own_id_and_commits(connection: sa.Connection) -> tuple[int, int]:
    """Give the connection's number and how many commits the server has had from it."""
    with connection.begin():
        number = connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one()
        found = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Com_commit'").one()
        return int(number), int(found[1])


def test_a_read_sees_what_was_kept_back(connection: sa.Connection) -> None:
    """It is sent before."""
    packet = Packet(connection)
    with connection.begin() as transaction:
        packet.open(transaction)
        put(connection, (1, "one"))
        assert 1 == connection.exec_driver_sql(f"SELECT COUNT(*) FROM {TABLE}").scalar()


def test_a_rollback_takes_all_of_it_back(engine: sa.Engine, connection: sa.Connection) -> None:
    """What was sent, and what was not."""
    packet = Packet(connection)
    with connection.begin() as transaction:
        packet.open(transaction)
        put(connection, (1, "one"))
        packet.send()
        put(connection, (2, "two"))
        packet.discard()
        transaction.rollback()

    assert [] == words(engine)


def test_an_error_names_its_own_statement_and_nothing_is_committed(
    engine: sa.Engine, connection: sa.Connection
) -> None:
    """Also when it is in the middle; the connection goes on."""
    packet = Packet(connection)

    def write() -> None:
        with translated("emr_sync"), connection.begin() as transaction:
            packet.open(transaction)
            put(connection, (1, "one"), (2, "too long for it"), (3, "three"))
            packet.commit("SELECT 1")

    with pytest.raises(RefusedError) as caught:
        write()

    assert f"{TABLE}.word: is longer than the column (database error 1406)" == caught.value.failure.message
    assert [] == words(engine)
    with connection.begin() as transaction:
        packet.open(transaction)
        put(connection, (4, "four"))
        packet.commit("SELECT 1")
    assert ["four"] == words(engine)


def test_a_connection_lost_before_the_packet_is_transient_and_the_next_one_works(
    engine: sa.Engine, connection: sa.Connection
) -> None:
    """As for any statement."""
    packet = Packet(connection)

    def write() -> None:
        with translated("emr_sync"), connection.begin() as transaction:
            packet.open(transaction)
            number = connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one()
            with engine.begin() as other:
                other.exec_driver_sql(f"KILL {number}")
            put(connection, (1, "one"))
            packet.commit("SELECT 1")

    with pytest.raises(TransientError):
        write()

    assert [] == words(engine)
    with connection.begin() as transaction:
        packet.open(transaction)
        put(connection, (2, "two"))
        packet.commit("SELECT 1")
    assert ["two"] == words(engine)


def test_a_large_packet_is_sent_in_parts(
    engine: sa.Engine, connection: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same transaction."""
    monkeypatch.setattr(packet_module, "PACKET_CHARACTERS_MAX", 200)
    packet = Packet(connection)
    with connection.begin() as transaction:
        packet.open(transaction)
        put(connection, *((number, "word") for number in range(20)))
        packet.commit("SELECT 1")

    assert ["word"] * 20 == words(engine)
