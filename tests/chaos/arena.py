"""A running chain with proxies in front of both databases and members that may be killed: where faults are injected."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from stack import Stack
from tests.chaos.proxy import LOOPBACK, Proxy
from tests.e2e.members import RETRY, RUN, Member, wait_for
from tests.scraping import exposed, free_port, scraped, value

WAIT_S: Final = 86_400
"""A child's wait for its parent: longer than any outage, so that what was only held up is never called failed."""

RETRIER_LIMIT_S: Final = 60.0

_ACTION: Final = re.compile(r'"action": "(\w+)"')


class Members:
    """The consumer group: each member has a number, and a log per life."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._environment = environment
        self._folder = folder
        self._lives: list[list[Member]] = []
        self._ended: list[Member] = []
        self._metrics_ports: dict[int, int] = {}
        self._stopped: list[Member] = []
        self._killed: list[Member] = []

    def start(self, number: int, module: Sequence[str] = RUN) -> Member:
        """Start a member, for the first time or again, and wait until it owns partitions."""
        while len(self._lives) <= number:
            self._lives.append([])
        lives = self._lives[number]
        log = self._folder / f"member-{number}-{len(lives) + 1}.log"
        self._metrics_ports[number] = free_port()
        own = {"EMRSYNC_CLIENT_ID": f"member-{number}", "EMRSYNC_METRICS_PORT": str(self._metrics_ports[number])}
        lives.append(Member({**self._environment, **own}, log, module))
        # Another module may let it die sooner than it owns anything.
        lives[-1].wait_assigned(or_ended=module != RUN)
        return lives[-1]

    def kill(self, number: int) -> None:
        """End a member with -9; one that had ended by itself is not forgotten for that."""
        victim = self._lives[number][-1]
        if victim.has_ended():
            self._ended.append(victim)
        victim.kill()
        self._killed.append(victim)

    def stop(self, number: int) -> None:
        """Ask a member to finish its batch and leave, as a smaller scale and a rolling restart do."""
        code, _ = self._lives[number][-1].terminate()
        assert code == 0, self._lives[number][-1].log
        self._stopped.append(self._lives[number][-1])

    @property
    def running(self) -> Sequence[Member]:
        """The members that were started, and neither stopped nor killed; also those that ended by themselves."""
        return [lives[-1] for lives in self._lives if lives[-1] not in (*self._stopped, *self._killed)]

    def ended(self) -> Sequence[str]:
        """Give the logs' last lines of those that ended by themselves, which no outage may cause."""
        ended = [*self._ended, *(one for one in self.running if one.has_ended())]
        return ["\n".join(one.log.splitlines()[-3:]) for one in ended]

    def count(self, action: str) -> int:
        """Count the log lines of an action, over all lives."""
        return sum(_ACTION.findall(one.log).count(action) for lives in self._lives for one in lives)

    def logs(self) -> str:
        """Give everything that all of them wrote."""
        return "\n".join(one.log for lives in self._lives for one in lives)

    def metrics(self) -> str:
        """Give everything that the running ones tell Prometheus."""
        return "\n".join(exposed(self._metrics_ports[number]) for number in range(len(self._lives)))

    def close(self) -> None:
        """Stop all of them, also when one of them does not stop in time."""
        with contextlib.ExitStack() as held:
            for one in self.running:
                held.callback(one.close)


@dataclasses.dataclass(frozen=True, slots=True)
class Arena:
    """What faults are injected into; openemr and source are the proxies that the members' connections go through."""

    stack: Stack
    variables: Mapping[str, str]
    openemr: Proxy
    source: Proxy
    members: Members
    clerk: sa.Engine
    """The administrator of OpenEMR's database, past the proxy; in the role of a clerk too."""

    source_admin: sa.Engine
    """The administrator of the application's database, past the proxy."""


@contextlib.contextmanager
def arena(stack: Stack, folder: Path, *, members: int = 2) -> Iterator[Arena]:
    """Start members and a retrier on the chain of a stack, which must be provisioned, and stop them at the end."""
    variables = stack.env()
    with contextlib.ExitStack() as held:
        openemr = held.enter_context(_proxy(variables["EMRSYNC_OPENEMR_URL"]))
        source = held.enter_context(_proxy(variables["EMRSYNC_SOURCE_URL"]))
        environment = {
            **variables,
            "EMRSYNC_OPENEMR_URL": _through(openemr, variables["EMRSYNC_OPENEMR_URL"]),
            "EMRSYNC_SOURCE_URL": _through(source, variables["EMRSYNC_SOURCE_URL"]),
            "EMRSYNC_PARENT_WAIT_SECONDS": str(WAIT_S),
        }
        clerk = sa.create_engine(variables["EMRSYNC_OPENEMR_ADMIN_URL"], pool_pre_ping=True)
        held.callback(clerk.dispose)
        source_admin = sa.create_engine(variables["EMRSYNC_SOURCE_ADMIN_URL"], pool_pre_ping=True)
        held.callback(source_admin.dispose)
        group = Members(environment, folder)
        held.callback(group.close)
        metrics_port = free_port()
        own = {"EMRSYNC_METRICS_PORT": str(metrics_port)}
        retrier = Member({**environment, **own}, folder / "retrier.log", RETRY)
        held.callback(retrier.close)
        for number in range(members):
            group.start(number)
        # It reads OpenEMR's tables at its first look, and must not meet triggers that are just being made.
        wait_for(lambda: _has_read_openemr(metrics_port), RETRIER_LIMIT_S, lambda: retrier.log)
        yield Arena(stack, variables, openemr, source, group, clerk, source_admin)


def _has_read_openemr(metrics_port: int) -> bool:
    try:
        return value(scraped(metrics_port), "emrsync_system_up", system="openemr") == 1
    except OSError:
        return False  # it does not listen yet


def _proxy(url: str) -> Proxy:
    parts = sa.make_url(url)
    assert parts.host is not None
    assert parts.port is not None
    return Proxy(parts.host, parts.port)


def _through(proxy: Proxy, url: str) -> str:
    return sa.make_url(url).set(host=LOOPBACK, port=proxy.port).render_as_string(hide_password=False)
