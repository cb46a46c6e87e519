"""Manifests: what to render, one line per job, as JSONL or CSV. All of it is checked before any model loads."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.files import read_bounded
from accel.plain_data import parse_json, quote
from accel.rendering.fields import ARGUMENTS, FIELDS, MEDIA, read_cell, read_fields, suggestion

MOST_JOBS = 1_000_000
MOST_BYTES, LONGEST_LINE = 2**30, 4 * 2**20
_SHOWN = 20


@dataclass(frozen=True)
class Line:
    """What stands in one line, defaults included, before anything is checked."""

    number: int
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Problem:
    """What is wrong with a line, in one sentence. Line 0 is the manifest as a whole."""

    line: int
    text: str


class ManifestError(ValueError):
    """All that is wrong with a manifest: `problems`. The sentence has the first twenty and how many there are."""

    def __init__(self, name: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(dict.fromkeys(sorted(problems, key=lambda problem: problem.line)))
        lines = [f"line {each.line}: {each.text}" if each.line else each.text for each in self.problems[:_SHOWN]]
        many = len(self.problems)
        lines += [f"and {many - _SHOWN} more."] if many > _SHOWN else []
        count = f"{many} things are" if many > 1 else "one thing is"
        super().__init__("\n  ".join([f"{count} wrong with {name}; nothing was rendered:", *lines]))


def read_manifest(source: Any) -> tuple[str, Path, list[Line], list[Problem]]:
    """The name of the manifest, the folder that its paths are relative to, its lines, and those that cannot be read.

    `source` is a file that ends in .jsonl, .csv, or is a rendered picture or video with embedded settings; or a list of
    prompts, dicts, or paths of such files. Raises ValueError for a file that is missing or that is no text.
    """
    if isinstance(source, (str, os.PathLike)):
        return _from_file(Path(source))
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise TypeError(f"a manifest is a file or a list of prompts or dicts, not {type(source).__name__}.")
    lines, problems = [], []
    for number, item in enumerate(source, 1):
        if isinstance(item, str):
            lines.append(Line(number, {"prompt": item}))
        elif isinstance(item, os.PathLike):
            lines.append(Line(number, rendered_line(Path(item))))
        elif isinstance(item, Mapping):
            lines.append(Line(number, {str(name): value for name, value in item.items()}))
        else:
            problems.append(Problem(number, f"a job is a prompt or a dict of fields, not {type(item).__name__}."))
    return "the list", Path.cwd(), lines, problems


def rendered_line(path: Path) -> dict[str, Any]:
    """The settings inside a file that was rendered earlier."""
    from accel.rendering.encoding import settings_of

    return settings_of(path)


def _from_file(path: Path) -> tuple[str, Path, list[Line], list[Problem]]:
    folder = path.absolute().parent
    if path.suffix.lower() in MEDIA:
        return path.name, folder, [Line(1, rendered_line(path))], []
    try:
        data = read_bounded(path, MOST_BYTES)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"there is no manifest {str(path)!r}.") from None
    except OSError as error:
        raise ValueError(f"the manifest {str(path)!r} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{path.name}, line {line}: this is not UTF-8; save the file in that encoding.") from None
    except ValueError as error:
        raise ValueError(f"the manifest {str(path)!r} cannot be read: {error}.") from None
    del data
    if path.suffix.lower() == ".csv":
        lines, problems = read_csv(text)
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        lines, problems = read_jsonl(text)
    else:
        raise ValueError(f"a manifest ends in .jsonl or .csv; {path.name!r} does not.")
    return path.name, folder, lines, problems


def read_jsonl(text: str) -> tuple[list[Line], list[Problem]]:
    """One JSON object per line. `{"defaults": {...}}` alone in a line holds for the lines after it.

    Empty lines, and lines that begin with //, are passed over.
    """
    lines: list[Line] = []
    problems: list[Problem] = []
    defaults: dict[str, Any] = {}
    for number, row in enumerate(_split(text), 1):
        if not row.strip() or row.lstrip().startswith("//"):
            continue
        if len(row) > LONGEST_LINE:
            problems.append(Problem(number, f"a line has at most {LONGEST_LINE} characters, not {len(row)}."))
            continue
        try:
            data = parse_json(row, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            problems.append(Problem(number, f"this is not JSON: {error.msg} at column {error.colno}."))
            continue
        except ValueError as error:
            problems.append(Problem(number, str(error)))
            continue
        if not isinstance(data, dict):
            problems.append(Problem(number, f'a job is an object such as {{"prompt": "a corgi"}}, not {quote(data)}.'))
        elif set(data) == {"defaults"}:
            if isinstance(data["defaults"], dict):
                defaults = data["defaults"]
                problems += [Problem(number, f"defaults: {text}") for text in read_fields(defaults)[1]]
            else:
                problems.append(Problem(number, "defaults must be an object of fields."))
        else:
            lines.append(Line(number, defaults | data))
    return lines, problems


def _split(text: str) -> Iterator[str]:
    """The lines, one at a time."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name in found if sum(1 for other, _ in pairs if other == name) > 1)
        raise ValueError(f"{quote(twice)} is given twice; keep one.")
    return found


