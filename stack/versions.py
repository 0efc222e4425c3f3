"""The one list of versions, read from versions.toml."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

VERSIONS_FILE = Path(__file__).parent / "versions.toml"


def maven_versions(path: Path = VERSIONS_FILE) -> Mapping[str, str]:
    """Return the versions of everything that comes through Maven, by the name that the poms use before `.version`."""
    with path.open("rb") as file:
        return {str(name): str(version) for name, version in tomllib.load(file)["maven"].items()}


def maven_properties(path: Path = VERSIONS_FILE) -> tuple[str, ...]:
    """Return the `-Dname.version=…` arguments that give the poms their versions."""
    return tuple(f"-D{name}.version={version}" for name, version in sorted(maven_versions(path).items()))
