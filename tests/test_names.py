"""One name, one thing: no class name stands for two classes of the package."""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

from tests.sources import declared

ROOT = Path(__file__).parents[1]
FOLDERS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"][
    "package-dir"
]
SOURCES = sorted(path for folder in FOLDERS.values() for path in (ROOT / folder).glob("*.py"))


def test_no_class_name_stands_for_two_classes() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in SOURCES:
        for node in declared(path):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_imports_are_absolute() -> None:
    relative = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in declared(path)
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
        for node in declared(path):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(others):
                crossing.append(f"{path.relative_to(ROOT)}:{node.lineno} imports {node.module}")
    assert crossing == []


def test_every_module_of_ours_that_is_imported_exists() -> None:
    """The type checker takes a missing module for an untyped library."""
    missing = []
    for path in [*SOURCES, *sorted((ROOT / "benchmarks").rglob("*.py"))]:
        for node in declared(path):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if module.split(".")[0] in ("accel", "benchmarks") and find_spec(module) is None:
                missing.append(f"{path.relative_to(ROOT)}:{node.lineno} imports {module}")
    assert missing == []
