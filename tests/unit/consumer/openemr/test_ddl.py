"""The generated DDL says exactly what the facts state."""

from __future__ import annotations

import dataclasses

import pytest

from consumer.openemr.installation.ddl import column_definition, create_table
from consumer.openemr.installation.schema import (
    Column,
    InstallationError,
    Table,
    UnknownVersionError,
    VersionRow,
    read_schema,
    versions,
)

PLAIN = Column(name="v", type="int(11)", nullable=True, default=None, auto_increment=False, on_update=None)
NOTES = Table(
    name="notes",
    engine="InnoDB",
    columns=(
        dataclasses.replace(PLAIN, name="id", nullable=False, auto_increment=True),
        dataclasses.replace(PLAIN, name="body", type="text"),
    ),
    primary_key=("id",),
    unique={"one_body": ("id", "body(20)")},
    indexes={"body": ("body(10)",)},
)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        pytest.param(PLAIN, "`v` int(11) NULL DEFAULT NULL", id="nullable"),
        pytest.param(dataclasses.replace(PLAIN, nullable=False), "`v` int(11) NOT NULL", id="no default at all"),
        pytest.param(
            dataclasses.replace(PLAIN, nullable=False, default="0"), "`v` int(11) NOT NULL DEFAULT '0'", id="number"
        ),
        pytest.param(
            dataclasses.replace(PLAIN, type="varchar(31)", nullable=False, default=""),
            "`v` varchar(31) NOT NULL DEFAULT ''",
            id="empty text is a default",
        ),
        pytest.param(
            dataclasses.replace(PLAIN, type="varchar(9)", default="it's \\"),
            "`v` varchar(9) NULL DEFAULT 'it''s \\\\'",
            id="quotes and backslashes",
        ),
        pytest.param(
            dataclasses.replace(
                PLAIN,
                type="datetime",
                nullable=False,
                default="CURRENT_TIMESTAMP",
                default_is_expression=True,
                on_update="CURRENT_TIMESTAMP",
            ),
            "`v` datetime NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP",
            id="expression",
        ),
        pytest.param(
            dataclasses.replace(PLAIN, type="varchar(20)", default="CURRENT_TIMESTAMP"),
            "`v` varchar(20) NULL DEFAULT 'CURRENT_TIMESTAMP'",
            id="text that looks like an expression",
        ),
        pytest.param(
            dataclasses.replace(PLAIN, nullable=False, auto_increment=True),
            "`v` int(11) NOT NULL AUTO_INCREMENT",
            id="counter",
        ),
        pytest.param(dataclasses.replace(PLAIN, name="a`b"), "`a``b` int(11) NULL DEFAULT NULL", id="odd name"),
    ],
)
def test_a_column_is_defined_as_stated(column: Column, expected: str) -> None:
    """Each fact of a column has its words, and none is said that is not a fact."""
    assert column_definition(column) == expected


def test_a_table_has_its_columns_keys_and_engine_in_order() -> None:
    """The whole statement, with prefix lengths of keys."""
    expected = (
        "CREATE TABLE IF NOT EXISTS `notes` (\n"
        "  `id` int(11) NOT NULL AUTO_INCREMENT,\n"
        "  `body` text NULL DEFAULT NULL,\n"
        "  PRIMARY KEY (`id`),\n"
        "  UNIQUE KEY `one_body` (`id`, `body`(20)),\n"
        "  KEY `body` (`body`(10))\n"
        ") ENGINE=InnoDB"
    )

    assert create_table(NOTES) == expected


def test_a_table_without_a_primary_key_gets_none() -> None:
    """patient_data, sequences and version have none."""
    bare = dataclasses.replace(NOTES, primary_key=(), unique={}, indexes={})

    assert "KEY" not in create_table(bare)


@pytest.mark.parametrize("part", ["body(20", "body(x)", "", "a b", "body(2)(3)"])
def test_a_key_part_that_is_none_is_refused(part: str) -> None:
    """A typing error in the facts must not become an identifier."""
    with pytest.raises(InstallationError, match="key part"):
        create_table(dataclasses.replace(NOTES, indexes={"odd": (part,)}))


def test_all_versions_are_known_oldest_first() -> None:
    """The list is the contract of the installer."""
    expected = ("6.0.0", "6.1.0", "7.0.0", "7.0.1", "7.0.2", "7.0.3", "7.0.4", "8.0.0", "8.1.0", "8.2.0-dev")

    assert versions() == expected


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("6.0.0", VersionRow(6, 0, 0, 4, "", 376, 9)),
        ("7.0.3", VersionRow(7, 0, 3, 3, "", 506, 12)),
        ("7.0.4", VersionRow(7, 0, 5, 0, "-dev", 529, 12)),
        ("8.2.0-dev", VersionRow(8, 2, 0, 0, "-dev", 541, 13)),
    ],
)
def test_the_version_row_has_the_numbers_of_the_source(version: str, expected: VersionRow) -> None:
    """An installer writes what version.php says, not the name of the release."""
    assert read_schema(version).version_row == expected


def test_an_unknown_version_is_refused_with_the_known_ones() -> None:
    """A typing error must not look like a missing file."""
    with pytest.raises(UnknownVersionError, match=r"5\.0\.2 is unknown; known are 6\.0\.0, 6\.1\.0"):
        read_schema("5.0.2")
