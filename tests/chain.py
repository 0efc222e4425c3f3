"""The whole chain for tests, started once for a session: by compose where Docker runs, natively elsewhere."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from testcontainers.compose import DockerCompose

from connectors.config import PREFIX
from operations.config import OperationsSettings
from operations.provision import Choices, provision
from stack import Stack
from stack.ports import any_free_port

NEEDED: Final = ("SOURCE_ADMIN_URL", "OPENEMR_ADMIN_URL", "KAFKA_BOOTSTRAP_SERVERS", "CONNECT_URL", "APP_URL")

STACK_HOME: Final = f"{PREFIX}STACK_HOME"

OPENEMR_VERSION: Final = "8.2.0-dev"

ROOT: Final = Path(__file__).parents[1]
COMPOSE_LIMIT_S: Final = 600.0
_SECRETS: Final[Mapping[str, tuple[str, str]]] = {
    "SOURCE_ADMIN_URL": ("admin/source_admin_url", "postgres"),
    "OPENEMR_ADMIN_URL": ("admin/openemr_admin_url", "mariadb"),
    "APP_URL": ("app/app_url", "postgres"),
    "SOURCE_URL": ("consumer/source_url", "postgres"),
    "OPENEMR_URL": ("consumer/openemr_url", "mariadb"),
    "CDC_PASSWORD": ("cdc/cdc_password", ""),
}
_PORTS: Final = {"postgres": 5432, "mariadb": 3306, "kafka": 19092, "connect": 8083}


@contextlib.contextmanager
def running_chain() -> Iterator[Mapping[str, str]]:
    """Give the EMRSYNC_… variables of a provisioned chain; one that the environment names is used and left running."""
    given = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    if all(f"{PREFIX}{name}" in given for name in NEEDED):
        yield given
        return
    with compose_chain() if docker_answers() else native_chain() as variables:
        yield variables


def docker_answers() -> bool:
    """Tell whether a Docker daemon and its compose plugin are there."""
    if shutil.which("docker") is None:
        return False
    asked = (["docker", "info"], ["docker", "compose", "version"])
    try:
        return all(
            subprocess.run(words, capture_output=True, check=False, timeout=20).returncode == 0 for words in asked
        )
    except subprocess.TimeoutExpired:
        return False


@contextlib.contextmanager
def native_chain() -> Iterator[Mapping[str, str]]:
    """Give the variables of a stack of our own, and where it is, for tests that stop and kill its servers."""
    with scratch_stack(print) as stack:
        yield {**stack.env(), STACK_HOME: str(stack.layout.home)}


@contextlib.contextmanager
def breakable_stack(chain: Mapping[str, str]) -> Iterator[Stack]:
    """Give the chain's own stack, or another one where the chain runs in containers or is somebody else's."""
    if STACK_HOME in chain:
        yield Stack(Path(chain[STACK_HOME]))
        return
    with scratch_stack(print) as stack:
        yield stack


@contextlib.contextmanager
def scratch_stack(report: Callable[[str], None], *, workers: int = 1) -> Iterator[Stack]:
    """Start a stack in a folder of its own, provision it, and leave nothing of it."""
    with tempfile.TemporaryDirectory(prefix="emrsync-test-") as folder:
        stack = Stack(Path(folder) / "stack", report=report)
        try:
            stack.up(workers=workers)
            provision(OperationsSettings.of(stack.env()), Choices(openemr_version=OPENEMR_VERSION), report=report)
            yield stack
        finally:
            stack.down(purge=True)


@contextlib.contextmanager
def compose_chain() -> Iterator[Mapping[str, str]]:
    """Start the servers of docker-compose.yml and its provisioning, and leave no container and no volume."""
    ports = {f"{PREFIX}{name.upper()}_PORT": str(any_free_port()) for name in _PORTS}
    # A project and ports of their own: somebody may have the chain up beside the tests.
    with _environment({"COMPOSE_PROJECT_NAME": "emrsync-test", **ports}):
        compose = DockerCompose(
            ROOT, compose_file_name="docker-compose.yml", build=True, wait=False, services=["provision"]
        )
        try:
            compose.start()
            _wait_provisioned(compose)
            yield _variables(compose)
        finally:
            # Or only provision would be taken down.
            compose.services = None
            compose.stop()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _wait_provisioned(compose: DockerCompose) -> None:
    deadline_s = time.monotonic() + COMPOSE_LIMIT_S
    while True:
        container = compose.get_container("provision", include_all=True)
        if container.State == "exited":
            break
        if time.monotonic() > deadline_s:
            raise AssertionError(f"provisioning took longer than {COMPOSE_LIMIT_S:.0f} s")
        time.sleep(0.5)
    if container.ExitCode != 0:
        output, errors = compose.get_logs("provision")
        raise AssertionError(f"provisioning failed with code {container.ExitCode}:\n{output}{errors}")


def _variables(compose: DockerCompose) -> Mapping[str, str]:
    address = {name: f"127.0.0.1:{compose.get_service_port(name, port)}" for name, port in _PORTS.items()}
    variables = {
        "CDC_USER": "emrsync_cdc",
        # As the worker sees them.
        "CDC_HOST": "postgres",
        "CDC_PORT": "5432",
        "KAFKA_BOOTSTRAP_SERVERS": address["kafka"],
        "CONNECT_URL": f"http://{address['connect']}",
    }
    for name, (path, service) in _SECRETS.items():
        variables[name] = _secret(path)
        if service:
            host, port = address[service].split(":")
            url = sa.make_url(variables[name]).set(host=host, port=int(port))
            variables[name] = url.render_as_string(hide_password=False)
    return {f"{PREFIX}{name}": value for name, value in variables.items()}


def _secret(path: str) -> str:
    argv = ["docker", "compose", "run", "--rm", "--no-deps", "-T", "--entrypoint", "cat", "provision"]
    done = subprocess.run([*argv, f"/run/emrsync/{path}"], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout
