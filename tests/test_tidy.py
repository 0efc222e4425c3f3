"""Properties of the code itself: sizes, names, words and files that must not be there."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE_FOLDERS = ("connectors", "consumer", "producer_app", "operations", "stack", "tests", "benchmarks")
MODULES = sorted(path for folder in CODE_FOLDERS for path in (ROOT / folder).rglob("*.py"))

MODULE_LINES_MAX = 300
FUNCTION_LINES_MAX = 50
DOCSTRING_CHARACTERS_MAX = 160
FILE_BYTES_MAX = 300_000
PROTOCOLS_MAX = 8

BANNED_NAMES = ("util", "utils", "helper", "helpers", "manager", "data", "info", "misc", "common")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
MACHINE_PATHS = re.compile(r"/root/|/work/|/home/[a-z]|/Users/|/tmp/[a-z]")
REGISTRIES = re.compile(
    r"pypi\.org|pythonhosted|maven\.org|maven\.apache\.org/maven2|registry\.npmjs|proxy\.golang|crates\.io"
    r"|deb\.debian|index-url|find-links"
)
DECISION_SECTIONS = ("Decision", "Context", "Alternatives", "Not covered", "Revisit when")


def shown(path: Path) -> str:
    """Name a file as a reader would."""
    return path.relative_to(ROOT).as_posix()


def kept_files() -> list[Path]:
    """Return what a commit would hold: tracked and new files, without ignored ones."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Give every function of a module, methods and inner ones too."""
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("module", MODULES, ids=shown)
def test_module_is_short_and_says_in_one_sentence_what_it_is(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text)) if text else "empty."

    assert len(text.splitlines()) <= MODULE_LINES_MAX
    assert docstring is not None, "no docstring"
    assert "\n" not in docstring
    assert len(docstring) <= DOCSTRING_CHARACTERS_MAX
    assert docstring.endswith((".", "?"))


@pytest.mark.parametrize("module", MODULES, ids=shown)
def test_functions_are_short(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    long = [
        f"{node.name}: {length} lines"
        for node in functions(tree)
        if (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]

    assert long == []


@pytest.mark.parametrize("module", MODULES, ids=shown)
def test_names_say_what_a_thing_is(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    words = [module.stem, *(node.name for node in functions(tree))]
    banned = [name for name in words if name.strip("_") in BANNED_NAMES]
    banned += [name for name in classes if name.lower().endswith(BANNED_NAMES)]

    assert banned == []


def test_few_protocols_and_all_in_the_ports() -> None:
    homes = [
        shown(module)
        for module in MODULES
        if module.parts[len(ROOT.parts)] not in {"tests", "benchmarks"}
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id == "Protocol" for b in node.bases)
    ]

    assert set(homes) == {"consumer/ports.py"}
    assert len(homes) <= PROTOCOLS_MAX


def test_type_ignores_name_their_code() -> None:
    bare = [
        f"{shown(module)}:{number}"
        for module in MODULES
        if module != Path(__file__)
        for number, line in enumerate(module.read_text(encoding="utf-8").splitlines(), 1)
        if "type: ignore" in line and "type: ignore[" not in line
    ]

    assert bare == []


def test_files_hold_no_unfinished_work_machine_paths_or_registry_hosts() -> None:
    found = []
    for path in kept_files():
        if path == Path(__file__) or path.suffix in {".avsc", ".csv"}:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for pattern in (UNFINISHED, MACHINE_PATHS, REGISTRIES):
                if match := pattern.search(line):
                    found.append(f"{shown(path)}:{number}: {match[0]}")

    assert found == []


def test_lock_file_names_no_host() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")

    assert "--hash=sha256:" in lock
    assert re.findall(r"https?://|\bfile:|^-[a-z-]+|^--(?!hash)", lock, re.MULTILINE) == []


def test_files_are_small() -> None:
    large = {shown(path): size for path in kept_files() if (size := path.stat().st_size) > FILE_BYTES_MAX}

    assert large == {}


def test_decisions_are_numbered_and_have_their_sections() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))

    numbers = [int(path.name[:4]) for path in decisions]
    assert numbers == list(range(1, len(decisions) + 1))
    for path in decisions:
        sections = re.findall(r"^## (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert tuple(sections) == DECISION_SECTIONS, shown(path)
