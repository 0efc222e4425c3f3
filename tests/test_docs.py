"""The documents say what is there: settings, commands, outcomes, error classes, links and commands of the README."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pydantic
import pytest
import typer
from typer.main import get_command

from connectors.config import PREFIX
from connectors.events import HEADERS
from connectors.outbox import sync_outbox
from connectors.payloads import v1
from connectors.topics import topics
from consumer.config import ConsumerSettings, RetrySettings
from consumer.outcome import ErrorClass, ErrorGroup, Outcome
from operations.cli import SECTIONS, build
from operations.config import OperationsSettings
from producer_app.config import AppSettings
from stack.config import StackSettings

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


def document(name: str) -> str:
    """Read one document."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def commands() -> set[str]:
    """Give every command as it is typed, without arguments."""
    found = set()
    for section in SECTIONS:
        group = get_command(build([section.name]))
        found |= {f"emrsync {path}" for path in _paths(group.commands[section.name], section.name)}  # type: ignore[attr-defined]  # a group has commands
    return found


def _paths(command: object, path: str) -> list[str]:
    inner = getattr(command, "commands", None)
    if inner is None:
        return [path]
    return [found for name, child in inner.items() for found in _paths(child, f"{path} {name}")]


def test_every_setting_is_documented() -> None:
    """Operators find each variable, with its default."""
    fields = {
        f"{PREFIX}{name.upper()}"
        for settings in (OperationsSettings, ConsumerSettings, RetrySettings, AppSettings)
        for name in settings.model_fields
    }
    fields |= {str(field.validation_alias) for field in StackSettings.model_fields.values()}
    text = document("operations.md") + document("producer.md")

    assert set() == {name for name in fields if f"`{name}`" not in text}


def test_no_setting_is_documented_that_does_not_exist() -> None:
    """A variable that nothing reads is a trap."""
    known = {
        name.upper()
        for settings in (OperationsSettings, ConsumerSettings, RetrySettings, AppSettings)
        for name in settings.model_fields
    }
    known |= {str(field.validation_alias).removeprefix(PREFIX) for field in StackSettings.model_fields.values()}
    # Ports of the compose file.
    known |= {"POSTGRES_PORT", "MARIADB_PORT", "KAFKA_PORT", "CONNECT_PORT", "CONNECT_2_PORT"}
    named = {
        name.removesuffix("_FILE")
        for path in DOCUMENTS
        for name in re.findall(rf"{PREFIX}([A-Z_]*[A-Z])\b", path.read_text(encoding="utf-8"))
    }

    assert set() == named - known


def test_every_command_is_documented() -> None:
    """The table of commands is complete; `up`, `down` after a command's first word share its row."""
    rows = [line for line in document("operations.md").splitlines() if line.startswith("| `emrsync")]
    missing = {
        command
        for command in commands()
        if not any(
            row.startswith(f"| `{command.rsplit(' ', 1)[0]} ") and f"{command.rsplit(' ', 1)[1]}" in row for row in rows
        )
        and not any(row.startswith(f"| `{command}") for row in rows)
    }

    assert set() == missing


def test_the_readme_and_the_operations_page_name_only_commands_that_exist() -> None:
    """A command that was renamed is renamed here too."""
    known = commands()
    groups = {command.rsplit(" ", 1)[0] for command in known} | {"emrsync"}
    text = README + "".join(document(name) for name in ("operations.md", "producer.md", "connect.md"))
    typed = {match.strip() for match in re.findall(r"emrsync(?: [a-z][a-z-]*)+", text)}
    unknown = {
        words
        for words in typed
        if words not in groups
        and not any(words == command or words.startswith(f"{command} ") for command in known)
        and words.split()[1] in {section.name for section in SECTIONS}
    }

    assert set() == unknown


def test_make_targets_in_the_documents_exist() -> None:
    """`make` is the one list of commands."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = {
        target
        for path in DOCUMENTS
        for target in re.findall(r"(?:`|^)make ([a-z]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }

    assert named
    assert set() == named - targets


def test_every_error_class_has_its_treatment() -> None:
    """Who sees the class in a row finds what to do."""
    page = document("operations.md")

    assert [] == [str(error_class) for error_class in ErrorClass if f"| `{error_class}` |" not in page]


def test_every_group_of_errors_has_its_row() -> None:
    """What the retrier does about each is stated once."""
    page = document("operations.md")

    assert [] == [group for group in ErrorGroup if f"| {group} |" not in page]


def test_every_action_that_is_logged_is_listed() -> None:
    """Who filters logs finds the word."""
    sources = [*(ROOT / "consumer").rglob("*.py"), *(ROOT / "operations").rglob("*.py")]
    logged = {action for path in sources for action in re.findall(r'action="(\w+)"', path.read_text(encoding="utf-8"))}
    page = document("operations.md")

    assert logged
    assert set() == {action for action in logged if f"`{action}`" not in page}


def test_every_outcome_is_explained() -> None:
    """Five words, five rows."""
    page = document("architecture.md")

    assert [] == [
        outcome.__name__ for outcome in typing.get_args(Outcome) if f"| `{outcome.__name__.lower()}` |" not in page
    ]


def test_every_column_header_topic_and_payload_field_is_in_the_contract() -> None:
    """An application in another language needs nothing but this page."""
    page = document("contract.md")
    names = [column.name for column in sync_outbox.columns] + list(HEADERS) + [topic.name for topic in topics()]
    fields = {name for kind in _payload_models() for name in kind.model_fields}

    assert [] == [name for name in [*names, *sorted(fields)] if f"`{name}`" not in page]


def _payload_models() -> list[type[pydantic.BaseModel]]:
    return [v1.PatientV1, v1.AddressV1, v1.EncounterV1, v1.DiagnosticOrderV1, v1.MedicationOrderV1, v1.CodeV1]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    """Files and headings that are linked to exist."""
    broken = []
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        if not linked.exists():
            broken.append(target)
        elif heading:
            titles = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            if heading not in {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}:
                broken.append(target)

    assert [] == broken


def test_tests_named_in_the_documents_exist() -> None:
    """A page that names the test that pins it must not outlive the test."""
    text = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    files = set(re.findall(r"`(tests/[a-z0-9_/]+\.py)`", text))
    functions = set(re.findall(r"`(test_[a-z0-9_]+)`", text))
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))

    assert set() == {name for name in files if not (ROOT / name).is_file()}
    assert set() == {name for name in functions if f"def {name}(" not in code}


def test_the_readme_starts_with_what_it_is_and_shows_a_command_early() -> None:
    """First success is at most four commands away."""
    lines = README.splitlines()
    start = lines.index("## Quick start")
    first_block = README.split("```sh\n")[1].split("```")[0]

    assert start < 30
    assert len(first_block.strip().splitlines()) <= 4


def test_the_help_of_every_command_says_what_it_does() -> None:
    """No command without a sentence."""
    assert all(section.help for section in SECTIONS)
    assert isinstance(build(["demo"]), typer.Typer)
