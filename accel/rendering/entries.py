"""What a line of a ledger must look like to be accepted: folders, like manifests, come from elsewhere."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from accel.plain_data import parse_json, unfit_reason
from accel.rendering.fields import MEDIA

MOST_BYTES = 8 * 2**20
"""Of a line. One of ours has some thousand; a line of a manifest with everything that it may have, two million."""

Entry = dict[str, Any]

_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_PART = re.compile(r"parts(-\d{1,9}-of-\d{1,9})?/[0-9A-Za-z_-]{1,120}\.part")


def entry_of(line: bytes) -> Entry | None:
    """The entry that stands in a line of a ledger; None for everything else, such as a line that a crash cut off."""
    if len(line) > MOST_BYTES:
        return None
    try:
        text = line.decode()
        entry = parse_json(text)
    except ValueError:
        return None
    if not isinstance(entry, dict) or ("\\u" in text and unfit_reason(entry, finite=False)):
        return None
    status = entry.get("status")
    needed = ("id", "status", "file") if status == "ok" else ("id", "status")
    right = all(name in entry for name in needed) and all(
        read(entry[name]) for name, read in FIELDS.items() if name in entry
    )
    return entry if right else None


def is_name(value: Any) -> bool:
    """Whether this is the name of a file that a render may have made: below the folder, visible, media."""
    if not isinstance(value, str) or len(value) > 4096:
        return False
    path = PurePosixPath(value)
    return (
        str(path) == value
        and not path.is_absolute()
        and path.suffix in MEDIA
        and not any(part.startswith(".") for part in path.parts)
        and not any(letter in '<>:"\\|?*' or unicodedata.category(letter)[0] == "C" for letter in value)
    )


def is_part(value: Any) -> bool:
    """Whether this is the name, below `.accel`, of a file that was finished and not yet published."""
    return isinstance(value, str) and _PART.fullmatch(value) is not None


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _each(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(right, value.values()))


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _line(value: Any) -> bool:
    """A line of a manifest, as far as the page shows it. It is checked for good when somebody renders it."""
    if not isinstance(value, dict):
        return False
    texts = all(_text(value.get(name, "")) for name in ("prompt", "negative_prompt", "model", "output"))
    recipe = value.get("recipe", "")
    named = _text(recipe) or (isinstance(recipe, Mapping) and isinstance(recipe.get("name"), str | None))
    return texts and named and isinstance(value.get("arguments", {}), dict)


FIELDS: dict[str, Callable[[Any], bool]] = {
    "id": lambda value: _text(value) and _ID.fullmatch(value) is not None,
    "status": lambda value: value in ("ok", "failed"),
    "file": is_name,
    "part": is_part,
    "sha256": _text,
    "attempt": _count,
    "time": _text,
    "index": _count,
    "from_line": _count,
    "line": _line,
    "suffix": _text,
    "bytes": _count,
    "frames": _count,
    "width": _count,
    "height": _count,
    "sound_seconds": _number,
    "sampling_rate": _count,
    "seconds": _each(_number),
    "metrics": _each(_number),
    "error": _each(_text),
    "versions": _each(_text),
    "report": lambda value: isinstance(value, dict),
    "notes": _texts,
    "changes": _texts,
    "pid": _count,
    "machine": _text,
    "device": _text,
    "peak_bytes": _count,
}
"""By name, whether a value is one that we write there. Fields that a later version may add are passed over."""
