"""Statements for OpenEMR's server are understood by MariaDB and MySQL alike."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.dialects import COMMON, of_one_dialect

MODULES = sorted((Path(__file__).parents[4] / "consumer" / "openemr").rglob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_no_module_holds_sql_of_one_dialect(module: Path) -> None:
    """OpenEMR runs on both servers, and we are tested on one."""
    assert [] == of_one_dialect(module.read_text(encoding="utf-8"))


@pytest.mark.parametrize("statement", ["INSERT INTO t VALUES (1) RETURNING id", "SELECT 1 FROM t FOR SHARE"])
def test_sql_of_one_dialect_is_found(statement: str) -> None:
    """The patterns can fail."""
    assert of_one_dialect(statement)


@pytest.mark.parametrize("pattern", COMMON)
def test_what_the_manuals_differ_about_is_still_used(pattern: str) -> None:
    """The list of exceptions does not outlive the statements."""
    text = " ".join(module.read_text(encoding="utf-8") for module in MODULES)

    assert re.search(pattern, text, re.DOTALL)
