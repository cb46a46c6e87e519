"""Which module needs which, imports inside of functions included: a circle means that neither can be read alone."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.sources import statements

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]
# A method makes its lever and the lever knows its method, so within one lever's folder two files may need each other.
LEVERS = {"attention", "caching", "samplers"}


def modules() -> dict[str, Path]:
    """Every module of the package, by its name."""
    files = [(package, path) for package, folder in FOLDERS.items() for path in (ROOT / folder).glob("*.py")]
    return {package if path.stem == "__init__" else f"{package}.{path.stem}": path for package, path in files}


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The module and name of every import in a file, but for those that only type checkers see."""
    for node in statements(tree, but=_for_types):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def graph(files: Mapping[str, str]) -> dict[str, set[str]]:
    """From each module, given by its text, to those that it imports. `from accel import pocket` needs `accel.pocket`,
    and not what is in `accel/__init__.py`.
    """
    found: dict[str, set[str]] = {}
    for module, text in files.items():
        named = imports(ast.parse(text))
        needed = {f"{source}.{name}" if f"{source}.{name}" in files else source for source, name in named}
        found[module] = (needed & files.keys()) - {module}
    return found


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """The groups of modules that can all be reached from one another."""
    reached = {module: _reached(module, edges) for module in edges}
    groups = {frozenset(other for other in reached[module] if module in reached[other]) for module in edges}
    return sorted(sorted(group) for group in groups if group)


def _reached(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    found, waiting = set[str](), [start]
    while waiting:
        new = edges[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def test_no_circle_of_imports_leaves_a_levers_folder() -> None:
    """A circle through `accel/__init__.py` would make one room of every module that it passes."""
    found = circles(graph({name: path.read_text(encoding="utf-8") for name, path in modules().items()}))
    places = [{name.split(".")[1] if "." in name else name for name in circle} for circle in found]
    assert [circle for circle, place in zip(found, places, strict=True) if len(place) > 1 or place - LEVERS] == []


@pytest.mark.parametrize(
    ("text", "circle"),
    [
        ("import accel", [["accel", "accel.one"]]),
        ("def late():\n    from accel import verb", [["accel", "accel.one"]]),
        ("from accel import two", []),
        ("if TYPE_CHECKING:\n    from accel import verb", []),
    ],
)
def test_late_imports_count_and_those_for_types_do_not(text: str, circle: list[list[str]]) -> None:
    face = "def __getattr__(name):\n    from accel.one import verb\n    return verb\n"
    assert circles(graph({"accel": face, "accel.one": text, "accel.two": "import torch"})) == circle
