"""One list of versions for everything that comes through Maven."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stack import artifacts
from stack.versions import VERSIONS_FILE, maven_properties, maven_versions

POMS = sorted(artifacts.STACK_DIR.glob("*/pom.xml"))


@pytest.mark.parametrize("pom", POMS, ids=lambda pom: pom.parent.name)
def test_poms_take_every_version_from_the_list(pom: Path) -> None:
    """A literal version in a pom would be a second list."""
    versions = re.findall(r"<version>(.*?)</version>", pom.read_text(encoding="utf-8"))[1:]
    known = {f"${{{name}.version}}" for name in maven_versions()}

    assert versions
    assert set(versions) <= known


def test_no_version_is_listed_in_vain() -> None:
    """Each entry is used by some pom."""
    text = "".join(pom.read_text(encoding="utf-8") for pom in POMS)
    unused = [name for name in maven_versions() if f"${{{name}.version}}" not in text]

    assert unused == []


def test_maven_gets_the_versions_as_properties() -> None:
    """Kafka's is the one that everything else follows."""
    assert f"-Dkafka.version={maven_versions()['kafka']}" in maven_properties()


def test_an_artifacts_folder_changes_with_its_pom_and_its_connector(tmp_path: Path) -> None:
    """Clones with different poms share a cache without mixing jars."""
    pom = tmp_path / "pom.xml"
    pom.write_text("<project/>", encoding="utf-8")
    first = artifacts.Artifact("debezium-postgres", pom, connector="postgres").digest
    other_connector = artifacts.Artifact("debezium-postgres", pom, connector="mysql").digest
    pom.write_text("<project></project>", encoding="utf-8")
    other_pom = artifacts.Artifact("debezium-postgres", pom, connector="postgres").digest

    assert len({first, other_connector, other_pom}) == 3
    assert VERSIONS_FILE.is_file()
