"""The services of the stack by name, and what each of them needs."""

from collections.abc import Collection, Sequence

from stack.connect import worker
from stack.errors import UnknownProgramError
from stack.kafka import broker
from stack.mariadb import server as mariadb
from stack.postgresql import server as postgresql
from stack.service import Service, Site

SERVICES = ("postgresql", "mariadb", "kafka", "connect")
WORKERS_MAX = 8
PACKAGES = {
    "postgresql": ("postgresql",),
    "mariadb": ("mariadb-server",),
    "kafka": ("java", "maven"),
    "connect": ("java", "maven"),
}


def chosen_services(names: Sequence[str], workers: int) -> tuple[str, ...]:
    """Return the named services in starting order, with what they need.

    Raises:
        UnknownProgramError: a name or the number of workers is none of ours.
    """
    unknown = sorted(set(names) - set(SERVICES))
    if unknown:
        raise UnknownProgramError(f"no such service: {', '.join(unknown)}; there are {', '.join(SERVICES)}")
    if not 1 <= workers <= WORKERS_MAX:
        raise UnknownProgramError(f"{workers} Connect workers: 1 to {WORKERS_MAX} are possible")
    needed = {*names, *(("kafka",) if "connect" in names else ())}
    return tuple(name for name in SERVICES if name in needed)


def needed_packages(services: Collection[str]) -> frozenset[str]:
    """Return the Debian packages that the services come in."""
    return frozenset(package for service in services for package in PACKAGES[service])


def port_names(workers: int) -> tuple[str, ...]:
    """Return the names of all ports of a home: also of services that are not started, so that `env` is whole."""
    return ("postgresql", "mariadb", "kafka", "kafka-controller", *worker_names(workers))


def worker_names(workers: int) -> tuple[str, ...]:
    """Return the program names of the Connect workers."""
    return tuple(worker.worker_name(number) for number in range(1, workers + 1))


def build_services(site: Site, services: Collection[str], workers: int) -> tuple[Service, ...]:
    """Return the servers, one per program, in starting order."""
    built = []
    if "postgresql" in services:
        built.append(postgresql.service(site))
    if "mariadb" in services:
        built.append(mariadb.service(site))
    if "kafka" in services:
        built.append(broker.service(site))
    if "connect" in services:
        built.extend(worker.service(site, number) for number in range(1, workers + 1))
    return tuple(built)
