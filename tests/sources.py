"""The repository's Python files as the tests look at them: their statements without what stands in the expressions."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


def statements(tree: ast.AST, but: Callable[[ast.AST], bool] = lambda node: False) -> Iterator[ast.AST]:
    """Every statement of a file, at whatever depth, but for these and those in them: a tenth of the nodes that
    `ast.walk` goes through.
    """
    ahead = [tree]
    while ahead:
        node = ahead.pop()
        if but(node):
            continue
        yield node
        for block in BLOCKS:
            found = getattr(node, block, None)
            if isinstance(found, list):  # the body of a lambda is an expression
                ahead += found


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def declared_where(path: Path, pattern: str) -> list[ast.Import | ast.ImportFrom | ast.ClassDef]:
    """What a file declares if a line of it begins like this, else nothing: to parse it takes a hundred times as long
    as to search it. The line may stand in a string, so that what is found is to be looked at.
    """
    return declared(path) if re.search(rf"^[ \t]*{pattern}", text_of(path), re.MULTILINE) else []


@cache
def declared(path: Path) -> list[ast.Import | ast.ImportFrom | ast.ClassDef]:
    """The imports and the classes of a file, the latter without what is in them."""
    found: list[ast.Import | ast.ImportFrom | ast.ClassDef] = []
    for node in statements(ast.parse(text_of(path))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.append(node)
        elif isinstance(node, ast.ClassDef):
            found.append(ast.ClassDef(name=node.name, lineno=node.lineno, body=[], bases=[], keywords=[]))
    return found
