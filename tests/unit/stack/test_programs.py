"""Programs as supervisor's configuration."""

from __future__ import annotations

import configparser
import io
from pathlib import Path

import pytest
from supervisor.datatypes import dict_of_key_value_pairs
from supervisor.options import UnhosedConfigParser

from stack.programs import Program


def parsed(program: Program) -> configparser.SectionProxy:
    """Read a rendered section with supervisor's own parser."""
    parser = UnhosedConfigParser()
    parser.read_file(io.StringIO(program.render(log=Path("/logs/x.log"), home_id="abc")))
    section: configparser.SectionProxy = parser[f"program:{program.name}"]
    return section


def test_a_percent_sign_survives_supervisors_expansion() -> None:
    """URLs may hold %40 for an @."""
    program = Program("consumer-1", ("run", "a b"), {"URL": "mysql://u:p%40@h/d?x=1,2"})
    section = parsed(program)

    assert section["command"] == "run 'a b'"
    assert section["environment"] % {} == 'EMRSYNC_STACK_PROGRAM="abc/consumer-1",URL="mysql://u:p%40@h/d?x=1,2"'


@pytest.mark.parametrize(
    "value", ["", "plain", "a, b=c;d", "St. Mary's, 1st", '{"race": "decline_to_specify", "sex": ""}', "100%", "é"]
)
def test_supervisor_reads_a_variable_as_it_was_written(value: str) -> None:
    """By its own reader."""
    environment = {"A": value, "B": "next"}
    section = parsed(Program("consumer-1", ("run",), environment))
    read = dict_of_key_value_pairs(section["environment"] % {})

    assert environment == {name: read[name] for name in environment}


def test_the_whole_group_ends_with_its_leader() -> None:
    """Nothing is orphaned by a wrapper."""
    section = parsed(Program("kafka", ("java",), stop_signal="INT", user="nobody"))

    assert (section["stopasgroup"], section["killasgroup"]) == ("true", "true")
    assert (section["stopsignal"], section["user"]) == ("INT", "nobody")
    assert (section["autostart"], section["autorestart"]) == ("false", "unexpected")


@pytest.mark.parametrize(
    ("name", "argv", "environment"),
    [
        ("Kafka", ("x",), {}),
        ("a:b", ("x",), {}),
        ("a", (), {}),
        ("a", ("x\ny",), {}),
        ("a", ("x ;y",), {}),
        ("a", ("x",), {"A": 'say "x"'}),
        ("a", ("x",), {"A": "'x' is said"}),
        ("a", ("x",), {"A": "both \"x\" and 'y' said"}),
        ("a", ("x",), {"A B": "x"}),
        ("a", ("x",), {"A": "x #y"}),
    ],
)
def test_what_supervisor_would_misread_is_refused(
    name: str, argv: tuple[str, ...], environment: dict[str, str]
) -> None:
    """Its format has no way to write these."""
    with pytest.raises(ValueError, match="program"):
        Program(name, argv, environment)
