"""The handwritten question to a broker, against a socket that plays one."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stack.kafka.wire import broker_count
from stack.ports import LOOPBACK, any_free_port


@contextmanager
def broker(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Listen once, keep what is asked, and send `answer`."""
    asked: list[bytes] = []
    with socket.create_server((LOOPBACK, 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(1024))
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(server.getsockname()[1]), asked
        thread.join()


def test_the_question_is_metadata_without_topics_and_the_answer_is_counted() -> None:
    """Bytes by Kafka's protocol guide: size, api key 3, version 1, correlation id, client id, empty topic list."""
    with broker(struct.pack(">iii", 8, 1, 2)) as (port, asked):
        count = broker_count(LOOPBACK, port, 2)

    assert count == 2
    assert asked == [struct.pack(">ihhih", 27, 3, 1, 1, 13) + b"emrsync-stack" + struct.pack(">i", 0)]


@pytest.mark.parametrize(
    "answer",
    [b"", b"\0\0\0\2ab", struct.pack(">iii", 8, 7, 1)],
    ids=["closed", "too short", "to another question"],
)
def test_an_answer_that_is_no_brokers_is_an_error(answer: bytes) -> None:
    """Some other program may have taken the port."""
    with broker(answer) as (port, _), pytest.raises(OSError, match=r"broker|question"):
        broker_count(LOOPBACK, port, 2)


def test_nobody_listening_is_an_error() -> None:
    """The broker is not up yet."""
    with pytest.raises(ConnectionRefusedError):
        broker_count(LOOPBACK, any_free_port(), 2)
