"""JVM programs fetched by Maven once per machine user, shared by all homes and clones."""

import hashlib
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stack.accounts import readable_by_others
from stack.commands import is_root, run
from stack.config import StackSettings, callers_environment
from stack.errors import CommandFailedError
from stack.locking import exclusive
from stack.versions import maven_properties, maven_versions

STACK_DIR = Path(__file__).parent
MACHINE_CACHE = Path("/var/cache/emrsync")
DOWNLOAD_LIMIT_S = 900
ABSENT_FOR_S = 24 * 3600


@dataclass(frozen=True)
class Artifact:
    """What one pom brings: jars, or an archive of them that is unpacked."""

    name: str
    pom: Path
    connector: str | None = None
    optional: bool = False

    @property
    def digest(self) -> str:
        """Twelve hex digits that change with the pom or any version."""
        content = self.pom.read_bytes() + " ".join(maven_properties()).encode() + (self.connector or "").encode()
        return hashlib.sha256(content).hexdigest()[:12]


KAFKA = Artifact("kafka", STACK_DIR / "kafka" / "pom.xml")
JMX = Artifact("jmx", STACK_DIR / "jmx" / "pom.xml")
SYNTHEA = Artifact("synthea", STACK_DIR / "synthea" / "pom.xml")
DEBEZIUM = (
    Artifact("debezium-postgres", STACK_DIR / "debezium" / "pom.xml", connector="postgres"),
    Artifact("debezium-mysql", STACK_DIR / "debezium" / "pom.xml", connector="mysql"),
    # Not every registry serves the MariaDB plugin, and PostgreSQL, the default source, does without it.
    Artifact("debezium-mariadb", STACK_DIR / "debezium" / "pom.xml", connector="mariadb", optional=True),
)


def cache_folder(settings: StackSettings) -> Path:
    """Return the folder for downloads; one that the servers' own users cannot read is passed over when root."""
    choice = settings.cache_choice()
    if is_root() and not readable_by_others(choice):
        return MACHINE_CACHE
    return choice


def folder_of(artifact: Artifact, cache: Path) -> Path:
    """Return the folder that holds the artifact once it has been fetched."""
    return cache / f"{artifact.name}-{artifact.digest}"


def fetch(artifact: Artifact, cache: Path, report: Callable[[str], None]) -> Path | None:
    """Return the folder that holds the artifact, downloading it at the first use; None if it is optional and absent.

    The folder appears whole or not at all, and two callers at once download it once.

    Raises:
        CommandFailedError: Maven could not bring it.
    """
    target = folder_of(artifact, cache)
    absent = target.with_name(f"{target.name}.absent")
    if target.is_dir():
        return target
    if _is_fresh(absent):
        return None
    if not cache.is_dir():
        cache.mkdir(parents=True)
        cache.chmod(0o755)
    with exclusive(cache / "download.lock", wait_limit_s=DOWNLOAD_LIMIT_S, report=report):
        if target.is_dir():
            return target
        report(f"downloading {artifact.name} {_version_of(artifact)} with Maven into {cache}")
        try:
            _download(artifact, target)
        except CommandFailedError as error:
            if not artifact.optional:
                raise
            if "was not found in" in str(error) or "Could not find artifact" in str(error):
                absent.touch()
            report(f"{artifact.name} is not served by the registry at hand: going on without it")
            return None
    return target


def _is_fresh(marker: Path) -> bool:
    return marker.exists() and time.time() - marker.stat().st_mtime < ABSENT_FOR_S


def _version_of(artifact: Artifact) -> str:
    return maven_versions()[artifact.name.split("-")[0]]


def _download(artifact: Artifact, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{artifact.name}-") as folder:
        jars = Path(folder) / "jars"
        argv = ["mvn", "--batch-mode", "--quiet", "--file", str(artifact.pom), *maven_properties()]
        if artifact.connector:
            argv.append(f"-Dconnector={artifact.connector}")
        argv += ["dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
        run(argv, limit_s=DOWNLOAD_LIMIT_S, environment=callers_environment(), directory=Path(folder))
        if artifact.connector:
            _unpack(jars, Path(folder) / "plugin")
            shutil.rmtree(jars)
            jars = Path(folder) / "plugin"
        _open_to_readers(jars)
        jars.rename(target)


def _open_to_readers(folder: Path) -> None:
    # Whatever the caller's umask: the servers' users read these files.
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _unpack(archives: Path, target: Path) -> None:
    target.mkdir()
    for archive in archives.glob("*.tar.gz"):
        with tarfile.open(archive) as tar:
            # Python 3.11.2 of Debian 12 has no filters yet; Maven has compared the archive with its checksum.
            if hasattr(tarfile, "data_filter"):
                tar.extraction_filter = tarfile.data_filter
            tar.extractall(target)  # noqa: S202 - as above
