"""A calibration from the user's own calls of the pipeline: `with accel.calibrating(pipe) as calibration: pipe(...)`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accel.caching.calibration.calibrate import averaged, recording, with_parts_of_first
from accel.caching.calibration.calibration import Calibration
from accel.caching.calibration.recorder import RecordSteps, RunRecord
from accel.call_forms import call_default

# Of the numbers that a call was given these are told even where they are the pipeline's defaults.
ALWAYS_TOLD = ("num_inference_steps", "guidance_scale")


@contextmanager
def calibrating(pipe: Any, *, layer_lags: int = 0) -> Iterator[Calibration]:
    """Records the pipeline's calls in the block, and makes of them what `accel.calibrate` makes of a list of prompts.

    One ordinary call with any arguments corrects forecasts; several are averaged, and 10 and more make stable
    thresholds and a stable polynomial. Calls are computed in full: what they return is the unaccelerated output. An
    attached session is suspended meanwhile, and is on again afterwards, the same object.

    The calibration is complete when the block ends. Where no call was made, or each was interrupted, or had fewer than
    two steps, the block warns and does not raise, so that no output is lost; asking the calibration for anything is a
    ValueError then, with the same sentence. Calls with other steps than the longest, or at another guidance scale than
    the first, or with parts that were exchanged meanwhile, are left out, and its `notes` say so.
    layer_lags: as in `accel.calibrate`, for SmoothCache, which needs 1 to 3 and much memory; 0 leaves it out.
    """
    calibration = Calibration.unfinished("This calibration is complete only when its `with` block has ended.")
    seen = None
    try:
        with recording(pipe, layer_lags) as seen:
            yield calibration
    except BaseException:  # which says more than that there is nothing to measure
        if seen is not None:
            _finish(calibration, pipe, seen)
        raise
    missing = _finish(calibration, pipe, seen)
    if missing:
        warnings.warn(missing, stacklevel=3)


def _finish(calibration: Calibration, pipe: Any, method: RecordSteps) -> str:
    """Why there is nothing to finish it with, or ""."""
    try:
        calibration.finish(_measured(pipe, method.courses))
    except ValueError as reason:
        calibration.finish(str(reason))
        return str(reason)
    return ""


def _measured(pipe: Any, courses: list[RunRecord]) -> Calibration:
    """Raises ValueError, in one sentence, where nothing can be made of what was recorded."""
    if not courses:
        raise ValueError(
            "Nothing was recorded: no call of this pipeline came to a denoising step in the block, or accel.accelerate "
            "in it ended the recording. Call it once there: with accel.calibrating(pipe) as calibration: pipe(...)."
        )
    whole = [course for course in courses if course.whole]
    if not whole:
        last = courses[-1]
        raise ValueError(
            f"Nothing was recorded: the run was interrupted after {len(last.rows)} of {last.end} steps, and a part of "
            f"a run says nothing about the rest. Call the pipeline again in a block of its own."
        )
    first = whole[0].arguments
    scale = first.get("guidance_scale")
    alike = [course for course in whole if course.arguments.get("guidance_scale") == scale]
    told = {name: value for name, value in first.items() if name in ALWAYS_TOLD or value != call_default(pipe, name)}
    calls = sum(course.denoiser == alike[0].denoiser for course in with_parts_of_first(alike))
    found = averaged(pipe, alike, calls, told).calibration
    left_out = {"were interrupted": len(courses) - len(whole), f"had not guidance {scale}": len(whole) - len(alike)}
    notes = (f"{count} recorded parts of runs {why}: left out" for why, count in left_out.items() if count)
    return Calibration(found.key, found.tables, (*found.notes, *notes))
