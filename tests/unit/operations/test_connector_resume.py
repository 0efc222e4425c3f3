"""A stopped connector is let go on by a command."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from connectors.connect_client import ConnectClient
from operations import connector_commands
from tests.unit.connectors.fake_connect import FakeConnect, state


@pytest.fixture
def fake(bare: None, monkeypatch: pytest.MonkeyPatch) -> FakeConnect:
    """Give the command a worker in memory."""
    made = FakeConnect(states=[state("STOPPED"), state("RUNNING", "UNASSIGNED"), state("RUNNING", "RUNNING")])
    monkeypatch.setattr(
        "operations.connector_resume.connect_client",
        lambda _settings, retry_limit_s: ConnectClient(
            "http://connect", retry_limit_s=retry_limit_s, transport=made.transport(), sleep=made.sleep,
            clock=made.clock,
        ),
    )  # fmt: skip
    return made


def test_a_stopped_connector_goes_on_and_is_waited_for(fake: FakeConnect) -> None:
    """What was said is said when its task runs, not when the worker has taken the wish."""
    shown = CliRunner().invoke(connector_commands.app, ["resume"])

    assert (shown.exit_code, shown.output) == (0, "emrsync-outbox: connector RUNNING, task 0 RUNNING\n")
    assert fake.calls[0] == "PUT /connectors/emrsync-outbox/resume"
