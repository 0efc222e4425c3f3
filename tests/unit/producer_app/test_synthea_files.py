"""Reading CSV files that are, and are not, what Synthea writes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from producer_app.synthea_files import REQUIRED_COLUMNS, SourceFile, SyntheaInputError, folder_of, read

SAMPLE = Path(__file__).parents[2] / "synthea_sample"


def write_patients(folder: Path, content: bytes) -> None:
    """Write a patients.csv."""
    (folder / SourceFile.PATIENTS).write_bytes(content)


def test_the_csv_folder_inside_the_given_one_is_found(tmp_path: Path) -> None:
    """Synthea is given a folder and puts `csv` into it; people name either."""
    shutil.copytree(SAMPLE, tmp_path / "csv")

    assert folder_of(tmp_path) == tmp_path / "csv"
    assert folder_of(tmp_path / "csv") == tmp_path / "csv"


def test_a_folder_that_lacks_files_is_refused_with_their_names(tmp_path: Path) -> None:
    """Half an export would look like a whole one."""
    shutil.copytree(SAMPLE, tmp_path / "csv")
    (tmp_path / "csv" / SourceFile.PROCEDURES).unlink()

    with pytest.raises(SyntheaInputError, match=r"has no procedures\.csv; give the folder"):
        folder_of(tmp_path)


def test_a_byte_order_mark_blank_fields_and_blank_lines_are_no_matter(tmp_path: Path) -> None:
    """Files pass through spreadsheets."""
    write_patients(tmp_path, b"\xef\xbb\xbfId,BIRTHDATE,FIRST,LAST,GENDER\r\n\r\np1,, Ada ,B,F\r\n")

    rows = list(read(tmp_path, SourceFile.PATIENTS))

    assert [(row.fields, row.torn) for row in rows] == [
        ({"Id": "p1", "FIRST": "Ada", "LAST": "B", "GENDER": "F"}, False)
    ]


@pytest.mark.parametrize("line", [b"p1,2000-01-01,Ada,B", b"p1,2000-01-01,Ada,B,F,more"])
def test_a_row_of_another_length_is_torn(tmp_path: Path, line: bytes) -> None:
    """Its values would stand under wrong names."""
    write_patients(tmp_path, b"Id,BIRTHDATE,FIRST,LAST,GENDER\n" + line + b"\n")

    assert [row.torn for row in read(tmp_path, SourceFile.PATIENTS)] == [True]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "patients.csv: has no column Id, BIRTHDATE, FIRST, LAST, GENDER"),
        (b"Id,FIRST,LAST,GENDER\n", "patients.csv: has no column BIRTHDATE"),
        (b"Id,BIRTHDATE,FIRST,LAST,GENDER\np1,2000-01-01,\xff,B,F\n", "patients.csv: is not UTF-8"),
        (b'Id,BIRTHDATE,FIRST,LAST,GENDER\np1,"2000-01-01,Ada,B,F\n', "patients.csv: is no CSV near line"),
    ],
    ids=["empty", "column", "latin-1", "quote"],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path, content: bytes, said: str) -> None:
    """And no content of it is told."""
    write_patients(tmp_path, content)

    with pytest.raises(SyntheaInputError, match=said) as caught:
        list(read(tmp_path, SourceFile.PATIENTS))

    assert "Ada" not in str(caught.value)


def test_the_sample_has_every_required_column() -> None:
    """The other tests rest on it."""
    for file in SourceFile:
        header = (SAMPLE / file).read_text(encoding="utf-8").splitlines()[0].split(",")

        assert set(REQUIRED_COLUMNS[file]) <= set(header)
