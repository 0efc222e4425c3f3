"""The one question asked of a broker before any client library may be used: which brokers serve this cluster."""

import socket
import struct

_METADATA = 3
_VERSION = 1
_CORRELATION_ID = 1
_CLIENT_ID = b"emrsync-stack"


def broker_count(host: str, port: int, limit_s: float) -> int:
    """Return how many brokers the cluster has registered and serves with, by a Metadata request of version 1.

    Raises:
        OSError: nobody listens, or the answer did not come in time or is not Kafka's.
    """
    body = struct.pack(">i", 0)  # no topics: only the brokers are wanted
    header = struct.pack(">hhih", _METADATA, _VERSION, _CORRELATION_ID, len(_CLIENT_ID)) + _CLIENT_ID
    request = header + body
    with socket.create_connection((host, port), timeout=limit_s) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", _receive(connection, 4))
        answer = _receive(connection, size)
    if len(answer) < struct.calcsize(">ii"):
        raise OSError("the answer is too short for a broker's")
    correlation_id, count = struct.unpack_from(">ii", answer)
    if correlation_id != _CORRELATION_ID:
        raise OSError("the answer is not to our question")
    return int(count)


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise OSError("the broker closed the connection")
        received += part
    return received
