"""supervisord of one home: its start, its programs over its XML-RPC interface, and its end."""

import contextlib
import http.client
import signal
import socket
import sys
import time
import xmlrpc.client  # the other end is our own supervisord behind a 0700 socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from stack import processes
from stack.commands import is_root, plain_environment, run, tail_of_file
from stack.errors import HomeNotUpError, ServiceNotReadyError, UnknownProgramError
from stack.layout import Layout, own_file
from stack.programs import Program

START_LIMIT_S = 15.0
CALL_LIMIT_S = 90.0
STOP_MARGIN_S = 10.0
_POLL_S = 0.05
_ALREADY_STARTED, _NOT_RUNNING, _BAD_NAME, _ALREADY_ADDED = 60, 70, 10, 90


@dataclass(frozen=True)
class ProgramState:
    """What supervisor knows of a program: its word for the state (RUNNING, STOPPED, BACKOFF, FATAL …), and why."""

    name: str
    state: str
    pid: int
    up_s: int
    reason: str


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=CALL_LIMIT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CALL_LIMIT_S)
        self.sock.connect(str(self._path))


class _SocketTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:  # noqa: ARG002
        # Kept where Transport.close looks for it.
        connection = _SocketConnection(self._path)
        self._connection = (None, connection)
        return connection


