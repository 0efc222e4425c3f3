"""The whole chain for tests: real servers, started once for a session, by compose where Docker runs, natively elsewhere."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from connectors.config import PREFIX
from operations.config import OperationsSettings
from operations.provision import Choices, provision
from stack import Stack

NEEDED: Final = ("SOURCE_ADMIN_URL", "OPENEMR_ADMIN_URL", "KAFKA_BOOTSTRAP_SERVERS", "CONNECT_URL", "APP_URL")

OPENEMR_VERSION: Final = "8.2.0-dev"


@contextlib.contextmanager
def running_chain() -> Iterator[Mapping[str, str]]:
    """Give the EMRSYNC_… variables of a provisioned chain; one that the environment names is used and left running."""
    given = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    if all(f"{PREFIX}{name}" in given for name in NEEDED):
        yield given
        return
    with native_chain() as variables:
        yield variables


@contextlib.contextmanager
def native_chain() -> Iterator[Mapping[str, str]]:
    """Start a stack in a folder of its own, provision it, and leave nothing of it."""
    with tempfile.TemporaryDirectory(prefix="emrsync-test-") as folder:
        stack = Stack(Path(folder) / "stack", report=print)
        try:
            stack.up()
            variables = stack.env()
            provision(OperationsSettings.of(variables), Choices(openemr_version=OPENEMR_VERSION), report=print)
            yield variables
        finally:
            stack.down(purge=True)
