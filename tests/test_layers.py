"""The house: which room may import which, how many rooms there are, how long a file may be."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown import ROOT

PACKAGES = ("crosscoder", "taxonomy", "labeler")
LAYERS = (
    ("text", "errors", "progress"),
    ("http",),
    ("store",),
    ("study",),
    ("embedding",),
    ("judge",),
    ("labeling",),
    ("report",),
    ("taxonomies",),
    ("exchange",),
    ("stages",),
    ("api",),
    ("review",),
    ("cli",),
)
"""Rooms and root modules of labeler, lowest first: each may import what stands before it."""
ROOT_MODULES = {"api", "errors", "progress", "text"}
LONGEST_FILE = 500
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imports_of(path: Path) -> Iterator[str]:
    """Modules of the three packages that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                longer = f"{node.module}.{alias.name}"
                if longer in MODULES:
                    yield longer
                elif node.module in MODULES:
                    yield node.module


def room_of(module: str) -> str | None:
    """The room of labeler, or the root module itself; None for what is no part of labeler."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "labeler" and rest else None


def test_labeler_has_the_rooms_that_the_layers_name() -> None:
    rooms = {path.name for path in (ROOT / "labeler").iterdir() if (path / "__init__.py").is_file()}
    modules = {path.stem for path in (ROOT / "labeler").glob("*.py")} - {"__init__"}
    assert modules == ROOT_MODULES
    assert rooms == set(HEIGHT) - ROOT_MODULES
    assert len(rooms) <= 12


def test_no_room_imports_a_higher_one() -> None:
    upwards = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        for imported in imports_of(path)
        if (room := room_of(module)) is not None
        and (other := room_of(imported)) is not None
        and room != other
        and HEIGHT[other] >= HEIGHT[room]
    ]
    assert upwards == []


@pytest.mark.parametrize("package", ["crosscoder", "taxonomy"])
def test_the_engines_know_neither_each_other_nor_the_labeler(package: str) -> None:
    others = set(PACKAGES) - {package}
    foreign = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        if module.partition(".")[0] == package
        for imported in imports_of(path)
        if imported.partition(".")[0] in others
    ]
    assert foreign == []


@pytest.mark.slow
def test_modules_import_each_other_in_no_circle() -> None:
    """Imports at the top of files only: those inside functions are there to break circles."""
    below: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = ast.Module([n for n in tree.body if not isinstance(n, ast.If)], [])
        below[module] = set(_imports_in(top)) - {module}
    while ends := {module for module, needed in below.items() if not needed & set(below)}:
        below = {module: needed for module, needed in below.items() if module not in ends}
    assert below == {}


def _imports_in(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                longer = f"{node.module}.{alias.name}"
                if longer in MODULES:
                    yield longer
                elif node.module in MODULES:
                    yield node.module


def test_no_file_is_too_long_to_read() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in [*FILES, *(ROOT / "migrations").rglob("*.py")]
    }
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


def test_the_map_in_contributing_names_files_that_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:labeler|crosscoder|taxonomy|tests|migrations)/[\w/.]*)`", text))
    assert len(named) > 15
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