@dataclass(frozen=True)
class Supervisor:
    """The supervisord of one home; safe to call from several threads, as every call has its own connection."""

    layout: Layout
    home_id: str

    def is_up(self) -> bool:
        """Say whether supervisord answers."""
        try:
            return str(self._call("getState")["statename"]) == "RUNNING"
        except HomeNotUpError:
            return False

    def start(self) -> bool:
        """Start supervisord unless it runs, and say whether it was started; whatever a dead one left is removed.

        Raises:
            ServiceNotReadyError: it does not answer within the limit.
        """
        if self.is_up():
            return False
        self._end_leftovers()
        own_file(self.layout.supervisor_conf, self._configuration(), None)
        argv = [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(self.layout.supervisor_conf)]
        # A plain environment: servers must not depend on what the caller's shell had exported.
        run(argv, limit_s=START_LIMIT_S, environment=plain_environment(), directory=self.layout.home)
        deadline_s = time.monotonic() + START_LIMIT_S
        while not self.is_up():
            if time.monotonic() > deadline_s:
                tail = tail_of_file(self.layout.log_of("supervisord"))
                raise ServiceNotReadyError("supervisord", f"no answer within {START_LIMIT_S:.0f} s", tail)
            time.sleep(_POLL_S)
        return True

    def register(self, programs: Iterable[Program]) -> tuple[str, ...]:
        """Write the programs' configuration and make supervisor take it; changed ones are stopped, and named."""
        for program in programs:
            text = program.render(log=self.layout.log_of(program.name), home_id=self.home_id)
            own_file(self.layout.programs / f"{program.name}.conf", text, None)
        return self._take_configuration()

    def forget(self, name: str) -> None:
        """Stop a program and take it out of the configuration."""
        (self.layout.programs / f"{name}.conf").unlink(missing_ok=True)
        self._take_configuration()

    def states(self) -> tuple[ProgramState, ...]:
        """Return every registered program, or nothing when supervisord is down."""
        try:
            rows = self._call("getAllProcessInfo")
        except HomeNotUpError:
            return ()
        return tuple(_program_state(row) for row in rows)

    def state(self, name: str) -> ProgramState:
        """Return one program.

        Raises:
            UnknownProgramError: there is none of this name.
            HomeNotUpError: supervisord does not answer.
        """
        return _program_state(self._call("getProcessInfo", name))

    def start_program(self, name: str) -> None:
        """Ask for a start and return at once; nothing happens when it runs."""
        self._call("startProcess", name, False, ignore=_ALREADY_STARTED)

    def stop_program(self, name: str) -> None:
        """Ask for a stop and return at once; nothing happens when it is down."""
        self._call("stopProcess", name, False, ignore=_NOT_RUNNING)

    def wait_stopped(self, names: Iterable[str], limit_s: float) -> None:
        """Wait until none of the programs runs; supervisor itself kills one that outstays its stop limit."""
        wanted = frozenset(names)
        deadline_s = time.monotonic() + limit_s
        while time.monotonic() < deadline_s:
            if not any(state.name in wanted and state.pid for state in self.states()):
                return
            time.sleep(_POLL_S)

    def kill_program(self, name: str) -> tuple[int, ...]:
        """Kill a program and all its descendants with SIGKILL, so that supervisor leaves it down; return their pids.

        The program is frozen first: supervisor's stop marks it as wanted down, and the SIGTERM that comes with that
        mark must not be handled, or the death would be cleaner than a crash.
        """
        pid = self.state(name).pid
        if not pid:
            return ()
        processes.send([pid], signal.SIGSTOP)
        victims = processes.family(pid)
        processes.send(victims, signal.SIGSTOP)
        self.stop_program(name)
        processes.send(victims, signal.SIGKILL)
        processes.wait_gone(victims, STOP_MARGIN_S)
        self.wait_stopped([name], STOP_MARGIN_S)
        return victims

    def shut_down(self, limit_s: float) -> None:
        """End supervisord and with it every program; then end whatever carries this home's mark, and tidy up."""
        pid = processes.find_supervisor(self.layout.supervisor_conf)
        if pid is not None:
            with contextlib.suppress(HomeNotUpError):
                self._call("shutdown")
            if processes.wait_gone([pid], limit_s):
                processes.end([pid], term_limit_s=STOP_MARGIN_S)
        self._end_leftovers()

    def _end_leftovers(self) -> None:
        pid = processes.find_supervisor(self.layout.supervisor_conf)
        if pid is not None:
            processes.end([pid], term_limit_s=STOP_MARGIN_S)
        processes.end(processes.marked_processes(self.home_id), term_limit_s=STOP_MARGIN_S)
        self.layout.supervisor_pid.unlink(missing_ok=True)
        self.layout.supervisor_socket.unlink(missing_ok=True)

    def _take_configuration(self) -> tuple[str, ...]:
        added, changed, removed = self._call("reloadConfig")[0]
        for name in (*changed, *removed):
            self._call("stopProcessGroup", name, True, ignore=_BAD_NAME)
            self._call("removeProcessGroup", name, ignore=_BAD_NAME)
        for name in (*added, *changed):
            self._call("addProcessGroup", name, ignore=_ALREADY_ADDED)
        return tuple(changed)

    def _call(self, method: str, *arguments: object, ignore: int | None = None) -> Any:
        transport = _SocketTransport(self.layout.supervisor_socket)
        proxy = xmlrpc.client.ServerProxy("http://localhost", transport=transport)
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == ignore:
                return None
            if fault.faultCode == _BAD_NAME:
                raise UnknownProgramError(f"no program of this name in {self.layout.home}: {arguments[0]}") from fault
            raise HomeNotUpError(f"supervisord refused {method}: {fault.faultString}") from fault
        except (OSError, http.client.HTTPException) as error:
            raise HomeNotUpError(f"the stack in {self.layout.home} is not up") from error
        finally:
            transport.close()

    def _configuration(self) -> str:
        lines = [
            "[supervisord]",
            f"logfile={self.layout.log_of('supervisord')}",
            f"pidfile={self.layout.supervisor_pid}",
            f"directory={self.layout.home}",
            # Programs of other users write logs through supervisord, so nobody else needs to read them.
            "umask=022",
            f"childlogdir={self.layout.logs}",
            "[unix_http_server]",
            f"file={self.layout.supervisor_socket}",
            "chmod=0700",
            "[rpcinterface:supervisor]",
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
            "[include]",
            f"files={self.layout.programs}/*.conf",
        ]
        if is_root():
            # Said on purpose: it stays root to start each server as that server's own user.
            lines.insert(1, "user=root")
        return "\n".join(line.replace("%", "%%") for line in lines) + "\n"


def _program_state(row: object) -> ProgramState:
    fields = cast("dict[str, Any]", row)
    running_s = int(fields["now"]) - int(fields["start"]) if fields["pid"] else 0
    return ProgramState(
        name=str(fields["name"]),
        state=str(fields["statename"]),
        pid=int(fields["pid"]),
        up_s=running_s,
        reason=str(fields["spawnerr"]),
    )
