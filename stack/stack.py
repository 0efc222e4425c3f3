"""One home of real servers on this machine: what a person or a test asks of it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

from stack import environment
from stack.accounts import server_accounts
from stack.artifacts import DEBEZIUM, JMX, KAFKA, cache_folder, folder_of
from stack.commands import tail_of_file
from stack.config import StackSettings
from stack.errors import HomeNotUpError, UnknownProgramError
from stack.installation import install
from stack.jmx.agent import JmxAgent
from stack.layout import Layout, create_folders, remove_home
from stack.locking import exclusive
from stack.ports import choose_ports, claim
from stack.programs import Program
from stack.readiness import await_running, bring_up
from stack.servers import (
    SERVICES,
    build_services,
    chosen_services,
    port_names,
    worker_names,
)
from stack.service import Service, Site
from stack.state import State, load_state, new_state, save_state
from stack.supervision import ProgramState, Supervisor

LOCK_LIMIT_S = 1800.0
SHUTDOWN_LIMIT_S = 90.0
_LAST_TO_STOP = ("postgresql", "mariadb", "kafka")


@dataclasses.dataclass(frozen=True)
class ProgramStatus:
    """How a program of the home is; `problem` is None when it runs and, if it is a server, answers."""

    name: str
    state: str
    pid: int
    port: int | None
    up_s: int
    problem: str | None


def silent(_line: str) -> None:
    """Drop a line of progress."""


class Stack:
    """The servers of one home folder, with ports and passwords of their own.

    Every method may raise a StackError, whose message says what to do. `report` receives lines of progress, possibly
    from several threads. A program that crashes is restarted; one that was stopped or killed by a method of this
    class stays down until it is started.
    """

    def __init__(self, home: Path, report: Callable[[str], None] = silent) -> None:
        self.layout = Layout(home.absolute())
        self._report = report

    def up(self, services: Sequence[str] = SERVICES, workers: int = 1, *, connect_auth: bool = False) -> None:
        """Start what is down of the named services and wait until each answers; repeatable.

        With connect_auth the workers' REST interface asks for a user and password, which env() names.

        A service that does not come up is stopped and named by ServiceNotReadyError with the last lines of its log;
        the others stay up. When interrupted, all is stopped if nothing was up before.
        """
        wanted = chosen_services(services, workers)
        with self._locked():
            install(wanted, self._report)
            site = self._site(self._prepare_home(wanted, workers, connect_auth))
            servers = build_services(site, wanted, workers)
            supervisor = self._supervisor(site.state)
            started = supervisor.start()
            try:
                supervisor.register(server.program for server in servers)
                self._forget_surplus_workers(supervisor, workers)
                bring_up(supervisor, servers, self._report)
            except KeyboardInterrupt:
                if started:
                    self._report("interrupted: stopping what was started")
                    supervisor.shut_down(SHUTDOWN_LIMIT_S)
                raise

    def down(self, *, purge: bool = False) -> None:
        """Stop every program and supervisord; with `purge`, remove the home too. Nothing happens when it is down."""
        state = load_state(self.layout.state_file)
        if state is not None:
            with self._locked():
                supervisor = self._supervisor(state)
                # Consumers and workers leave their groups while the broker still answers.
                first = [program.name for program in supervisor.states() if program.name not in _LAST_TO_STOP]
                for name in first:
                    supervisor.stop_program(name)
                supervisor.wait_stopped(first, SHUTDOWN_LIMIT_S)
                supervisor.shut_down(SHUTDOWN_LIMIT_S)
        if purge:
            remove_home(self.layout)

    def status(self) -> tuple[ProgramStatus, ...]:
        """Return every program of the home; servers are asked whether they answer."""
        state = self._state()
        servers = {server.name: server for server in self._servers(state)}
        programs = {program.name: program for program in self._supervisor(state).states()}
        names = tuple(dict.fromkeys([*servers, *programs]))
        with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
            return tuple(pool.map(lambda name: _status(name, servers.get(name), programs.get(name)), names))

    def env(self) -> Mapping[str, str]:
        """Return the variables that point the other commands at this home."""
        return environment.variables(self._site(self._state()))

    def logs(self, name: str, lines: int = 50) -> str:
        """Return the last lines of a program's log."""
        path = self.layout.log_of(name)
        if not path.exists():
            raise UnknownProgramError(f"no log of {name} in {self.layout.logs}")
        return tail_of_file(path, lines)

    def start(self, name: str) -> None:
        """Start a program that is down; wait until a server answers, or until any other has lived for a second."""
        state = self._state()
        supervisor = self._supervisor(state)
        server = next((server for server in self._servers(state) if server.name == name), None)
        if server is None:
            supervisor.start_program(name)
            await_running(supervisor, name)
        else:
            bring_up(supervisor, [server], self._report)

    def stop(self, name: str) -> None:
        """Stop a program in its own way and wait for its end."""
        supervisor = self._supervisor(self._state())
        supervisor.stop_program(name)
        supervisor.wait_stopped([name], SHUTDOWN_LIMIT_S)

    def kill(self, name: str) -> tuple[int, ...]:
        """Kill a program and its descendants with SIGKILL, and return their pids; it stays down until started."""
        return self._supervisor(self._state()).kill_program(name)

    def add_program(
        self, name: str, argv: Sequence[str], environment: Mapping[str, str], *, stop_limit_s: int = 30
    ) -> bool:
        """Register a program, such as consumer-1, that runs as ourselves in the home; `start` starts it.

        It gets PATH, HOME and LANG besides `environment`, and nothing of the caller's shell. Registering it again
        with another command or environment stops it, and returns True; the same again changes nothing. Told to stop,
        it has stop_limit_s seconds before it is killed.

        Raises:
            ValueError: the name or a value cannot be written in supervisor's configuration.
        """
        if name in port_names(len(SERVICES)):
            raise ValueError(f"{name} is the name of a server")
        program = Program(
            name=name,
            argv=tuple(argv),
            environment=dict(environment),
            directory=self.layout.home,
            stop_limit_s=stop_limit_s,
        )
        with self._locked():
            return name in self._supervisor(self._state()).register([program])

    def remove_program(self, name: str) -> None:
        """Stop a program that was added and forget it; its log stays."""
        with self._locked():
            self._supervisor(self._state()).forget(name)

    def _locked(self) -> AbstractContextManager[None]:
        return exclusive(self.layout.lock_file, wait_limit_s=LOCK_LIMIT_S, report=self._report)

    def _supervisor(self, state: State) -> Supervisor:
        return Supervisor(self.layout, state.home_id)

    def _state(self) -> State:
        state = load_state(self.layout.state_file)
        if state is None:
            raise HomeNotUpError(f"there is no stack in {self.layout.home}: bring it up first")
        return state

    def _prepare_home(self, wanted: tuple[str, ...], workers: int, connect_auth: bool) -> State:
        known = load_state(self.layout.state_file)
        create_folders(self.layout, fresh=known is None, report=self._report)
        state = known or new_state()
        running = frozenset(program.name for program in self._supervisor(state).states() if program.pid)
        if "kafka" in running:
            running |= {"kafka-controller"}
        ports = claim(
            cache_folder(StackSettings()) / "ports.json",
            self.layout.state_file,
            lambda claimed: choose_ports(
                port_names(workers), state.ports, running=running, claimed=claimed, report=self._report
            ),
            self._report,
        )
        services = tuple(name for name in SERVICES if name in {*wanted, *state.services})
        state = dataclasses.replace(state, services=services, workers=workers, ports=ports, connect_auth=connect_auth)
        save_state(self.layout.state_file, state)
        return state

    def _site(self, state: State) -> Site:
        settings = StackSettings()
        cache = cache_folder(settings)
        agent = folder_of(JMX, cache)
        return Site(
            layout=self.layout,
            state=state,
            accounts=server_accounts(self._report),
            services=self.layout.service_data(),
            kafka_jars=folder_of(KAFKA, cache),
            plugin_folders=tuple(folder for plugin in DEBEZIUM if (folder := folder_of(plugin, cache)).is_dir()),
            # Decided anew at each `up`; commands that only look must not need the jar.
            jmx=JmxAgent(agent, settings.jmx_port) if settings.jmx_port is not None and agent.is_dir() else None,
        )

    def _servers(self, state: State) -> tuple[Service, ...]:
        return build_services(self._site(state), state.services, state.workers)

    def _forget_surplus_workers(self, supervisor: Supervisor, workers: int) -> None:
        wanted = worker_names(workers)
        for program in supervisor.states():
            if program.name.startswith("connect-") and program.name not in wanted:
                supervisor.forget(program.name)


def _status(name: str, server: Service | None, program: ProgramState | None) -> ProgramStatus:
    port = server.port if server else None
    if program is None:
        return ProgramStatus(name, "DOWN", 0, port, 0, "the stack is not up")
    problem = None if program.state == "RUNNING" else program.reason or f"it is {program.state}"
    if problem is None and server is not None:
        problem = server.probe()
    return ProgramStatus(name, program.state, program.pid, port, program.up_s, problem)
