"""What docs/contract.md says of an outbox that is there already."""

from __future__ import annotations

from pathlib import Path

from connectors.migrations import classic
from connectors.outbox import sync_outbox

PAGE = Path(__file__).parents[3].joinpath("docs", "contract.md").read_text(encoding="utf-8")


def test_the_page_names_the_classic_columns_and_those_that_must_be_there() -> None:
    """The migration stops at a table that lacks one of the needed."""
    line = next(one for one in PAGE.splitlines() if one.startswith("Of these it needs"))
    needed, _, others = line.partition("the other four")

    names = [column.name for column in sync_outbox.columns]
    assert [name for name in names if f"`{name}`" in needed] == [name for name in names if name in classic.REQUIRED]
    added = {name for name in names if f"`{name}`" in others}
    assert added == {"status", "retry_count", "error_message", "processed_at"}
