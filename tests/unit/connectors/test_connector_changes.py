"""What a configuration would change, told without secrets."""

from __future__ import annotations

import pytest

from connectors.connector_changes import MASK, SecretInConfigError, changes, check_secrets, masked

LIVE = {"name": "outbox", "slot.name": "emrsync", "poll.interval.ms": "5", "old": "x", "database.password": "hunter2"}
WANTED = {"slot.name": "other", "poll.interval.ms": "1", "new": "y", "database.password": "${env:EMRSYNC_CDC_PASSWORD}"}


def test_each_setting_that_differs_is_told_and_no_secret() -> None:
    """In order of their names; the name of the connector is no setting of ours."""
    assert [str(one) for one in changes(LIVE, WANTED)] == [
        f"~ database.password = {MASK} -> ${{env:EMRSYNC_CDC_PASSWORD}}",
        "+ new = y",
        "- old = x",
        "~ poll.interval.ms = 5 -> 1",
        "~ slot.name = emrsync -> other",
    ]


def test_only_a_changed_identity_has_a_consequence() -> None:
    """A new connector leaves nothing behind."""
    told = {one.name for one in changes(LIVE, WANTED) if one.consequence}

    assert told == {"slot.name"}
    assert [one for one in changes(None, WANTED) if one.consequence] == []


def test_the_same_is_no_change() -> None:
    """Connect adds the name."""
    assert changes({**WANTED, "name": "outbox"}, WANTED) == ()


@pytest.mark.parametrize(
    "name", ["database.password", "ssl.keystore.password", "sasl.jaas.config", "api.token", "client.secret"]
)
def test_a_secret_is_masked_and_refused(name: str) -> None:
    """Only a whole reference is shown; one with more around it may hold the secret."""
    assert masked(name, "hunter2") == MASK
    assert masked(name, "${env:EMRSYNC_X}") == "${env:EMRSYNC_X}"
    assert masked(name, "${env:EMRSYNC_X}hunter2") == MASK
    with pytest.raises(SecretInConfigError, match=name) as raised:
        check_secrets({name: "hunter2"})
    assert "hunter2" not in str(raised.value)


def test_references_and_what_is_no_secret_pass() -> None:
    """Both providers, environment and file."""
    check_secrets({"database.password": "${file:/run/secrets/cdc:password}", "database.user": "cdc"})
