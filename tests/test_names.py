"""One name, one thing: no class name stands for two classes of the package."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter, defaultdict
from importlib.util import find_spec
from pathlib import Path

from tests.sources import declared_where, text_of

ROOT = Path(__file__).parents[1]
FOLDERS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"][
    "package-dir"
]
SOURCES = sorted(path for folder in FOLDERS.values() for path in (ROOT / folder).glob("*.py"))


def test_no_class_name_stands_for_two_classes() -> None:
    named = Counter(name for path in SOURCES for name in re.findall(r"^[ \t]*class (\w+)", text_of(path), re.MULTILINE))
    twice = [name for name, count in named.items() if count > 1]
    places: dict[str, list[str]] = defaultdict(list)
    for path in SOURCES if twice else ():
        for node in declared_where(path, rf"class ({'|'.join(twice)})\b"):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_imports_are_absolute() -> None:
    relative = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in declared_where(path, r"from\s+\.")
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_a_lever_imports_neither_another_lever_nor_the_app() -> None:
    levers = ("attention", "caching", "precision", "resolution", "samplers")
    crossing = []
    for path in SOURCES:
        own = path.relative_to(ROOT).as_posix().removeprefix("accel/").partition("/")[0]
        if own not in levers:
            continue
        others = tuple(f"accel.{name}" for name in (*levers, "app") if name != own)
        for node in declared_where(path, rf"from\s+({'|'.join(others)})"):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(others):
                crossing.append(f"{path.relative_to(ROOT)}:{node.lineno} imports {node.module}")
    assert crossing == []


def test_every_module_of_ours_that_is_imported_exists() -> None:
    """The type checker takes a missing module for an untyped library."""
    places = [*SOURCES, *sorted((ROOT / "benchmarks").rglob("*.py"))]
    ours = r"^[ \t]*from\s+((?:accel|benchmarks)(?:\.\w+)*)\s+import\b"
    named = {name for path in places for name in re.findall(ours, text_of(path), re.MULTILINE)}
    gone = [name for name in sorted(named) if find_spec(name) is None]
    missing = []
    for path in places if gone else ():
        for node in declared_where(path, rf"from\s+({'|'.join(gone)})\s"):
            if isinstance(node, ast.ImportFrom) and node.module in gone:
                missing.append(f"{path.relative_to(ROOT)}:{node.lineno} imports {node.module}")
    assert missing == []
