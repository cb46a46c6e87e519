"""Reading and writing the JSON files that people keep: recipes and calibrations."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Writes the file whole or not at all, and the folders above it where they are missing."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(target)


def read_json(path: str | os.PathLike[str], what: str, parse: Callable[[Any], T]) -> T:
    """What `parse` makes of the file. Raises ValueError, in one sentence, for one that is missing or malformed."""
    name = os.fspath(path)
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"There is no {what} file {name}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The {what} file {name} cannot be read: {error}.") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}.") from None
    try:
        return parse(data)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
