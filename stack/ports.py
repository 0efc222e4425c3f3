"""Choice of loopback ports: the default where it is free, else any free one, then the same again at every start."""

import json
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from stack.locking import exclusive

LOOPBACK = "127.0.0.1"
DEFAULT_PORTS = {
    "postgresql": 15432,
    "mariadb": 13306,
    "kafka": 19092,
    "kafka-controller": 19093,
    "connect-1": 18083,
    "connect-2": 18084,
}
TRIES_MAX = 200


def is_free(port: int) -> bool:
    """Say whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set it too: a port with connections in TIME_WAIT is free for them.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def any_free_port() -> int:
    """Return a port that the kernel holds free now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def choose_ports(
    names: Iterable[str],
    remembered: Mapping[str, int],
    *,
    running: frozenset[str],
    claimed: frozenset[int],
    report: Callable[[str], None],
) -> dict[str, int]:
    """Return a port for each name, and keep the remembered ones of other names.

    A running service keeps its port. Otherwise the remembered port, then the default, is taken if it is free and
    not claimed by another home; else a free one, which is reported.
    """
    chosen = dict(remembered)
    for name in names:
        if name in running and name in chosen:
            continue
        wanted = chosen.pop(name, DEFAULT_PORTS.get(name, 0))
        taken = claimed | frozenset(chosen.values())
        if wanted and wanted not in taken and is_free(wanted):
            chosen[name] = wanted
            continue
        chosen[name] = _another_port(taken)
        report(f"port {wanted} for {name} is taken: using {chosen[name]}" if wanted else f"{name}: {chosen[name]}")
    return chosen


def _another_port(taken: frozenset[int]) -> int:
    for _ in range(TRIES_MAX):
        port = any_free_port()
        if port not in taken:
            return port
    raise OSError(f"no free loopback port found in {TRIES_MAX} tries")


def claim(
    registry: Path,
    state_file: Path,
    choose: Callable[[frozenset[int]], dict[str, int]],
    report: Callable[[str], None],
) -> dict[str, int]:
    """Let `choose` pick ports that no other home has claimed, and claim them for the home of `state_file`.

    The registry keeps two homes that start at the same moment, or one that is down, from losing their ports to each
    other; claims of homes that no longer exist lapse.
    """
    with exclusive(registry.with_suffix(".lock"), wait_limit_s=60, report=report):
        claims = {home: ports for home, ports in _read(registry).items() if Path(home).exists()}
        claims.pop(str(state_file), None)
        chosen = choose(frozenset(port for ports in claims.values() for port in ports))
        claims[str(state_file)] = sorted(chosen.values())
        draft = registry.with_name(f"{registry.name}.{os.getpid()}")
        draft.write_text(json.dumps(claims, indent=2), encoding="utf-8")
        draft.replace(registry)
    return chosen


def _read(registry: Path) -> dict[str, list[int]]:
    try:
        return {str(home): [int(port) for port in ports] for home, ports in json.loads(registry.read_text()).items()}
    except (FileNotFoundError, ValueError, AttributeError, TypeError):
        # An unreadable registry costs a port clash at worst, which is reported when it happens.
        return {}
