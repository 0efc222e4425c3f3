"""Choice of ports."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.ports import LOOPBACK, any_free_port, choose_ports, claim, is_free


@pytest.fixture
def taken_port() -> Iterator[int]:
    """Give a loopback port that somebody listens on."""
    with socket.create_server((LOOPBACK, 0)) as server:
        yield int(server.getsockname()[1])


def choose(
    remembered: dict[str, int], *, running: frozenset[str] = frozenset(), claimed: frozenset[int] = frozenset()
) -> tuple[dict[str, int], list[str]]:
    """Choose a port for kafka and return it with what was reported."""
    lines: list[str] = []
    chosen = choose_ports(["kafka"], remembered, running=running, claimed=claimed, report=lines.append)
    return chosen, lines


def test_a_remembered_free_port_is_used_again_in_silence() -> None:
    """Clients of a home keep their address."""
    port = any_free_port()

    assert choose({"kafka": port}) == ({"kafka": port}, [])


def test_a_taken_port_is_replaced_and_said(taken_port: int) -> None:
    """A person must know where the service is now."""
    chosen, lines = choose({"kafka": taken_port})

    assert chosen["kafka"] != taken_port
    assert lines == [f"port {taken_port} for kafka is taken: using {chosen['kafka']}"]
    assert is_free(chosen["kafka"])


def test_a_running_service_keeps_the_port_that_it_itself_has_taken(taken_port: int) -> None:
    """Otherwise a second `up` would move everything."""
    assert choose({"kafka": taken_port}, running=frozenset({"kafka"})) == ({"kafka": taken_port}, [])


def test_a_port_claimed_by_another_home_is_passed_over() -> None:
    """That home may be down and come back."""
    port = any_free_port()
    chosen, lines = choose({"kafka": port}, claimed=frozenset({port}))

    assert chosen["kafka"] != port
    assert len(lines) == 1


def test_no_two_services_share_a_port() -> None:
    """Even when the state file says so."""
    port = any_free_port()
    chosen = choose_ports(
        ["kafka", "mariadb"],
        {"kafka": port, "mariadb": port},
        running=frozenset(),
        claimed=frozenset(),
        report=lambda _: None,
    )

    assert len(set(chosen.values())) == 2


def test_claims_are_seen_by_other_homes_and_lapse_with_their_home(tmp_path: Path) -> None:
    """A deleted clone gives its ports back."""
    registry, first, second = tmp_path / "ports.json", tmp_path / "first.json", tmp_path / "second.json"
    first.touch()
    seen: list[frozenset[int]] = []

    def take(port: int, claimed: frozenset[int]) -> dict[str, int]:
        seen.append(claimed)
        return {"kafka": port}

    claim(registry, first, lambda claimed: take(1001, claimed), lambda _: None)
    claim(registry, second, lambda claimed: take(1002, claimed), lambda _: None)
    first.unlink()
    claim(registry, second, lambda claimed: take(1003, claimed), lambda _: None)

    assert seen == [frozenset(), frozenset({1001}), frozenset()]
