"""Every Protocol of the consumer is held to its promises on the fake and on the real adapter, by one suite."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from types import ModuleType

import tests.fakes
from consumer import drafting, ports

SUITES = sorted(path.stem for path in Path(__file__).parent.glob("test_*.py") if path.stem != "test_every_port")


def suites() -> list[ModuleType]:
    """Import the suites of this folder."""
    return [importlib.import_module(f"tests.contract.{name}") for name in SUITES]


def protocols() -> set[type]:
    """Give the Protocols of the ports and of what they are drafted by."""
    found = (
        one
        for module in (drafting, ports)
        for _, one in inspect.getmembers(module, inspect.isclass)
        if one.__module__ == module.__name__
    )
    return {one for one in found if getattr(one, "_is_protocol", False)}


def test_every_protocol_has_a_suite() -> None:
    """And no suite is about anything else."""
    claimed = [protocol for suite in suites() for protocol in suite.PROTOCOLS]

    assert protocols() == set(claimed)
    assert len(claimed) == len(set(claimed))


def test_every_suite_runs_on_the_fake_and_on_a_real_adapter() -> None:
    """Which live in tests.fakes and in consumer."""
    for suite in suites():
        packages = {one.__module__.split(".")[0] for one in suite.IMPLEMENTATIONS.values()}
        assert {"tests", "consumer"} == packages, suite.__name__


def test_every_fake_of_a_port_is_proven_by_a_suite() -> None:
    """A fake is one when it has the methods of a Protocol."""
    proven = {one for suite in suites() for one in suite.IMPLEMENTATIONS.values()}
    wanted = {
        name: protocol for protocol in protocols() for name in [f"Fake{protocol.__name__.removeprefix('Outbox')}"]
    }
    fakes = {getattr(tests.fakes, name) for name in wanted if name in tests.fakes.__all__}

    assert {"FakeTarget", "FakeMarker", "FakeEventStream", "FakeFailedRows"} == {one.__name__ for one in fakes}
    assert fakes <= proven


def test_the_suites_ask_for_every_implementation() -> None:
    """The fixture of the tests is parametrized with all of them, and every promise uses it."""
    for name in SUITES:
        tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        [decorator] = functions["system"].decorator_list
        assert "pytest.fixture(params=IMPLEMENTATIONS)" == ast.unparse(decorator), name
        asking = [test for test in functions if test.startswith("test_") and _asks(functions[test])]
        assert len(asking) >= 10, name


def _asks(function: ast.FunctionDef) -> bool:
    return any(argument.arg == "system" for argument in function.args.args)
