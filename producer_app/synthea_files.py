"""Reading the CSV files that the Synthea patient simulator exports."""

from __future__ import annotations

import csv
import dataclasses
import enum
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final


class SyntheaInputError(ValueError):
    """The folder or a file is not what Synthea exports; the message names file and column, never a value."""


class SourceFile(enum.StrEnum):
    """The files that are read, in the order of their import."""

    PATIENTS = "patients.csv"
    ENCOUNTERS = "encounters.csv"
    MEDICATIONS = "medications.csv"
    PROCEDURES = "procedures.csv"
    IMAGING_STUDIES = "imaging_studies.csv"


REQUIRED_COLUMNS: Final[Mapping[SourceFile, tuple[str, ...]]] = {
    SourceFile.PATIENTS: ("Id", "BIRTHDATE", "FIRST", "LAST", "GENDER"),
    SourceFile.ENCOUNTERS: ("Id", "START", "STOP", "PATIENT", "ENCOUNTERCLASS", "DESCRIPTION"),
    SourceFile.MEDICATIONS: ("START", "STOP", "PATIENT", "ENCOUNTER", "CODE", "DESCRIPTION"),
    SourceFile.PROCEDURES: ("START", "PATIENT", "ENCOUNTER", "CODE", "DESCRIPTION"),
    SourceFile.IMAGING_STUDIES: ("Id", "DATE", "PATIENT", "ENCOUNTER", "MODALITY_DESCRIPTION"),
}
"""Columns without which a file cannot be mapped; others are used where they are there."""

FORMER_NAMES: Final[Mapping[SourceFile, Mapping[str, str]]] = {SourceFile.PROCEDURES: {"DATE": "START"}}
"""What a column was called in exports of before 2021, by which name it has now."""

FIELD_CHARACTERS_MAX: Final = 131_072
"""The longest field; a missing quote would otherwise read the rest of the file into one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One row: column name to text, without blank fields; torn when it has more or fewer fields than the header."""

    fields: Mapping[str, str]
    torn: bool


def folder_of(given: Path) -> Path:
    """Find the folder with the files: the one given, or `csv` in it, where Synthea puts them.

    Raises:
        SyntheaInputError: neither holds all files.
    """
    for folder in (given, given / "csv"):
        if all((folder / name).is_file() for name in SourceFile):
            return folder
    present = given / "csv" if (given / "csv").is_dir() else given
    missing = [name.value for name in SourceFile if not (present / name).is_file()]
    raise SyntheaInputError(f"{given}: has no {', '.join(missing)}; give the folder of a Synthea CSV export")


def read(folder: Path, file: SourceFile) -> Iterator[Row]:
    """Read one file row by row.

    Raises:
        SyntheaInputError: a required column is absent, or the file is no UTF-8 CSV.
    """
    try:
        # A spreadsheet's copy begins with a byte order mark.
        with (folder / file).open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            former = FORMER_NAMES.get(file, {})
            names = [former.get(name, name) for name in next(reader, [])]
            missing = [name for name in REQUIRED_COLUMNS[file] if name not in names]
            if missing:
                raise SyntheaInputError(f"{file}: has no column {', '.join(missing)}")
            for cells in reader:
                filled = {name: cell.strip() for name, cell in zip(names, cells, strict=False) if cell.strip()}
                if cells:
                    yield Row(filled, torn=len(cells) != len(names))
    except UnicodeDecodeError:
        # The cause holds the bytes.
        raise SyntheaInputError(f"{file}: is not UTF-8") from None
    except csv.Error as error:
        raise SyntheaInputError(f"{file}: is no CSV near line {reader.line_num}: {error}") from error
    except OSError as error:
        raise SyntheaInputError(f"{file}: cannot be read: {error.strerror}") from error
