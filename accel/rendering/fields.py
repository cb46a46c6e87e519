"""What a line of a manifest may say: the fields, what values they take, and one sentence for each wrong one."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from accel.measure.media import FASTEST, SLOWEST
from accel.plain_data import encodable, parse_json, quote, unfit_reason
from accel.recipe import Recipe
from accel.rendering.inputs import FILES

FORMATS = ("png", "webp", "mp4", "wav", "flac")
MEDIA = tuple(f".{name}" for name in FORMATS)
"""The suffixes of files that a render makes, all of which can hold their settings."""
MOST_REPEATS = 100_000
DRAFT_SHARE = 0.25  # as that of accel.draft
MOST_SEEDS = 10_000  # that one line compares
MOST_PIXELS = 65_536  # of a side
LONGEST_TEXT, LONGEST_NAME = 131_072, 4_096  # characters
MOST_ARGUMENTS = 2**20  # characters, as JSON
ARGUMENTS = "arguments."
"""A column or a `--set` called `arguments.strength` is the entry "strength" of the field "arguments"."""

RESERVED = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "height": "height",
    "width": "width",
    "num_frames": "frames",
    "generator": "seed",
    **{name: name for name in FILES},
    "num_images_per_prompt": "repeat",
    "num_videos_per_prompt": "repeat",
}
"""Arguments of the pipeline's call that are fields of a line, by the name of the field."""

FORBIDDEN = ("return_dict", "output_type", "callback_on_step_end", "latents")
"""Arguments that the renderer gives itself, or that no text file can hold."""


@dataclass(frozen=True)
class Field:
    """One field. `text`: a CSV cell is taken as it stands; other cells are read as JSON."""

    read: Callable[[Any], Any]
    text: bool = False


def suggestion(word: str, known: list[str]) -> str:
    """What to write instead of an unknown word."""
    return _suggestion(word[:80], tuple(known))


