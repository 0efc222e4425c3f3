"""docs/metrics.md lists every metric with its type and labels, and no other; nothing else is drawn or alerted on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from consumer.metrics import RetryMetrics, SettlingMetrics, StreamMetrics
from operations.pipeline_metrics import Families, WatchMetrics

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
UNITS: Final = ("_seconds", "_bytes", "_total", "_records")


def defined() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Give every metric of the product as it is scraped: its type and its labels."""
    registry = CollectorRegistry()
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for metrics in (SettlingMetrics(registry), StreamMetrics(registry), RetryMetrics(registry), WatchMetrics(registry)):
        for one in vars(metrics).values():
            if isinstance(one, MetricWrapperBase):
                name = f"{one._name}_total" if one._type == "counter" else one._name
                found[name] = str(one._type), tuple(one._labelnames)
    for family in Families().all:
        found[family.name] = str(family.type), tuple(family._labelnames)
    return found


def documented() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Read the tables of the page."""
    rows = re.findall(r"^\| `(emrsync_\w+)` \| (\w+) \|([^|]*)\|[^|]+\|$", PAGE, re.MULTILINE)
    return {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    """And the page lists none that does not exist."""
    assert len(defined()) > 25
    assert defined() == documented()


def test_names_follow_the_conventions_of_prometheus() -> None:
    """Counters end in _total; histograms in their base unit; no unit is scaled."""
    for name, (kind, _labels) in defined().items():
        assert re.fullmatch(r"emrsync(_[a-z]+)+", name), name
        assert (kind == "counter") == name.endswith("_total"), name
        if kind == "histogram":
            assert name.endswith(UNITS), name
        assert not re.search(r"_(ms|millis|milliseconds|minutes|hours|mb|kb|percent)\b", name), name


def test_no_label_could_hold_what_came_in_a_record() -> None:
    """Each is one of a closed list, or names a part of the pipeline."""
    closed = {"entity_type", "outcome", "error_class", "status", "system", "stage"}
    parts = {"topic", "partition", "connector", "task", "slot"}

    assert set() == {label for _kind, labels in defined().values() for label in labels} - closed - parts


def undefined(texts: Iterable[str]) -> set[str]:
    """Give the names of ours in these texts that no process serves."""
    known = set()
    for name, (kind, _labels) in defined().items():
        known |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"} if kind == "histogram" else {name}
    return {name for text in texts for name in re.findall(r"\bemrsync_[a-z_]+\b", text)} - known


def test_every_metric_named_in_a_document_exists() -> None:
    """But for histograms, which are named without their endings."""
    named = undefined(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("metrics.md"))

    assert set() == named - {name for name, (kind, _labels) in defined().items() if kind == "histogram"}
