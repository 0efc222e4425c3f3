"""What a purge refuses before it asks any server."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from operations import cli
from operations.errors import PurgeError


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--apply"], "--why: say why"),
        (["--apply", "--why", " "], "--why: say why"),
        (["--archive", "topics"], "--archive: takes a place; leave it out to go by the topics"),
        (["--ledger-older-than", "29"], "--ledger-older-than: the ledger must know events at least as long"),
        (["--older-than", "90", "--ledger-older-than", "60"], "--ledger-older-than: the ledger must know events"),
    ],
)
@pytest.mark.usefixtures("bare")
def test_what_would_remove_too_much_or_for_no_reason_is_refused(words: list[str], reason: str) -> None:
    """Nothing is reached here, and no setting is there."""
    called = CliRunner().invoke(cli.build(["purge"]), ["purge", *words])

    assert isinstance(called.exception, PurgeError)
    assert reason in str(called.exception)
