"""The demo's arithmetic and verdict, and what it refuses to remove."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.outbox import EntityType, Status
from consumer.openemr.visibility import VisibleCount
from operations import demo
from operations.demo import MADE_BY, DemoChoices, DemoError, remove_earlier
from operations.demo_outbox import Failure, KindRows, Standing, _percentile
from operations.demo_result import KindResult
from producer_app.targets import TargetChoice
from stack import Stack
from stack.commands import run as run_program
from stack.errors import ServiceNotReadyError
from stack.locking import exclusive


def kind(
    *, rows: int = 4, done: int = 4, failures: tuple[Failure, ...] = (), openemr: VisibleCount | None = None
) -> KindResult:
    """Give the result of two patients for two target systems."""
    return KindResult("patient", KindRows(rows, done, failures), 2, openemr or VisibleCount(2, 2, 2))


def test_all_rows_done_and_shown_is_no_problem() -> None:
    """Two rows per entity, one per target system."""
    assert () == kind().problems


def test_what_did_not_arrive_is_named() -> None:
    """Each kind of absence has its own words."""
    failure = Failure("too_long", 1, "family_name: longer than the column")

    assert ("patient: 1 rows failed: too_long: family_name: longer than the column",) == kind(
        done=3, failures=(failure,)
    ).problems
    assert ("patient: 1 rows are not settled",) == kind(done=3).problems
    assert ("patient: OpenEMR has 1 of the application's 2",) == kind(openemr=VisibleCount(1, 1, 1)).problems
    assert ("patient: OpenEMR's screens show 1 of 2",) == kind(openemr=VisibleCount(2, 1, 2)).problems
    assert ("patient: OpenEMR's FHIR queries show 0 of 2",) == kind(openemr=VisibleCount(2, 2, 0)).problems


def test_an_openemr_without_the_fhir_resource_is_no_problem() -> None:
    """Before 7.0.4 orders are on the screens only."""
    assert () == kind(openemr=VisibleCount(2, 2, None)).problems


def test_rows_are_counted_by_type_and_status() -> None:
    """Unsettled is what may still become done or failed."""
    seen = Standing(
        {
            (EntityType.PATIENT, Status.DONE): 5,
            (EntityType.PATIENT, Status.PENDING): 2,
            (EntityType.ORDER, Status.PROCESSING): 1,
            (EntityType.ORDER, Status.FAILED): 4,
        }
    )

    assert (12, 7, 5, 3) == (
        seen.count(),
        seen.count(EntityType.PATIENT),
        seen.count(None, Status.DONE),
        seen.unsettled,
    )


def test_a_percentile_is_one_of_the_values() -> None:
    """The smallest value that so many per cent do not exceed."""
    hundred = [float(value) for value in range(1, 101)]

    assert (50.0, 95.0, 99.0) == tuple(_percentile(hundred, percent) for percent in (50, 95, 99))
    assert (7.0, 7.0) == tuple(_percentile([7.0], percent) for percent in (50, 99))
    assert 2.0 == _percentile([1.0, 2.0, 3.0], 50)


def test_a_home_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    """Somebody's stack, or anything else."""
    (tmp_path / "state.json").write_text("{}", encoding="utf-8")

    with pytest.raises(DemoError, match="was not made by a demo"):
        remove_earlier(Stack(tmp_path), print)

    assert ["state.json"] == [path.name for path in tmp_path.iterdir()]


def test_what_an_earlier_demo_left_is_removed(tmp_path: Path) -> None:
    """Every demo starts from nothing."""
    home = tmp_path / "home"
    home.mkdir()
    (home / MADE_BY).touch()
    (home / "logs").mkdir()

    remove_earlier(Stack(home), lambda _: None)

    assert [MADE_BY] == [path.name for path in home.iterdir()]


def simulates(_folder: Path, report: Callable[[str], None]) -> None:
    """Take a minute, in a program of its own, twice."""
    for _ in range(2):
        report("simulating")
        with contextlib.suppress(Exception):
            run_program(["sleep", "60"], limit_s=60)


def waits(folder: Path, report: Callable[[str], None]) -> None:
    """Wait for what another command holds."""
    with exclusive(folder / "lock", wait_limit_s=60, report=report):
        pass


@pytest.mark.parametrize("doing", [simulates, waits])
def test_servers_that_do_not_start_end_the_demo_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, doing: Callable[[Path, Callable[[str], None]], None]
) -> None:
    """The patients that are made meanwhile are not waited for, nor is another command that makes some."""
    said: list[str] = []

    def population(*, report: Callable[[str], None], **_: object) -> Path:
        doing(tmp_path, report)
        return tmp_path

    def up(_stack: Stack) -> None:
        while not said:
            time.sleep(0.01)
        time.sleep(0.1)  # the program has been started
        raise ServiceNotReadyError("kafka", "no answer", "")

    monkeypatch.setattr(demo, "END_LIMIT_S", 1.0)
    monkeypatch.setattr(demo, "ensure_packages", lambda *_: None)
    monkeypatch.setattr(demo, "population", population)
    monkeypatch.setattr(Stack, "up", up)
    choices = DemoChoices(tmp_path / "home", 1, 1, TargetChoice.BOTH, 1, 1, 1.0, 1.0, "8.2.0-dev", keep=False)
    begun = time.monotonic()

    with exclusive(tmp_path / "lock", wait_limit_s=1, report=print), pytest.raises(ServiceNotReadyError, match="kafka"):
        demo.run(choices, say=said.append, watch=lambda: contextlib.nullcontext(lambda _seen: None))

    assert time.monotonic() - begun < 5
    assert said[-1] == "stopping everything"


def test_what_runs_in_the_background_gives_its_result_or_its_error() -> None:
    """To whoever asks for it."""
    with demo._in_background(lambda: 7, threading.Event()) as doing:
        assert doing.result(timeout=5) == 7

    with demo._in_background(lambda: 1 // 0, threading.Event()) as failing, pytest.raises(ZeroDivisionError):
        failing.result(timeout=5)
