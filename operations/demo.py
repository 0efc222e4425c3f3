"""The whole job on real servers and simulated patients, from an empty machine to a table of what arrived."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

from connectors.outbox import EntityType
from operations import members
from operations.config import OperationsSettings
from operations.demo_changes import make_changes, patient_states
from operations.demo_input import population
from operations.demo_outbox import (
    Standing,
    by_kind,
    last_seq,
    live_in_app,
    reading,
    shown_by_openemr,
    standing,
    timing,
)
from operations.demo_result import DemoResult, KindResult
from operations.errors import OperationError
from operations.kafka_group import GroupAdmin
from operations.provision import Choices as ProvisionChoices
from operations.provision import provision
from operations.where import read_way
from producer_app import bootstrap
from producer_app.bootstrap import Application
from producer_app.config import AppSettings
from producer_app.synthea import Report, import_folder
from producer_app.targets import TargetChoice
from stack import SERVICES, Stack, processes
from stack.packages import ensure_packages
from stack.servers import needed_packages

MADE_BY: Final = "made-by-demo"
"""The file that marks a home as one that a later demo may remove."""

END_LIMIT_S: Final = 10.0
"""After an error, the longest wait for what runs in the background."""

_LOOK_S: Final = 0.25

_Value = TypeVar("_Value")


class DemoError(OperationError):
    """The demo cannot start or go on; the message says what to do."""


class _StoppedError(Exception):
    """The person in front of the screen does not want the rest, or it would be for nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class DemoChoices:
    """What a caller may choose.

    Attributes:
        home: folder of the demo's own stack.
        patients, seed: of the simulation.
        target: one event per change, or one for each target system.
        consumers: members of the group.
        changes, rate_per_s: of the phase with single changes.
        settle_limit_s: how long to wait, after each phase, until every row is settled.
        openemr_version: the shape of OpenEMR's database.
        keep: leave everything running.
    """

    home: Path
    patients: int
    seed: int
    target: TargetChoice
    consumers: int
    changes: int
    rate_per_s: float
    settle_limit_s: float
    openemr_version: str
    keep: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """One look at a phase: what it is doing, and how the outbox stands."""

    phase: str
    elapsed_s: float
    standing: Standing
    totals: Mapping[EntityType, int]


Say = Callable[[str], None]
Show = Callable[[Seen], None]
Watch = Callable[[], contextlib.AbstractContextManager[Show]]


def run(choices: DemoChoices, *, say: Say, watch: Watch) -> DemoResult:
    """Do all of it on an empty stack of its own, and stop that stack in every case unless it shall be kept.

    Raises:
        DemoError: the home is somebody else's.
        StackError, OperationError, AppError: a part failed; the message says which.
    """
    stack = Stack(choices.home, say)
    remove_earlier(stack, say)
    finished = False
    try:
        result = _run(choices, stack, say=say, watch=watch)
        finished = not result.problems
    finally:
        if not (choices.keep and finished):
            say("stopping everything")
            stack.down(purge=finished)
    return result


def remove_earlier(stack: Stack, say: Say) -> None:
    """Make the home empty and mark it; what is there is removed only if a demo made it.

    Raises:
        DemoError: the home holds something else.
    """
    home = stack.layout.home
    if home.exists() and any(home.iterdir()):
        if not (home / MADE_BY).exists():
            raise DemoError(f"{home} was not made by a demo: give --home with another folder, or remove it")
        say(f"removing what an earlier demo left in {home}")
        stack.down(purge=True)
        shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True, exist_ok=True)
    (home / MADE_BY).touch()


def _run(choices: DemoChoices, stack: Stack, *, say: Say, watch: Watch) -> DemoResult:
    started = time.monotonic()
    ensure_packages(needed_packages(SERVICES), say)
    stop = threading.Event()
    report = _until(stop, say)
    with _in_background(
        lambda: population(patients=choices.patients, seed=choices.seed, report=report), stop
    ) as folder:
        stack.up()
        variables = stack.env()
        settings = OperationsSettings.of(variables)
        provision(settings, ProvisionChoices(openemr_version=choices.openemr_version), report=say)
        export = folder.result()
    application = bootstrap.build(AppSettings.read(app_url=settings.text("app_url"), app_targets=choices.target))
    try:
        kafka = GroupAdmin(settings.text("kafka_bootstrap_servers"))
        members.scale(stack, settings, choices.consumers, kafka=kafka, say=lambda _line: None)
        members.start_retrier(stack, settings)
        say(f"{choices.consumers} consumers and a retrier run")
        return _Phases(choices, settings, application, watch, started).all(export)
    finally:
        application.close()


