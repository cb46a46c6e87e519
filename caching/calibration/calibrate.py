"""Runs the recorder over prompts and averages what it measured to a calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from accel.anatomy import Anatomy
from accel.caching.calibration.calibration import Calibration
from accel.caching.calibration.key import Key, Plain, is_plain
from accel.caching.calibration.layer_errors import Errors
from accel.caching.calibration.recorder import RecordSteps, RunRecord
from accel.caching.calibration.table import DEPTHS, Rows, RunTrace, StepTable, round_row, round_value
from accel.call_forms import call_default, call_with_prompt
from accel.components import components_of
from accel.files import last_name
from accel.recipe import Recipe
from accel.session import Session, bare
from accel.terminal import telling

NOTHING = "Nothing was recorded: the runs had fewer than two steps."


class CalibrationRuns(NamedTuple):
    """What the recorder saw, run by run, and the calibration that it was averaged to. Of every output it holds 16384
    elements in float32: 7 MB for a run of 50 steps with guidance.
    """

    courses: list[RunRecord]
    anatomy: Anatomy
    guidance: float  # by how much the difference of two streams is multiplied
    calibration: Calibration


def calibrate(
    pipe: Any,
    prompts: Sequence[str],
    *,
    generate: Callable[[Any, str, int], object] | None = None,
    layer_lags: int = 3,
    progress: bool = False,
    **arguments: Any,
) -> Calibration:
    """Runs the pipeline once for each prompt, unaccelerated, and records all that the caches can be calibrated with.

    prompts: one is enough for MagCache and a schedule, 10 and more make a stable polynomial and stable thresholds.
    arguments: go to every pipeline call (steps, size, guidance: those of production, the numbers belong to them).
    generate(pipe, prompt, index) replaces the call altogether. progress: say on stderr where it is.
    layer_lags: how many steps in a row SmoothCache may reuse. It costs `layer_lags` outputs of every attention and
    feed-forward module and stream in memory; 0 saves that, and SmoothCache is left out. Apart from that, the tokens
    behind the first blocks of two steps, and 16 latents.
    An attached session is suspended meanwhile; nothing stays on the pipeline.
    Raises ValueError where there is no list of prompts, or no run of two steps.
    """
    return record(pipe, prompts, generate=generate, layer_lags=layer_lags, progress=progress, **arguments).calibration


def record(
    pipe: Any,
    prompts: Sequence[str],
    *,
    generate: Callable[[Any, str, int], object] | None = None,
    layer_lags: int = 3,
    progress: bool = False,
    **arguments: Any,
) -> CalibrationRuns:
    """`calibrate`, with what the calibration was averaged from, for those who want to simulate more with it."""
    if isinstance(prompts, str) or not prompts:
        raise ValueError('calibrate wants a list of at least one prompt, such as ["a corgi surfing"].')
    with recording(pipe, layer_lags) as method, telling(progress, "recording") as tell:
        for index, prompt in enumerate(prompts):
            tell(f"recording prompt {index + 1} of {len(prompts)}")
            if generate is not None:
                generate(pipe, prompt, index)
            else:
                call_with_prompt(pipe, prompt, {"generator": torch.Generator().manual_seed(index), **arguments})
    return averaged(pipe, method.courses, len(prompts), arguments)


@contextmanager
def recording(pipe: Any, layer_lags: int) -> Iterator[RecordSteps]:
    """The pipeline computes every call and is recorded in the block; an attached session is suspended meanwhile."""
    if type(layer_lags) is not int or layer_lags < 0:
        raise ValueError(f"layer_lags must be a whole number from 0, not {layer_lags!r}.")
    components_of(pipe)
    method = RecordSteps(layer_lags)
    with bare(pipe), Session(pipe, Recipe(cache=method, name="recording")):
        yield method


def averaged(pipe: Any, courses: list[RunRecord], prompts: int, arguments: Mapping[str, Any]) -> CalibrationRuns:
    """What was recorded in runs with these arguments. Those of other parts than the first run's, which somebody has
    exchanged in between, are left out. Raises ValueError where there is nothing to compare.
    """
    kept = with_parts_of_first(courses)
    if not kept or (anatomy := kept[0].anatomy) is None:
        raise ValueError(NOTHING)
    guidance = _scale(pipe, arguments)
    tables, notes = _tables(kept, anatomy, guidance)
    if len(kept) < len(courses):
        others = len(courses) - len(kept)
        notes += (f"{others} recorded parts of runs had another scheduler, settings or denoiser: left out",)
    key = _key(pipe, anatomy, kept[0].settings, prompts, arguments)
    return CalibrationRuns(kept, anatomy, guidance, Calibration(key, tables, notes))


def with_parts_of_first(courses: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs that had the same scheduler, settings and denoisers as the first one."""
    return [course for course in courses if course.parts == courses[0].parts]


