"""What servers need on this machine before they can start: Debian packages, and jars by Maven."""

from collections.abc import Callable, Collection

from stack.artifacts import DEBEZIUM, JMX, KAFKA, cache_folder, fetch
from stack.config import StackSettings
from stack.packages import ensure_packages
from stack.servers import needed_packages


def install(services: Collection[str], report: Callable[[str], None]) -> None:
    """Install what the named services lack; nothing is started, and nothing happens when all is there.

    Raises:
        PackagesMissingError: this user may not install; the message holds the command to run.
        CommandFailedError: apt or Maven failed.
    """
    ensure_packages(needed_packages(services), report)
    if "kafka" not in services:
        return
    settings = StackSettings()
    agent = () if settings.jmx_port is None else (JMX,)
    for artifact in (KAFKA, *DEBEZIUM, *agent):
        fetch(artifact, cache_folder(settings), report)