def read_csv(text: str) -> tuple[list[Line], list[Problem]]:
    """A header with the names of the fields, then one job per row; an empty cell leaves its field out."""
    problems: list[Problem] = []
    rows = _rows(text, problems)
    header = next(rows, None)
    if header is None:
        return [], problems
    names = [name.strip() for name in header[1]]
    problems += [Problem(header[0], f"the column {quote(name)} is there twice.") for name in _twice(names)]
    for name in names:
        if name not in FIELDS and not name.startswith(ARGUMENTS):
            hint = suggestion(name, list(FIELDS))
            problems.append(Problem(header[0], f"the column {quote(name)} is not a field; {hint}"))
    if problems:
        return [], problems
    lines = []
    for number, row in rows:
        if len(row) > len(names):
            hint = f"{len(row)} cells under {len(names)} columns; put quotes around text with a comma."
            problems.append(Problem(number, hint))
            continue
        try:
            cells = [(name, cell) for name, cell in zip(names, row, strict=False) if cell.strip()]
            lines.append(Line(number, {name: read_cell(name, cell) for name, cell in cells}))
        except ValueError as error:
            problems.append(Problem(number, str(error)))
    return lines, problems


def _rows(text: str, problems: list[Problem]) -> Iterator[tuple[int, list[str]]]:
    """The rows with the number of the line that they begin in; a quoted cell may hold line breaks.

    Where the file cannot be read on, that is added to `problems`, and the rows end.
    """
    reader = csv.reader(io.StringIO(text, newline=""))
    begins = 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield begins, row
            begins = reader.line_num + 1
    except csv.Error:
        limit = csv.field_size_limit()
        hint = f"a cell has more than {limit} characters; a closing quote may be missing here."
        problems.append(Problem(begins, hint))


def _twice(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def expand_grid(
    lines: Iterable[Line], overrides: Mapping[str, Any], grid: Mapping[str, Sequence[Any]]
) -> Iterator[Line | Problem]:
    """Each line with `overrides` on top, once for every combination of the values of its grid and of `grid`.

    A line's own grid is its field "grid", such as {"steps": [4, 8], "guidance": [3, 6]}.
    """
    count = 0
    for line in lines:
        fields = dict(line.fields)
        own = fields.pop("grid", None) or {}
        problems = grid_problems(own)
        if problems:
            yield from (Problem(line.number, text) for text in problems)
            continue
        axes = {**own, **grid}
        for values in itertools.product(*axes.values()):
            count += 1
            if count > MOST_JOBS:
                yield Problem(line.number, f"the grid makes more than {MOST_JOBS} jobs; make it smaller.")
                return
            yield Line(line.number, fields | dict(overrides) | dict(zip(axes, values, strict=True)))


def grid_problems(grid: Any) -> list[str]:
    """What is wrong with a grid, one sentence each."""
    if not isinstance(grid, Mapping):
        return [f'grid must be an object such as {{"steps": [4, 8]}}, not {quote(grid)}.']
    unknown = [name for name in grid if name not in FIELDS and not str(name).startswith(ARGUMENTS)]
    problems = [f"grid: {quote(name)} is not a field; {suggestion(str(name), list(FIELDS))}" for name in unknown]
    empty = [name for name, values in grid.items() if not isinstance(values, (list, tuple)) or not values]
    return problems + [f"grid: {str(name)[:80]} must be a list of at least one value." for name in empty]


def parse_settings(given: Iterable[str], *, several: bool = False) -> dict[str, Any]:
    """The `key=value` of `--set`, or with `several` the `key=value,value` of `--grid` (or a JSON list, for commas)."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals:
            raise ValueError(f"write name=value, such as steps=8, not {text!r}.")
        if name not in FIELDS and not name.startswith(ARGUMENTS):
            raise ValueError(f"{name!r} is not a field; {suggestion(name, list(FIELDS))}")
        if several and value.lstrip().startswith("["):
            try:
                found[name] = parse_json(value)
            except json.JSONDecodeError as error:
                raise ValueError(f"{text!r} is not a JSON list: {error.msg}.") from None
        else:
            found[name] = [read_cell(name, part) for part in value.split(",")] if several else read_cell(name, value)
    return found
