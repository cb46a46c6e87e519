"""Calibrations as files: small JSON with a schema version, beside a model or on the Hugging Face hub."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from accel import hub
from accel.caching.calibration.key import Key
from accel.caching.calibration.table import RunTrace, StepTable, falling
from accel.files import read_json, write_whole

if TYPE_CHECKING:
    from accel.caching.calibration.calibration import Calibration

FILE = "accel_calibration.json"
SCHEMA = 1


def save(calibration: Calibration, path: str | os.PathLike[str]) -> None:
    """Writes the file whole or not at all."""
    write_whole(path, to_json(calibration))


def load(path: str | os.PathLike[str]) -> Calibration:
    """Raises ValueError, in one sentence, for a file that is missing or malformed."""
    return read_json(path, "calibration", from_dict)


def from_pretrained(folder_or_repository: str | os.PathLike[str], **hub_arguments: Any) -> Calibration:
    """From a folder that exists, else from the hub."""
    return load(hub.find(FILE, folder_or_repository, **hub_arguments))


def push(calibration: Calibration, repository: str, **hub_arguments: Any) -> str:
    """Returns the address of the commit."""
    return hub.push(to_json(calibration), FILE, repository, "Calibration for accel", **hub_arguments)


def to_json(calibration: Calibration) -> str:
    """One line for the key and one for each denoiser, so that differences can be read."""
    tables = ",\n ".join(_line(_table_data(table)) for table in calibration.tables)
    head = _line({"schema": SCHEMA, "key": asdict(calibration.key), "notes": calibration.notes})
    return f'{head[:-1]},\n"tables":[\n {tables}\n]}}\n'


def from_dict(data: object) -> Calibration:
    """Raises ValueError, naming the field, for anything that is not a calibration."""
    from accel.caching.calibration.calibration import Calibration

    if not isinstance(data, Mapping) or "tables" not in data:
        raise ValueError('a calibration is a JSON object with "schema", "key" and "tables".')
    if data.get("schema") != SCHEMA:
        raise ValueError(f"schema is {data.get('schema')!r}, but this version reads {SCHEMA}.")
    key = _get(data, "key", Mapping, "")
    unknown = sorted(set(key) - {field.name for field in fields(Key)})
    if unknown:
        raise ValueError(f"key.{unknown[0]} is not a field of a calibration.")
    texts = {name: _get(key, name, str, "key.") for name in ("model", "pipeline", "scheduler", "prediction")}
    tables = _get(data, "tables", list, "")
    if not tables:
        raise ValueError("tables is empty.")
    return Calibration(
        Key(
            **texts,
            euler_steps=_get(key, "euler_steps", bool, "key."),
            guidance=None if key.get("guidance") is None else float(_get(key, "guidance", (int, float), "key.")),
            prompts=_get(key, "prompts", int, "key."),
            settings=dict(_get(key, "settings", Mapping, "key.")),
            arguments=dict(_get(key, "arguments", Mapping, "key.")),
        ),
        tuple(_table(table, f"tables[{index}].") for index, table in enumerate(tables)),
        tuple(map(str, _get(data, "notes", list, "") if "notes" in data else ())),
    )


def _line(data: object) -> str:
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


def _table_data(table: StepTable) -> dict[str, Any]:
    data = {field.name: getattr(table, field.name) for field in fields(StepTable)}
    return data | {"runs": [_trace_data(run) for run in table.runs]}


def _trace_data(run: RunTrace) -> dict[str, Any]:
    changes = {
        name: [value if math.isfinite(value) else None for value in values] for name, values in run.changes.items()
    }
    return {field.name: getattr(run, field.name) for field in fields(RunTrace)} | {"changes": changes}


def _table(data: object, where: str) -> StepTable:
    if not isinstance(data, Mapping):
        raise ValueError(f"{where[:-1]} must be an object, not {data!r}.")
    ratios = _numbers(data.get("ratios"), f"{where}ratios")
    steps, start = len(ratios), _get(data, "start", int, where)
    timetable = _numbers(data.get("timetable"), f"{where}timetable")
    if not ratios or start < 0 or start + steps >= len(timetable) or not falling(timetable):
        raise ValueError(f"{where}timetable must hold the falling noise levels of the {steps} steps and of the end.")
    gram = _rows(data.get("gram"), f"{where}gram", None)
    if gram and [len(row) for row in gram] != list(range(1, steps + 1)):
        raise ValueError(f"{where}gram must be a lower triangle of {steps} rows.")
    curves = _get(data, "curves", list, where)
    if not all(isinstance(curve, list) and len(curve) == 2 and isinstance(curve[0], str) for curve in curves):
        raise ValueError(f"{where}curves must be pairs of a kind of module and its rows.")
    runs = _get(data, "runs", list, where)
    if not runs:
        raise ValueError(f"{where}runs is empty.")
    return StepTable(
        denoiser=_get(data, "denoiser", str, where),
        kind=_get(data, "kind", str, where),
        parameters=_get(data, "parameters", int, where),
        start=start,
        timetable=timetable,
        runs=tuple(_trace(run, steps, f"{where}runs[{index}].") for index, run in enumerate(runs)),
        ratios=ratios,
        curves=tuple((kind, _rows(rows, f"{where}curves", None)) for kind, rows in curves),
        gram=gram,
    )


def _trace(data: object, steps: int, where: str) -> RunTrace:
    if not isinstance(data, Mapping):
        raise ValueError(f"{where[:-1]} must be an object, not {data!r}.")
    changes, drifts = _get(data, "changes", Mapping, where), _get(data, "drifts", Mapping, where)
    if "output" not in changes:
        raise ValueError(f"{where}changes.output is missing.")
    if not all(str(depth).isdigit() for depth in drifts):
        raise ValueError(f"{where}drifts must be named by numbers of blocks.")
    return RunTrace(
        changes={name: _changes(values, steps, f"{where}changes.{name}") for name, values in changes.items()},
        drifts={int(depth): _rows(rows, f"{where}drifts.{depth}", steps) for depth, rows in drifts.items()},
        rates=_rows(data.get("rates"), f"{where}rates", steps),
        moves=_numbers(data.get("moves"), f"{where}moves", steps),
        sizes=_numbers(data.get("sizes"), f"{where}sizes", steps),
    )


def _changes(values: object, steps: int, where: str) -> tuple[float, ...]:
    """Null stands where there was nothing to compare with."""
    if isinstance(values, list):
        values = [math.nan if value is None else value for value in values]
    return _numbers(values, where, steps, finite=False)


def _get(data: Mapping[str, Any], name: str, kind: Any, where: str) -> Any:
    value = data.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where}{name} is {'missing' if value is None else f'not valid: {value!r}'}.")
    return value


def _rows(value: object, where: str, count: int | None) -> tuple[tuple[float, ...], ...]:
    if not isinstance(value, list) or (count is not None and len(value) != count):
        raise ValueError(f"{where} must be a list of {'rows' if count is None else f'{count} rows'} of numbers.")
    return tuple(_numbers(row, where) for row in value)


def _numbers(value: object, where: str, count: int | None = None, finite: bool = True) -> tuple[float, ...]:
    right = isinstance(value, list) and all(type(item) in (int, float) for item in value)
    if not (isinstance(value, list) and right and count in (None, len(value))):
        raise ValueError(f"{where} must be a list of {'' if count is None else f'{count} '}numbers.")
    numbers = tuple(map(float, value))
    if finite and not all(map(math.isfinite, numbers)):
        raise ValueError(f"{where} must be finite.")
    return numbers