def _key(pipe: Any, anatomy: Anatomy, settings: Mapping[str, Plain], prompts: int, arguments: Mapping[str, Any]) -> Key:
    known = {name: value for name, value in arguments.items() if is_plain(value)}
    guidance = known.get("guidance_scale", call_default(pipe, "guidance_scale"))
    return Key(
        model=last_name(anatomy.repository),
        pipeline=anatomy.pipeline,
        scheduler=", ".join(anatomy.schedulers.values()),
        prediction=anatomy.prediction,
        euler_steps=not any(anatomy.uncorrectable.values()),
        guidance=float(guidance) if isinstance(guidance, (int, float)) else None,
        prompts=prompts,
        settings=settings,
        arguments=known,
    )


def _scale(pipe: Any, arguments: Mapping[str, Any]) -> float:
    """By how much guidance multiplies the difference of two streams; models with an embedded scale have another name
    for it.
    """
    known = (arguments.get(name, call_default(pipe, name)) for name in ("true_cfg_scale", "guidance_scale"))
    return next((float(scale) for scale in known if isinstance(scale, (int, float))), 1.0)


def _tables(
    courses: list[RunRecord], anatomy: Anatomy, guidance: float
) -> tuple[tuple[StepTable, ...], tuple[str, ...]]:
    """One table for each denoiser, in the order of the run, and what was left out.

    Raises ValueError where there is nothing to compare.
    """
    tables, notes = [], []
    for name in dict.fromkeys(course.denoiser for course in courses):
        mine = [course for course in courses if course.denoiser == name]
        longest = max(mine, key=lambda course: len(course.rows), default=None)
        if longest is None or len(longest.rows) < 2:
            notes.append(f"the {name} ran for less than two steps at a time: left out")
            continue
        kept = [course for course in mine if course.place == longest.place]
        tables.append(_table(kept, anatomy, guidance))
        if len(kept) < len(mine):
            notes.append(f"{len(mine) - len(kept)} of {len(mine)} runs of the {name} had other steps: left out")
    if not tables:
        raise ValueError(NOTHING)
    return tuple(sorted(tables, key=lambda table: table.start)), tuple(notes)


def _table(courses: list[RunRecord], anatomy: Anatomy, guidance: float) -> StepTable:
    """The courses of one denoiser, all with the same noise levels."""
    first = courses[0]
    part = anatomy.denoisers[first.denoiser]
    products = [found for course in courses if (found := course.inner_products(guidance)) is not None]
    gram = np.mean(products, axis=0).tolist() if products else []
    ratios = np.mean([[row.ratio for row in course.rows] for course in courses], axis=0).tolist()
    return StepTable(
        denoiser=first.denoiser,
        kind=part.kind,
        parameters=part.parameters,
        start=first.rows[0].position,
        timetable=round_row(first.timetable, 8),
        runs=tuple(_trace(course) for course in courses),
        ratios=round_row(ratios, 6),
        curves=_curves(courses),
        gram=tuple(round_row(row[: index + 1], 9) for index, row in enumerate(gram)),
    )


def _trace(course: RunRecord) -> RunTrace:
    rows = course.rows
    heard = dict.fromkeys(name for row in rows for name in row.changes)
    depths = [depth for depth in DEPTHS if all(depth in row.drifts for row in rows)]
    return RunTrace(
        changes={name: round_row([row.changes.get(name, math.nan) for row in rows]) for name in heard},
        drifts={depth: tuple(round_row(row.drifts[depth], 4) for row in rows) for depth in depths},
        rates=tuple(round_row(row.rates, 4) for row in rows),
        moves=round_row([row.move for row in rows]),
        sizes=round_row([row.size for row in rows]),
    )


def _curves(courses: list[RunRecord]) -> tuple[tuple[str, Rows], ...]:
    """For each kind of module the rows (sigma, E(1), E(2), ...), mean over depth, streams and runs."""
    found: Errors = {}
    for course in courses:
        for place, lags in course.errors.items():
            for lag, errors in lags.items():
                found.setdefault(place, {}).setdefault(lag, []).extend(errors)
    return tuple(
        (kind, tuple(_curve(courses[0], found, kind, index) for index in range(len(courses[0].rows))))
        for kind in sorted({kind for _, kind, _ in found})
    )


def _curve(course: RunRecord, found: Errors, kind: str, index: int) -> tuple[float, ...]:
    row = course.rows[index]
    errors = found.get((course.denoiser, kind, row.step), {})
    means: list[float] = []
    while len(means) + 1 in errors:  # the lags from 1 up to the first that is missing
        means.append(round_value(float(np.mean(errors[len(means) + 1]))))
    return round_value(course.timetable[row.position], 8), *means
