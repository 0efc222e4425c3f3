"""Rendering of configuration templates."""

from __future__ import annotations

from pathlib import Path

import pytest

from stack.kafka import broker
from stack.mariadb import server as mariadb
from stack.postgresql import server as postgresql
from stack.templates import render


def test_placeholders_are_replaced_and_other_syntaxes_stay() -> None:
    """Connect's own ${env:…} and MariaDB's user@host are not ours."""
    rendered = render("port=@PORT@ ${env:X} 'a'@'b'", {"PORT": 5})

    assert rendered == "port=5 ${env:X} 'a'@'b'"


@pytest.mark.parametrize(
    ("template", "values"),
    [("@PORT@", {}), ("port", {"PORT": 1}), ("@A@", {"A": "x\nlisten_addresses='*'"})],
    ids=["placeholder without value", "value without placeholder", "value that breaks the line"],
)
def test_what_would_render_wrongly_is_refused(template: str, values: dict[str, str | int]) -> None:
    """A silent gap in a server's configuration would be found much later."""
    with pytest.raises(ValueError, match=r"placeholders|line break"):
        render(template, values)


@pytest.mark.parametrize("template", [postgresql.TEMPLATE, mariadb.TEMPLATE, broker.TEMPLATE], ids=lambda p: p.name)
def test_every_setting_has_its_reason_above_it(template: Path) -> None:
    """A group of settings follows a comment line; no group stands without one."""
    groups = [group.splitlines() for group in template.read_text(encoding="utf-8").split("\n\n")]
    bare = [group[0] for group in groups if not group[0].startswith("#")]

    assert bare == []


def test_databases_are_as_durable_as_in_production() -> None:
    """Numbers measured without these would not be honest."""
    source = postgresql.TEMPLATE.read_text(encoding="utf-8").splitlines()
    target = mariadb.TEMPLATE.read_text(encoding="utf-8").splitlines()

    assert {"fsync = on", "synchronous_commit = on", "full_page_writes = on"} <= set(source)
    assert "innodb_flush_log_at_trx_commit = 1" in target


def test_every_server_listens_on_loopback_only() -> None:
    """Nothing in the stack is meant for other machines."""
    assert "listen_addresses = '127.0.0.1'" in postgresql.TEMPLATE.read_text(encoding="utf-8")
    assert "bind-address = 127.0.0.1" in mariadb.TEMPLATE.read_text(encoding="utf-8")
    assert "listeners=PLAINTEXT://127.0.0.1:" in broker.TEMPLATE.read_text(encoding="utf-8")
