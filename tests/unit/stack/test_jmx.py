"""The agent in the JVMs: only where it is asked for, each with a port of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from stack.jmx.agent import RULES, JmxAgent, options, write_rules


def test_without_a_port_no_agent_is_loaded(tmp_path: Path) -> None:
    """A JVM of the stack is as it was."""
    assert options(None, tmp_path, 0) == ()
    write_rules(None, "kafka", tmp_path, None)
    assert list(tmp_path.iterdir()) == []


def test_each_jvm_has_its_port_on_loopback_and_its_rules(tmp_path: Path) -> None:
    """The broker first, then the workers by number."""
    jar = tmp_path / "jmx_prometheus_javaagent-1.jar"
    jar.touch()
    agent = JmxAgent(tmp_path, 9_400)

    assert options(agent, tmp_path, 0) == (f"-javaagent:{jar}=127.0.0.1:9400:{tmp_path}/jmx.yml",)
    assert options(agent, tmp_path, 2) == (f"-javaagent:{jar}=127.0.0.1:9402:{tmp_path}/jmx.yml",)
    write_rules(agent, "connect", tmp_path, None)
    assert (tmp_path / "jmx.yml").read_text(encoding="utf-8") == (RULES / "connect.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["kafka", "connect"])
def test_every_rule_is_a_pattern_with_a_name_and_a_type(name: str) -> None:
    """And can match a bean that is asked for at all."""
    rules = yaml.safe_load((RULES / f"{name}.yml").read_text(encoding="utf-8"))
    domains = {included.split(":")[0] for included in rules["includeObjectNames"]}

    for rule in rules["rules"]:
        assert rule["type"] in {"GAUGE", "COUNTER"}, rule
        groups = re.compile(rule["pattern"]).groups
        used = [int(number) for number in re.findall(r"\$(\d)", yaml.safe_dump(rule))]
        assert max(used, default=0) <= groups, rule
        start = rule["pattern"].split("<")[0]
        assert any(re.fullmatch(start, domain) for domain in domains), rule
