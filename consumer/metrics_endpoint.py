"""The HTTP endpoint that Prometheus scrapes: one per process, with a registry of its own, and off unless asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server

from consumer.ports import MisconfiguredError


@contextlib.contextmanager
def serving(host: str, port: int | None) -> Iterator[CollectorRegistry | None]:
    """Serve /metrics within the block, and give the registry to fill; None, and nothing is served, without a port.

    Raises:
        MisconfiguredError: nobody may listen there, or another process does.
    """
    if port is None:
        yield None
        return
    registry = CollectorRegistry()
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        what = f"metrics cannot be served on {host}:{port} ({error.strerror or type(error).__name__})"
        raise MisconfiguredError(f"{what}: give each process of a machine its own EMRSYNC_METRICS_PORT") from error
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