@dataclasses.dataclass(slots=True)
class _Phases:
    """The phases on a running chain, and how long each took."""

    choices: DemoChoices
    settings: OperationsSettings
    application: Application
    watch: Watch
    started: float
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def all(self, export: Path) -> DemoResult:
        """Import, change single records, and look at what arrived."""
        self.seconds["servers, accounts, patients"] = time.monotonic() - self.started
        with reading(self.settings) as connection:
            imported = self._watched("import", lambda totals, stop: self._import(export, totals, stop))
            border = last_seq(connection)
            self._watched("single changes", self._change)
            backlog = timing(connection, after=0, until=border)
            single = timing(connection, after=border, until=last_seq(connection))
            outbox = by_kind(connection)
        in_app, openemr = live_in_app(self.application.engine), shown_by_openemr(self.settings)
        kinds = tuple(KindResult(kind, rows, in_app[kind], openemr[kind]) for kind, rows in outbox.items())
        patient_id = str(patient_states(self.application.engine)[0]["patient_id"])
        way = read_way(self.settings, patient_id)
        self.seconds["all"] = time.monotonic() - self.started
        return DemoResult(imported, kinds, backlog, single, self.choices.rate_per_s, way, seconds=dict(self.seconds))

    def _import(self, export: Path, totals: dict[EntityType, int], stop: threading.Event) -> Report:
        def progress(entity_type: EntityType, _done: int, total: int) -> None:
            if stop.is_set():
                raise _StoppedError
            totals[entity_type] = total * len(self.choices.target.systems)

        return import_folder(self.application.unit_of_work(), export, progress=progress)

    def _change(self, _totals: dict[EntityType, int], stop: threading.Event) -> None:
        def made(_number: int) -> None:
            if stop.is_set():
                raise _StoppedError

        make_changes(
            self.application.unit_of_work(),
            patient_states(self.application.engine),
            changes=self.choices.changes,
            rate_per_s=self.choices.rate_per_s,
            targets=None,
            made=made,
        )

    def _watched(self, phase: str, work: Callable[[dict[EntityType, int], threading.Event], _Value]) -> _Value:
        """Show the outbox while the work is done, and on until every row is settled or the limit has passed."""
        totals: dict[EntityType, int] = {}
        stop = threading.Event()
        begun = time.monotonic()
        with (
            _in_background(lambda: work(totals, stop), stop) as doing,
            reading(self.settings) as connection,
            self.watch() as show,
        ):
            committed_at: float | None = None
            while True:
                settled = doing.done()
                seen = Seen(phase, time.monotonic() - begun, standing(connection), totals)
                show(seen)
                if settled:
                    committed_at = committed_at or time.monotonic()
                    overdue = time.monotonic() - committed_at > self.choices.settle_limit_s
                    if seen.standing.unsettled == 0 or overdue or doing.exception():
                        break
                time.sleep(_LOOK_S)
        self.seconds[phase] = time.monotonic() - begun
        return doing.result()


@contextlib.contextmanager
def _in_background(work: Callable[[], _Value], stop: threading.Event) -> Iterator[concurrent.futures.Future[_Value]]:
    """Do work in a thread; leaving by an error asks it to stop, and ends the programs it has started."""
    doing: concurrent.futures.Future[_Value] = concurrent.futures.Future()

    def do() -> None:
        try:
            doing.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            doing.set_exception(error)

    # A daemon, since one that waits for another command's lock notices nothing, and has nothing that must be ended.
    threading.Thread(target=do, daemon=True).start()
    try:
        yield doing
    except BaseException:
        stop.set()
        deadline_s = time.monotonic() + END_LIMIT_S
        while not doing.done() and time.monotonic() < deadline_s:
            processes.send(processes.family(os.getpid())[1:], signal.SIGTERM)
            concurrent.futures.wait([doing], timeout=_LOOK_S)
        raise


def _until(stop: threading.Event, say: Say) -> Say:
    """Say what is said, until there is nothing more to do."""

    def said(line: str) -> None:
        if stop.is_set():
            raise _StoppedError
        say(line)

    return said
