"""Properties of the code itself: sizes, names, words and files that must not be there."""

from __future__ import annotations

import ast
import functools
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
TEST_MODULE_LINES_MAX = 600
TEST_FUNCTION_LINES_MAX = 60
DOCSTRING_CHARACTERS_MAX = 160
FILE_BYTES_MAX = 300_000
PROTOCOLS_MAX = 8

BANNED_NAMES = ("util", "utils", "helper", "helpers", "manager", "data", "info", "misc", "common")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
MACHINE_PATHS = re.compile(r"/root/|/work/|/home/[a-z]|/Users/")
REGISTRIES = re.compile(
    r"pypi\.org|pythonhosted|maven\.org|maven\.apache\.org/maven2|registry\.npmjs|proxy\.golang|crates\.io"
    r"|deb\.debian|(?<!no-emit-)index-url|find-links"
)
BUILD_FOLDERS = {"target", "build", "dist", "node_modules", "__pycache__"}
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


@functools.cache
def tree_of(module: Path) -> ast.Module:
    """Parse a module once."""
    return ast.parse(module.read_text(encoding="utf-8"))


def is_test(module: Path) -> bool:
    """Tell tests from the product."""
    return module.is_relative_to(ROOT / "tests")


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Give every function of a module, methods and inner ones too."""
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_modules_say_in_one_sentence_what_they_are() -> None:
    """The module docstring is one line that ends like a sentence; an empty file needs none."""
    wrong = []
    for module in MODULES:
        text = module.read_text(encoding="utf-8")
        docstring = (ast.get_docstring(tree_of(module)) or "") if text else "Empty."
        if "\n" in docstring or not docstring.endswith((".", "?")) or len(docstring) > DOCSTRING_CHARACTERS_MAX:
            wrong.append(shown(module))

    assert [] == wrong


def test_modules_are_short() -> None:
    """What does not fit into a reader's head is two modules; a list of cases in a test may be longer."""
    lengths = {module: len(module.read_text(encoding="utf-8").splitlines()) for module in MODULES}
    long = {
        shown(module): length
        for module, length in lengths.items()
        if length > (TEST_MODULE_LINES_MAX if is_test(module) else MODULE_LINES_MAX)
    }

    assert {} == long


def test_functions_are_short() -> None:
    """A function fits on a screen, with its docstring."""
    long = [
        f"{shown(module)}: {node.name}: {length} lines"
        for module in MODULES
        for node in functions(tree_of(module))
        if (length := (node.end_lineno or node.lineno) - node.lineno + 1)
        > (TEST_FUNCTION_LINES_MAX if is_test(module) else FUNCTION_LINES_MAX)
    ]

    assert [] == long


def test_names_say_what_a_thing_is() -> None:
    """No name that could be any thing's: such modules collect what has no place."""
    banned = []
    for module in MODULES:
        tree = tree_of(module)
        classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        words = [module.stem, *(node.name for node in functions(tree))]
        banned += [f"{shown(module)}: {name}" for name in words if name.strip("_") in BANNED_NAMES]
        banned += [f"{shown(module)}: {name}" for name in classes if name.lower().endswith(BANNED_NAMES)]

    assert [] == banned


def test_few_protocols_and_all_in_the_ports() -> None:
    """A Protocol is for what has two implementations, a real one and a fake."""
    homes = [
        shown(module)
        for module in MODULES
        if module.parts[len(ROOT.parts)] not in {"tests", "benchmarks"}
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id == "Protocol" for b in node.bases)
    ]

    assert set(homes) == {"consumer/drafting.py", "consumer/ports.py"}
    assert len(homes) <= PROTOCOLS_MAX


def test_type_ignores_name_their_code() -> None:
    """An exemption exempts from one rule only."""
    bare = [
        f"{shown(module)}:{number}"
        for module in MODULES
        if module != Path(__file__)
        for number, line in enumerate(module.read_text(encoding="utf-8").splitlines(), 1)
        if "type: ignore" in line and "type: ignore[" not in line
    ]

    assert [] == bare


def test_files_hold_no_unfinished_work_machine_paths_or_registry_hosts() -> None:
    """A clone works on any machine, whatever registry it is set up for."""
    found = []
    for path in kept_files():
        if path == Path(__file__) or path.suffix in {".avsc", ".csv"}:
            continue
        found += [
            f"{shown(path)}:{number}: {match[0]}"
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
            for pattern in (UNFINISHED, MACHINE_PATHS, REGISTRIES)
            if (match := pattern.search(line))
        ]

    assert [] == found


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_lock_files_name_no_host(name: str) -> None:
    """Hashes say what is installed; where it comes from is the machine's own setting."""
    lock = (ROOT / name).read_text(encoding="utf-8")

    assert "--hash=sha256:" in lock
    assert [] == re.findall(r"https?://|\bfile:|^-[a-z-]+|^--(?!hash)", lock, re.MULTILINE)


def test_the_lock_for_containers_is_a_part_of_the_lock_for_development() -> None:
    """What is tested is what runs."""
    locks = [
        set(re.findall(r"^[a-z0-9-]+==[^ ]+", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))
        for name in ("requirements.lock", "requirements-dev.lock")
    ]

    assert set() == locks[0] - locks[1]


def test_files_are_small() -> None:
    """No archives and no binaries."""
    large = {shown(path): size for path in kept_files() if (size := path.stat().st_size) > FILE_BYTES_MAX}

    assert {} == large


def test_nothing_that_a_build_leaves_is_kept() -> None:
    """Maven, Python and the tools write beside the code; a folder of theirs must be ignored."""
    left = [shown(path) for path in kept_files() if BUILD_FOLDERS.intersection(path.relative_to(ROOT).parts)]

    assert [] == left


def test_decisions_are_numbered_and_have_their_sections() -> None:
    """A decision without alternatives is none; branches take numbers from ranges of their own, and may leave some."""
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))

    numbers = [int(path.name[:4]) for path in decisions]
    assert sorted(set(numbers)) == numbers
    for path in decisions:
        sections = re.findall(r"^## (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert DECISION_SECTIONS == tuple(sections), shown(path)
