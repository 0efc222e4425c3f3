"""What docs/openemr.md prints of the code: the rights of the writer's account, for those who grant them by hand."""

from __future__ import annotations

from pathlib import Path

from consumer.openemr import account

PAGE = Path(__file__).parents[4].joinpath("docs", "openemr.md").read_text(encoding="utf-8")
TO = " TO 'emrsync_writer'@'10.0.0.%';"


def test_the_page_prints_the_rights_that_provision_grants() -> None:
    """A trail whose account may change it would prove nothing."""
    printed = [line.strip() for line in PAGE.splitlines() if line.strip().startswith("GRANT")]

    plain = [right.replace("`", "") for right in account.grants("openemr", "emr_sync")]
    assert [line.replace("`", "") for line in printed] == [f"{right}{TO}" for right in plain]
