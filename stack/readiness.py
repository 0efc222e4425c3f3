"""Bringing servers up side by side, and waiting until each of them answers."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from stack.commands import tail_of_file
from stack.errors import ServiceNotReadyError
from stack.locking import exclusive
from stack.service import Service
from stack.supervision import Supervisor

_POLL_S = 0.1
_OVER = ("FATAL", "EXITED", "STOPPED", "UNKNOWN")
RUNNING_LIMIT_S = 15.0


class _AbandonedError(Exception):
    """The whole start was given up while this service was waited for."""


def bring_up(supervisor: Supervisor, services: Sequence[Service], report: Callable[[str], None]) -> tuple[str, ...]:
    """Start the services at once, wait until each answers, and return the names of those that were down.

    Raises:
        ServiceNotReadyError: one does not come up; it is stopped, and the others are left as they are.
        KeyboardInterrupt: no thread goes on; the caller decides what becomes of the started ones.
    """
    given_up = threading.Event()
    with ThreadPoolExecutor(max_workers=max(1, len(services))) as pool:
        futures = {pool.submit(_bring_up_one, supervisor, service, report, given_up): service for service in services}
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            failures = [error for future in futures if future.done() and (error := future.exception())]
            if failures:
                given_up.set()
                raise failures[0]
        except KeyboardInterrupt:
            given_up.set()
            raise
    return tuple(service.name for future, service in futures.items() if future.result())


def await_running(supervisor: Supervisor, name: str) -> None:
    """Wait until supervisor counts a program as running, which it does after a second of life.

    Raises:
        ServiceNotReadyError: it ended, or did not start in time.
    """
    deadline_s = time.monotonic() + RUNNING_LIMIT_S
    while (state := supervisor.state(name)).state != "RUNNING":
        if state.state in _OVER or time.monotonic() > deadline_s:
            raise _not_ready(supervisor, name, f"it is {state.state} ({state.reason})")
        time.sleep(_POLL_S)


def _bring_up_one(
    supervisor: Supervisor, service: Service, report: Callable[[str], None], given_up: threading.Event
) -> bool:
    # Per program, not per home: a worker that waits for a broker must not keep that broker from being started.
    lock = supervisor.layout.programs / f"{service.name}.lock"
    with exclusive(lock, wait_limit_s=service.ready_limit_s, report=report):
        return _bring_up_locked(supervisor, service, report, given_up)


def _bring_up_locked(
    supervisor: Supervisor, service: Service, report: Callable[[str], None], given_up: threading.Event
) -> bool:
    if supervisor.state(service.name).state == "RUNNING" and service.probe() is None:
        # An `up` that was killed may have left this step out.
        service.finish()
        return False
    began_s = time.monotonic()
    if not supervisor.state(service.name).pid:
        report(f"starting {service.name} on port {service.port}")
        service.prepare()
        if given_up.is_set():
            return False
        supervisor.start_program(service.name)
    try:
        _await_answer(supervisor, service, given_up)
    except ServiceNotReadyError:
        supervisor.stop_program(service.name)
        supervisor.wait_stopped([service.name], service.program.stop_limit_s)
        raise
    except _AbandonedError:
        return True
    service.finish()
    report(f"{service.name} answers after {time.monotonic() - began_s:.1f} s")
    return True


def _await_answer(supervisor: Supervisor, service: Service, given_up: threading.Event) -> None:
    deadline_s = time.monotonic() + service.ready_limit_s
    pid = 0
    while True:
        state = supervisor.state(service.name)
        # A restart by supervisor may fall between two looks.
        restarted = state.state == "RUNNING" and pid not in (0, state.pid)
        if state.state in _OVER or restarted:
            raise _not_ready(supervisor, service.name, f"it ended while starting ({state.reason or state.state})")
        pid = state.pid if state.state == "RUNNING" else pid
        problem = service.probe()
        # Supervisor counts it as running after a second of life; until then `status` would call it a problem.
        if problem is None and state.state == "RUNNING":
            return
        if time.monotonic() > deadline_s:
            raise _not_ready(
                supervisor, service.name, f"no answer within {service.ready_limit_s:.0f} s, last problem: {problem}"
            )
        if given_up.wait(_POLL_S):
            raise _AbandonedError


def _not_ready(supervisor: Supervisor, name: str, reason: str) -> ServiceNotReadyError:
    return ServiceNotReadyError(name, reason, tail_of_file(supervisor.layout.log_of(name)))
