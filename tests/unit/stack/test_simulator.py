"""The simulator's command line and what is asked of its output."""

from __future__ import annotations

from pathlib import Path

import pytest

from stack.errors import CommandFailedError
from stack.synthea import simulator


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Keep command lines instead of running them."""
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(simulator, "ensure_packages", lambda *_: None)
    monkeypatch.setattr(simulator, "fetch", lambda *_: Path("/jars"))
    monkeypatch.setattr(simulator, "run", lambda argv, **_: commands.append(argv))
    return commands


def test_the_seed_and_fixed_days_decide_everything(ran: list[tuple[str, ...]], tmp_path: Path) -> None:
    """The day of the run must not show in the files, nor the number of cores."""
    (tmp_path / "csv").mkdir()
    for name in simulator.FILES:
        (tmp_path / "csv" / name).write_text("Id\n", encoding="utf-8")
    csv = simulator.simulate(tmp_path, patients=7, seed=42, report=lambda _: None)

    assert csv == tmp_path / "csv"
    command = " ".join(ran[0])
    assert " App -p 7 -s 42 -cs 1 -r 20260101 -e 20260101 " in command
    assert "--generate.thread_pool_size=1" in command
    assert f"--exporter.baseDirectory={tmp_path}" in command


def test_a_file_that_is_left_out_is_named(ran: list[tuple[str, ...]], tmp_path: Path) -> None:
    """An import of nothing would look like success."""
    with pytest.raises(CommandFailedError, match=r"lacks patients\.csv, encounters\.csv"):
        simulator.simulate(tmp_path, patients=1, seed=1, report=lambda _: None)


def test_a_number_of_patients_without_sense_is_refused(ran: list[tuple[str, ...]], tmp_path: Path) -> None:
    """Before anything is downloaded."""
    with pytest.raises(ValueError, match="patients"):
        simulator.simulate(tmp_path, patients=0, seed=1, report=lambda _: None)

    assert ran == []
