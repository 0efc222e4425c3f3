"""The commands `emrsync app …`, as far as they need no database."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from connectors.config import SettingsError
from operations import app_commands
from producer_app.synthea import FileReport, Report
from producer_app.synthea_files import SourceFile

SAMPLE = Path(__file__).parents[2] / "synthea_sample"


@pytest.fixture(autouse=True)
def _application_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMRSYNC_APP_URL", "postgresql+psycopg://app:Sesame@127.0.0.1:1/clinic")


def report(refused: int) -> Report:
    """Give the report of an import with so many refused rows."""
    file = FileReport(
        file=SourceFile.PATIENTS,
        rows=3,
        created=3 - refused,
        updated=0,
        unchanged=0,
        joined=0,
        refused={"Id: is blank": refused} if refused else {},
        notes={"RACE: has no OpenEMR option, left out": 1},
    )
    return Report(files=(file,), entities=3, outbox_rows=3, seconds=1.5)


def test_a_folder_that_is_no_export_is_wrong_use(tmp_path: Path) -> None:
    """Exit code 2, and the message names what is missing."""
    result = CliRunner().invoke(app_commands.app, ["import", "synthea", str(tmp_path)], env={"COLUMNS": "300"})

    assert result.exit_code == 2
    assert "patients.csv" in result.stderr


def test_a_missing_setting_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The root of the commands turns it into a message."""
    monkeypatch.delenv("EMRSYNC_APP_URL")

    result = CliRunner().invoke(app_commands.app, ["import", "synthea", str(SAMPLE)])

    assert isinstance(result.exception, SettingsError)
    assert "EMRSYNC_APP_URL" in str(result.exception)


@pytest.mark.parametrize(("refused", "code"), [(0, 0), (1, 1)])
def test_the_table_names_each_reason_and_the_exit_code_tells_of_refusals(
    monkeypatch: pytest.MonkeyPatch, refused: int, code: int
) -> None:
    """A note alone is no reason to fail."""
    monkeypatch.setattr(app_commands, "import_folder", lambda *_arguments, **_options: report(refused))

    result = CliRunner().invoke(app_commands.app, ["import", "synthea", str(SAMPLE)], env={"COLUMNS": "200"})

    assert result.exit_code == code
    assert ("refused: patients.csv: Id: is blank (1 rows)" in result.stdout) == bool(refused)
    assert "note: patients.csv: RACE: has no OpenEMR option, left out (1 values)" in result.stdout
    assert "3 entities in 1.5 s (2/s), 3 outbox rows" in result.stdout


def test_json_is_the_report_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a script can read it, with progress neither before nor after."""
    monkeypatch.setattr(app_commands, "import_folder", lambda *_arguments, **_options: report(0))

    result = CliRunner().invoke(app_commands.app, ["import", "synthea", str(SAMPLE), "--json"])

    assert result.exit_code == 0
    assert json.loads(result.output)["files"][0]["notes"] == {"RACE: has no OpenEMR option, left out": 1}