@lru_cache(maxsize=1024)
def _suggestion(word: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"it may be {', '.join(known)}."


def read_cell(name: str, cell: str) -> Any:
    """A cell of a CSV file, or the value of a `--set`, as the value that a JSON line would have.

    Raises ValueError for data that is nested too deep, or has numbers of too many digits.
    """
    field = FIELDS.get(name)
    if field is not None and field.text:
        return cell
    try:
        return parse_json(cell)
    except json.JSONDecodeError:
        return cell  # a word: the field says what is wrong with it, if anything is


def read_fields(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields of one line with checked values, and a sentence for each that is wrong. null leaves a field out."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    arguments: dict[str, Any] = {}
    for name, value in given.items():
        if name.startswith(ARGUMENTS) and name != ARGUMENTS:
            arguments[name.removeprefix(ARGUMENTS)] = value
        elif name not in FIELDS:
            problems.append(f"{quote(name)} is not a field; {suggestion(name, list(FIELDS))}")
        elif value is not None:
            try:
                values[name] = FIELDS[name].read(value)
            except ValueError as error:
                problems.append(f"{name} {error}")
    try:
        arguments = _arguments(values.get("arguments", {}) | arguments)
    except ValueError as error:
        problems.append(f"arguments {error}")
    values |= {"arguments": arguments} if arguments else {}
    return values, problems + _conflicts(values)


def _conflicts(values: dict[str, Any]) -> list[str]:
    """Resolves the fields that are two names of one thing."""
    problems = []
    if "size" in values:
        if "width" in values or "height" in values:
            problems.append("size and width or height are both given; keep one of them.")
        values["width"], values["height"] = values.pop("size")
    if "preset" in values:
        if "recipe" in values:
            problems.append("recipe and preset are both given; they are the same thing, so keep one.")
        values["recipe"] = values.pop("preset")
    if values.get("seed", 0) + values.get("repeat", 1) > 2**63:
        problems.append("seed is too large for its repeats; the last seed must be below 2**63.")
    return problems


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {quote(value)}.")
    if "\0" in value:
        raise ValueError("must not hold a NUL character.")
    if len(value) > LONGEST_TEXT:
        raise ValueError(f"must have at most {LONGEST_TEXT} characters, not {len(value)}.")
    if not encodable(value):
        raise ValueError("holds half of a surrogate pair, which is not a character.")
    return value


def _name(value: Any) -> str:
    if not _text(value).strip():
        raise ValueError("is empty; leave the field out instead.")
    if len(value) > LONGEST_NAME:
        raise ValueError(f"must have at most {LONGEST_NAME} characters, not {len(value)}.")
    return str(value)


def _whole(least: int, most: int = 2**63 - 1) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            limit = f"from {least}" + (f" to {most}" if most < 2**63 - 1 else "")
            raise ValueError(f"must be a whole number {limit}, not {quote(value)}.")
        return value

    return read


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
        raise ValueError(f"must be a number, not {quote(value)}.")
    return float(value)


def _draft(value: Any) -> float | None:
    """true, or the share of a run; false and 0 are no draft."""
    if isinstance(value, bool):
        return DRAFT_SHARE if value else None
    if not 0.0 <= _number(value) <= 1.0:
        raise ValueError(f"must be true, or the share of a run from 0 to 1, not {quote(value)}.")
    return float(value) or None


def _rate(value: Any) -> float:
    if _number(value) <= 0:
        raise ValueError(f"must be above 0, not {quote(value)}.")
    if not SLOWEST <= value <= FASTEST:
        raise ValueError(f"must be from {SLOWEST} to {FASTEST}, not {quote(value)}.")
    return float(value)


def _size(value: Any) -> tuple[int, int]:
    """128, "832x480" or [832, 480] as (width, height)."""
    parts = value.lower().split("x") if isinstance(value, str) else value if isinstance(value, list) else [value]
    if isinstance(value, str) and all(part.strip().isdecimal() and len(part) < 20 for part in parts):
        parts = [int(part) for part in parts]
    if len(parts) not in (1, 2) or not all(type(part) is int and part > 0 for part in parts):
        raise ValueError(f'must be like 512 or "832x480" (width x height), not {quote(value)}.')
    width, height = int(parts[0]), int(parts[-1])
    if max(width, height) > MOST_PIXELS:
        raise ValueError(f"must be at most {MOST_PIXELS} pixels wide and high, not {quote(value)}.")
    return width, height


def _format(value: Any) -> str:
    if value not in FORMATS:
        raise ValueError(f"must be one of {', '.join(FORMATS)}, not {quote(value)}.")
    return str(value)


def _share(value: Any) -> float:
    if not 0 <= _number(value) <= 1:
        raise ValueError(f"must be from 0 to 1, not {quote(value)}.")
    return float(value)


def _loras(value: Any) -> list[dict[str, Any]]:
    """A file of LoRA weights, {"weights": file, "scale": 0.8}, or a list of these."""
    found = []
    for each in value if isinstance(value, (list, tuple)) else [value]:
        named = {"weights": each} if isinstance(each, str) else each
        if not isinstance(named, dict) or set(named) - {"weights", "scale"} or "weights" not in named:
            raise ValueError(
                f'must be a file, or {{"weights": file, "scale": 0.8}}, or a list of them, not {quote(each)}.'
            )
        found.append({"weights": _name(named["weights"]), "scale": _number(named.get("scale", 1.0))})
    return found


def _recipe(value: Any) -> Any:
    if value is False:
        return "off"
    if isinstance(value, Recipe):
        return value.to_dict()
    if not isinstance(value, (str, dict)):
        raise ValueError(f'must be a preset, a recipe file, a recipe as an object, or "off", not {quote(value)}.')
    if isinstance(value, str):
        return _name(value)
    if problem := unfit_reason(value, finite=False):
        raise ValueError(problem)
    return value


def _arguments(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f'must be an object such as {{"strength": 0.6}}, not {quote(value)}.')
    if not value:
        return value
    if problem := unfit_reason(value):
        raise ValueError(problem)
    if len(json.dumps(value)) > MOST_ARGUMENTS:
        raise ValueError(f"must have at most {MOST_ARGUMENTS} characters as JSON.")
    for name in value:
        if name in RESERVED:
            raise ValueError(f"must not hold {name!r}; it has a field of its own, {RESERVED[name]!r}.")
        if name in FORBIDDEN:
            raise ValueError(f"must not hold {name!r}, which rendering a batch decides itself.")
    return value


FIELDS: dict[str, Field] = {
    "model": Field(_name, text=True),
    "prompt": Field(_text, text=True),
    "negative_prompt": Field(_text, text=True),
    "seed": Field(_whole(0)),
    "draft": Field(_draft),
    "best_of": Field(_whole(2, MOST_SEEDS)),
    "repeat": Field(_whole(1, MOST_REPEATS)),
    "steps": Field(_whole(1, 100_000)),
    "size": Field(_size),
    "width": Field(_whole(1, MOST_PIXELS)),
    "height": Field(_whole(1, MOST_PIXELS)),
    "frames": Field(_whole(1, 1_000_000)),
    "guidance": Field(_number),
    "recipe": Field(_recipe),
    "preset": Field(_recipe),
    "dtype": Field(_name, text=True),
    **{name: Field(_name, text=True) for name in FILES},
    "strength": Field(_share),
    "lora": Field(_loras),
    "output": Field(_name, text=True),
    "format": Field(_format, text=True),
    "fps": Field(_rate),
    "arguments": Field(_arguments),
}
