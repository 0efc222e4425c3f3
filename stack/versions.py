"""The one list of versions, read from versions.toml."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

VERSIONS_FILE = Path(__file__).parent / "versions.toml"


def maven_versions(path: Path = VERSIONS_FILE) -> Mapping[str, str]:
    """Return the versions of everything that comes through Maven, by the name that the poms use before `.version`."""
    return _section("maven", path)


def image_tags(path: Path = VERSIONS_FILE) -> Mapping[str, str]:
    """Return the tag of every base image, by the image's name."""
    return _section("images", path)


def maven_properties(path: Path = VERSIONS_FILE) -> tuple[str, ...]:
    """Return the `-Dname.version=…` arguments that give the poms their versions."""
    return tuple(f"-D{name}.version={version}" for name, version in sorted(maven_versions(path).items()))


def _section(name: str, path: Path) -> Mapping[str, str]:
    with path.open("rb") as file:
        return {str(key): str(value) for key, value in tomllib.load(file)[name].items()}
