"""Plain data from untrusted files: parsing, checking and quoting it safely, whatever it contains."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping
from typing import Any

DEEPEST = 64
"""Levels of nesting. Python's own limit lies higher, and is an error wherever it happens to be reached."""
LONGEST = 40
"""Digits of a whole number. Python refuses some thousands, and a float holds no more than three hundred."""
MOST_VALUES = 1_000_000


def parse_json(text: str, **options: Any) -> Any:
    """The data of a JSON text. `options` go to `json.loads`.

    Raises ValueError, in one sentence: a JSONDecodeError for what is no JSON, and also for data that is nested deeper
    than `DEEPEST` or has whole numbers of more than `LONGEST` digits.
    """
    try:
        data = json.loads(text, parse_int=_whole, **options)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if text.count("{") + text.count("[") > DEEPEST and _deep(data):
        raise ValueError(_TOO_DEEP)
    return data


_TOO_DEEP = f"it is nested more than {DEEPEST} levels deep."


def _whole(digits: str) -> int:
    if len(digits) > LONGEST:
        raise ValueError(f"it holds a number of {len(digits)} digits; {LONGEST} is the limit.")
    return int(digits)


def _deep(data: Any) -> bool:
    level = [data]
    for _ in range(DEEPEST):
        level = [child for item in level for child in _inside(item)]
        if not level:
            return False
    return True


def _inside(item: Any) -> Any:
    if isinstance(item, Mapping):
        return item.values()
    return item if isinstance(item, (list, tuple)) else ()


def unfit_reason(data: Any, *, finite: bool = True, most: int = MOST_VALUES) -> str:
    """Why this is no plain data that can be written as JSON and read anywhere, such as "holds a Tensor."; "" if it is.

    finite: NaN and infinity are no JSON. most: values, all levels together, names of fields included.
    """
    level, count = [data], 0
    for _ in range(DEEPEST):
        count += len(level)
        if count > most:
            return f"holds more than {most} values."
        for item in level:
            if problem := _unfit(item, finite):
                return problem
        names = [name for item in level if isinstance(item, Mapping) for name in item]
        if not all(isinstance(name, str) for name in names):
            return "holds a field whose name is no text."
        level = [child for item in level for child in _inside(item)] + names
        if not level:
            return ""
    return f"is nested more than {DEEPEST} levels deep."


def _unfit(item: Any, finite: bool) -> str:
    if isinstance(item, str):
        return "" if encodable(item) else "holds half of a surrogate pair, which is not a character."
    if isinstance(item, float):
        return f"holds {item!r}, which is no number." if finite and not math.isfinite(item) else ""
    if isinstance(item, int):
        return f"holds a number of more than {LONGEST} digits." if abs(item) >= 10**LONGEST else ""
    known = item is None or isinstance(item, (Mapping, list, tuple))
    return "" if known else f"holds a {type(item).__name__}."


def encodable(text: str) -> bool:
    """Whether this can be written as UTF-8: JSON can hold halves of surrogate pairs, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 120

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if abs(x) < 10**LONGEST else "a number of too many digits"


_short = _Short()


def quote(value: Any) -> str:
    """`repr` for a sentence: short, whatever the value."""
    try:
        text = _short.repr(value)
    except Exception as error:  # objects of others may not even have a repr
        return f"a {type(value).__name__} ({type(error).__name__})"
    return text if len(text) <= 300 else text[:299] + "…"
