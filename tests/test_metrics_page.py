"""docs/metrics.md lists every metric with its type and labels, and no other; nothing else is drawn or alerted on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from consumer.metrics import RetryMetrics, SettlingMetrics, StreamMetrics
from operations.pipeline_metrics import Families, PipelineState, WatchMetrics

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
UNITS: Final = ("_seconds", "_bytes", "_total", "_records")


def defined() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Give every metric of the product as it is scraped: its type and its labels."""
    registry = CollectorRegistry()
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for metrics in (
        SettlingMetrics(registry),
        StreamMetrics(registry),
        RetryMetrics(registry),
        WatchMetrics(registry, PipelineState()),
    ):
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
    parts = {"topic", "partition", "connector", "task", "slot", "reader"}

    assert set() == {label for _kind, labels in defined().values() for label in labels} - closed - parts


def undefined(texts: Iterable[str]) -> set[str]:
    """Give the names of ours in these texts that no process serves."""
    known = set()
    for name, (kind, _labels) in defined().items():
        known |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"} if kind == "histogram" else {name}
    return {name for text in texts for name in re.findall(r"\bemrsync_[a-z_]+\b", text)} - known


ALERTS: Final = ROOT / "deploy" / "prometheus" / "alerts.yaml"
ALERT_TESTS: Final = ROOT / "deploy" / "prometheus" / "alerts_test.yaml"
DASHBOARD: Final = ROOT / "deploy" / "grafana" / "emrsync.json"


def rules() -> list[dict[str, Any]]:
    """Give the alert rules."""
    return [rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def alert_tests() -> list[dict[str, Any]]:
    """Give the unit tests of the rules, in promtool's form."""
    tests: list[dict[str, Any]] = yaml.safe_load(ALERT_TESTS.read_text(encoding="utf-8"))["tests"]
    return tests


def targets() -> list[str]:
    """Give the queries of the dashboard."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def labels_asked(expression: str) -> set[str]:
    """Give the labels that a query groups by or selects."""
    grouped = [word for words in re.findall(r"by \(([a-z_, ]+)\)", expression) for word in words.split(", ")]
    return {*grouped, *re.findall(r"[{,]([a-z_]+)=", expression)}


def test_alerts_and_dashboard_ask_only_for_what_is_served() -> None:
    """A renamed metric would be an alert that never comes."""
    expressions = [*(rule["expr"] for rule in rules()), *targets()]
    served = {label for _kind, labels in defined().values() for label in labels} | {"le", "instance"}

    assert len(expressions) > 40
    assert set() == undefined(expressions)
    assert set() == {label for one in expressions for label in labels_asked(one)} - served


def test_every_alert_says_how_bad_it_is_and_what_it_means() -> None:
    """And has its row in the page that says what to do."""
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    for rule in rules():
        assert rule["labels"]["severity"] in {"page", "ticket"}, rule["alert"]
        assert rule["annotations"]["summary"], rule["alert"]
        assert f"| `{rule['alert']}` |" in page, rule["alert"]


def test_every_alert_is_tested_to_come_and_to_stay_away() -> None:
    """With series that exist."""
    cases = [case for test in alert_tests() for case in test["alert_rule_test"]]
    fire = {case["alertname"] for case in cases if case["exp_alerts"]}
    silent = {case["alertname"] for case in cases if not case["exp_alerts"]}
    names = {rule["alert"] for rule in rules()}
    series = [one["series"] for test in alert_tests() for one in test["input_series"]]

    assert names == fire == silent
    assert set() == undefined(series)
    for test in alert_tests():
        for case in test["alert_rule_test"]:
            [rule] = [one for one in rules() if one["alert"] == case["alertname"]]
            for expected in case["exp_alerts"]:
                assert expected["exp_labels"]["severity"] == rule["labels"]["severity"], case


def test_the_dashboard_is_whole() -> None:
    """Panels have ids of their own, do not overlap, and say what they show."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    cells = [
        (x, y)
        for panel in panels
        for grid in [panel["gridPos"]]
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(cells) == len(set(cells))
    assert max(x for x, _y in cells) == 23
    assert all(panel["description"] for panel in panels if panel["type"] != "row")


NOT_DRAWN: Final = {
    "emrsync_lag_records": "each member's own; the group's lag is drawn, which knows of partitions without an owner",
    "emrsync_last_look_timestamp_seconds": "an instant; EmrsyncWatchBlind says when it is too long ago",
}


def test_every_metric_is_drawn_or_left_out_for_a_reason() -> None:
    """What nobody draws is looked for in the middle of a night."""
    drawn = set(re.findall(r"\bemrsync_[a-z_]+\b", " ".join(targets())))
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in drawn} | drawn

    assert set(NOT_DRAWN) == set(defined()) - shown


def test_every_metric_named_in_a_document_exists() -> None:
    """But for histograms, which are named without their endings."""
    named = undefined(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("metrics.md"))

    assert set() == named - {name for name, (kind, _labels) in defined().items() if kind == "histogram"}
