"""A TCP proxy in front of one server that can drop, refuse, hang, or cut a connection in the middle of a request."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import struct
import threading
from typing import Final

LOOPBACK: Final = "127.0.0.1"
CHUNK_BYTES: Final = 65_536
CONNECT_LIMIT_S: Final = 5.0
_RESET: Final = struct.pack("ii", 1, 0)


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class _Link:
    """One client's connection and the one to the server that belongs to it."""

    client: socket.socket
    server: socket.socket

    def reset(self) -> None:
        """End both at once, as a lost network does: no farewell, and what is under way is gone."""
        for one in (self.client, self.server):
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            # A thread that waits in recv keeps the socket open until it is woken.
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RD)
            one.close()


class Proxy:
    """Passes bytes on until told otherwise; `port` stays the same whatever happens. Use it in a with block."""

    def __init__(self, host: str, port: int) -> None:
        self._server = host, port
        # Bound and never listening: it keeps the port ours while connections are refused.
        self._reserved = _bound(0)
        self.port: int = self._reserved.getsockname()[1]
        self._lock = threading.Lock()
        self._flows = threading.Event()
        self._flows.set()
        self._links: set[_Link] = set()
        self._left_bytes: int | None = None
        self._cuts = 0
        self._listener: socket.socket | None = None
        self._accept()

    def __enter__(self) -> Proxy:
        """Give itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """End everything."""
        self.refuse()
        self._flows.set()
        self._reserved.close()

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        with self._lock:
            return len(self._links)

    @property
    def cuts(self) -> int:
        """How many connections cut_after has cut so far."""
        return self._cuts

    def mend(self) -> None:
        """Pass everything on again: the network is back."""
        with self._lock:
            self._left_bytes = None
        self._flows.set()
        if self._listener is None:
            self._accept()

    def drop(self) -> None:
        """Reset every connection that there is; new ones are taken."""
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            link.reset()

    def refuse(self) -> None:
        """Reset every connection and refuse new ones, as a host without the server does."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # A thread waits in accept; closing alone would not wake it.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.drop()

    def hang(self) -> None:
        """Take connections and bytes, and pass nothing on either way until mended: a black hole."""
        self._flows.clear()

    def cut_after(self, size_bytes: int) -> None:
        """Reset the connection that sends the last of the next size_bytes towards the server; the rest pass."""
        with self._lock:
            self._left_bytes = size_bytes

    def _accept(self) -> None:
        self._listener = _bound(self.port)
        self._listener.listen(64)
        threading.Thread(target=self._take, args=(self._listener,), daemon=True).start()

    def _take(self, listener: socket.socket) -> None:
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return
            # Apart, so that a client is accepted while another's connection to the server takes its time.
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        self._flows.wait()
        try:
            server = socket.create_connection(self._server, timeout=CONNECT_LIMIT_S)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.close()
            return
        server.settimeout(None)
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _Link(client, server)
        with self._lock:
            self._links.add(link)
        if self._listener is None:
            self._end(link)
            return
        threading.Thread(target=self._pump, args=(link, server, client, False), daemon=True).start()
        self._pump(link, client, server, True)

    def _pump(self, link: _Link, source: socket.socket, sink: socket.socket, towards_server: bool) -> None:
        # An end or an error on one side ends both: no protocol of ours speaks on after half a farewell.
        with contextlib.suppress(OSError):
            while chunk := source.recv(CHUNK_BYTES):
                self._flows.wait()
                passed = self._passed(chunk) if towards_server else chunk
                sink.sendall(passed)
                if len(passed) < len(chunk):
                    self._end(link)
                    return
        self._finish(link)

    def _passed(self, chunk: bytes) -> bytes:
        """Return what may pass of a chunk; less than all of it means that the connection is to be cut."""
        with self._lock:
            if self._left_bytes is None:
                return chunk
            if len(chunk) <= self._left_bytes:
                self._left_bytes -= len(chunk)
                return chunk
            passed, self._left_bytes = chunk[: self._left_bytes], None
            self._cuts += 1
            return passed

    def _end(self, link: _Link) -> None:
        with self._lock:
            self._links.discard(link)
        link.reset()

    def _finish(self, link: _Link) -> None:
        """Let both sides see the end, with what was sent before it, unless the link was ended otherwise."""
        with self._lock:
            if link not in self._links:
                return
            self._links.remove(link)
        for one in (link.client, link.server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def _bound(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Two sockets of ours on one port: the one that keeps it, and the one that listens.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind((LOOPBACK, port))
    return made
