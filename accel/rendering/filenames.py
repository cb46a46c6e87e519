"""File names from a template. Whatever stands in a prompt, a name stays inside the output folder and is legal."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from pathlib import PurePosixPath

from accel.plain_data import quote
from accel.rendering.fields import suggestion
from accel.rendering.jobs import Job

SLUG_CHARACTERS = 40
PART_BYTES = 180  # file systems allow 255 for a name; the suffix and a number come on top

FIELDS: dict[str, Callable[[Job], object]] = {
    "index": lambda job: job.index,
    "line": lambda job: job.line,
    "id": lambda job: job.id,
    "slug": lambda job: slug(job.prompt or ""),
    "seed": lambda job: job.seed,
    "steps": lambda job: job.steps or 0,
    "width": lambda job: job.width or 0,
    "height": lambda job: job.height or 0,
    "frames": lambda job: job.frames or 0,
    "guidance": lambda job: job.guidance or 0.0,
    "model": lambda job: slug(job.model),
    "recipe": lambda job: slug(job.recipe_name),
}

# Windows opens devices by these names, with any suffix.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}


@lru_cache(maxsize=1024)
def wrong_template(template: str) -> str:
    """What is wrong with a template, in one sentence; "" for nothing."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        return f"output {quote(template)} is not a template: {error}."
    for _, name, form, conversion in parts:
        if name is not None and name not in FIELDS:
            return f"output: {{{name[:80]}}} is not known; {suggestion(name, list(FIELDS))}"
        if conversion or (form and (re.search(r"[{c]|\d{3}", form))):  # "c" makes a character of any number, or fails
            return f"output {quote(template)}: fields take a plain format such as {{index:05d}} and nothing else."
    try:
        name = template.format(**{field: read(Job("model")) for field, read in FIELDS.items()})
    except (ValueError, TypeError) as error:
        return f"output {quote(template)}: {error}."
    literal = "".join(text + ("x" if field is not None else "") for text, field, *_ in parts)
    if re.match(r"[/\\]|[A-Za-z]:", literal):
        return f"output {quote(template)}: a name is inside the output folder, so it must not start at a root or drive."
    if ".." in literal.replace("\\", "/").split("/") or not name.strip("/ ."):
        return f"output {quote(template)}: a name must not be empty or lead out of the output folder."
    return ""


def slug(text: str) -> str:
    """The beginning of a text in letters, digits and hyphens, in small letters; letters of every script stay."""
    folded = unicodedata.normalize("NFC", text).lower()
    words = "".join(
        letter if letter.isalnum() or unicodedata.category(letter)[0] == "M" else " " for letter in folded
    ).split()
    kept = "-".join(words)[:SLUG_CHARACTERS].strip("-")
    return kept or "untitled"


def file_stem(job: Job, suffix: str = "") -> PurePosixPath:
    """The job's name below the output folder, without suffix, by its template, which may end in the file's `suffix`."""
    name = job.output.format(**{field: FIELDS[field](job) for field in _named(job.output)})
    name = name[: -len(suffix)] if suffix and name.lower().endswith(suffix) else name
    parts = [safe_part(part) for part in name.replace("\\", "/").split("/") if part.strip(" .")]
    return PurePosixPath(*(parts or [job.id]))


@lru_cache(maxsize=256)
def _named(template: str) -> frozenset[str]:
    """The fields that a template names."""
    return frozenset(name for _, name, *_ in string.Formatter().parse(template) if name is not None)


def safe_part(part: str) -> str:
    """One part of a path as every common file system takes it: no control or invisible characters, no wildcards, no
    hidden files, no device names, not too long.
    """
    visible = (letter for letter in unicodedata.normalize("NFC", part) if unicodedata.category(letter)[0] != "C")
    legal = "".join("-" if letter in '<>:"/\\|?*%' else letter for letter in visible).strip(" .")
    while len(legal.encode()) > PART_BYTES:
        legal = legal[:-1]
    legal = legal.rstrip(" .") or "untitled"
    return f"_{legal}" if legal.lower().partition(".")[0] in _DEVICES else legal
