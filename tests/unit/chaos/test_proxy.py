"""The proxy passes, drops, refuses, hangs and cuts as it is told: the outage tests rest on it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.chaos.proxy import LOOPBACK, Proxy

LIMIT_S = 5.0


class Echo:
    """A server that sends back whatever it gets, and remembers it."""

    def __init__(self) -> None:
        self._socket = socket.create_server((LOOPBACK, 0))
        self.port: int = self._socket.getsockname()[1]
        self.got = bytearray()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Stop listening; may be repeated."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                client = self._socket.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client:
            try:
                while chunk := client.recv(65_536):
                    self.got += chunk
                    client.sendall(chunk)
            except OSError:
                return


@pytest.fixture
def echo() -> Iterator[Echo]:
    """Give a server that echoes."""
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    """Give a proxy in front of it."""
    with Proxy(LOOPBACK, echo.port) as made:
        yield made


def connect(proxy: Proxy) -> socket.socket:
    """Connect as a client that does not wait for ever."""
    return socket.create_connection((LOOPBACK, proxy.port), timeout=LIMIT_S)


def ask(client: socket.socket, question: bytes) -> bytes:
    """Send, and give the answer of the same length."""
    client.sendall(question)
    answer = b""
    while len(answer) < len(question):
        chunk = client.recv(65_536)
        if not chunk:
            break
        answer += chunk
    return answer


def wait_until(condition: object, expected: object) -> None:
    """Wait until a callable gives the expected."""
    deadline = time.monotonic() + LIMIT_S
    assert callable(condition)
    while condition() != expected and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition() == expected


def test_bytes_pass_both_ways_and_in_any_size(proxy: Proxy) -> None:
    """More than one chunk, on two connections."""
    large = bytes(range(256)) * 2_000
    with connect(proxy) as one, connect(proxy) as two:
        assert b"ping" == ask(one, b"ping")
        assert large == ask(two, large)
        assert b"pong" == ask(one, b"pong")
        assert 2 == proxy.connections
    wait_until(lambda: proxy.connections, 0)


def test_a_drop_resets_what_there_is_and_takes_what_comes(proxy: Proxy) -> None:
    """The old connection is reset; a new one works."""
    with connect(proxy) as one:
        ask(one, b"ping")
        proxy.drop()
        with pytest.raises(ConnectionResetError):
            one.recv(1)
    with connect(proxy) as two:
        assert b"pong" == ask(two, b"pong")


def test_refused_connections_fail_at_once_and_the_port_stays(proxy: Proxy) -> None:
    """Until it is mended."""
    with connect(proxy) as one:
        ask(one, b"ping")
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            one.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)

    proxy.mend()
    with connect(proxy) as two:
        assert b"pong" == ask(two, b"pong")


def test_a_black_hole_answers_nothing_and_loses_nothing(proxy: Proxy, echo: Echo) -> None:
    """Neither an old nor a new connection gets an answer; when mended, both do."""
    with connect(proxy) as old:
        assert b"ping" == ask(old, b"ping")
        proxy.hang()
        with connect(proxy) as new:
            for client in (old, new):
                client.sendall(b"late")
                client.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    client.recv(1)
            assert b"ping" == bytes(echo.got)

            proxy.mend()
            for client in (old, new):
                client.settimeout(LIMIT_S)
                assert b"late" == client.recv(4)


def test_a_cut_comes_in_the_middle_of_what_is_sent_and_only_once(proxy: Proxy, echo: Echo) -> None:
    """The server never sees the rest, nor what the reset took from it; the next connection is whole."""
    with connect(proxy) as one:
        assert b"0123" == ask(one, b"0123")
        proxy.cut_after(10)
        with pytest.raises(ConnectionResetError):
            ask(one, b"x" * 1_000)
    wait_until(lambda: (proxy.cuts, proxy.connections), (1, 0))
    assert (b"0123" + b"x" * 10).startswith(bytes(echo.got))
    with connect(proxy) as two:
        assert b"y" * 1_000 == ask(two, b"y" * 1_000)


def test_a_server_that_is_down_looks_like_one(proxy: Proxy, echo: Echo) -> None:
    """The client is reset, if need be while it connects, as the proxy cannot refuse what it has accepted."""
    echo.close()

    def call() -> None:
        with connect(proxy) as client:
            ask(client, b"ping")

    with pytest.raises(ConnectionResetError):
        call()
