"""Metrics read over HTTP, as Prometheus reads them."""

from __future__ import annotations

import socket
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def exposed(port: int) -> str:
    """Give the text of /metrics of a process on this machine."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def scraped(port: int) -> Samples:
    """Read /metrics of a process on this machine."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposed(port))
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    """Give one sample, None when it is not there."""
    return samples.get((name, frozenset(labels.items())))
