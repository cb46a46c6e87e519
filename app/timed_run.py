"""One timed, watched call of a pipeline, and the comparison of two."""

from __future__ import annotations

import secrets
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from accel.app.models import LoadedModel
from accel.app.pair import Pair, Side
from accel.app.settings import StudioSettings
from accel.app.sweep import SweepPoint
from accel.app.watch import PreviewGuard, Tell, guard_run
from accel.measure.media import Pixels, changed_sizes, to_pixels
from accel.measure.metrics import Clip, psnr, to_clips
from accel.measure.runner import attach_for_run, without_progress_bars
from accel.recipe import Recipe
from accel.rendering.encoding import encode
from accel.rendering.jobs import Job
from accel.rendering.memory import device_of, peak, reset_peak
from accel.rendering.pipeline_arguments import arguments_of, parameters_of, plain_class, wrong_arguments
from accel.rendering.worker import quality

WARMUP_STEPS = 2
_TIMED = ("total", "denoise")
_DISAGREE = 1.1  # processor time and the clock, beyond which the page says so


@dataclass(frozen=True)
class TimedRun:
    """One call: the clip as the pipeline gave it, and what it is in a page. `when` is in seconds since 1970."""

    clip: Clip
    side: Side
    when: float


def run_timed(
    held: LoadedModel, settings: StudioSettings, folder: Path, fps: float, cancelled: Callable[[], bool], tell: Tell
) -> TimedRun:
    """Calls the pipeline once, timed, after a short call that is not where this kind of call is the first.

    Raises ValueError for settings that the pipeline does not take, Cancelled where the call was cancelled, and whatever
    the pipeline raises. The pipeline comes back unaccelerated in any case.
    """
    job = settings.job(fps)
    wrong = wrong_arguments(job, plain_class(held.pipe))
    if wrong:
        raise ValueError(wrong[0])
    _warm_up(held, job, settings.recipe, cancelled)
    clip, fields = _call(held, job, settings.recipe, cancelled, tell)
    return TimedRun(clip, kept_side(to_pixels(clip), job, folder, fields), time.time())


def _warm_up(held: LoadedModel, job: Job, recipe: Recipe, cancelled: Callable[[], bool]) -> None:
    """A call of few steps: allocators, kernels and lazily built tables. It teaches the previews too.

    A method is warm for a size once it has run; its parameters make no difference to what a device must prepare.
    """
    kinds = tuple(type(method).__name__ for method in recipe.methods().values())
    warm = (kinds, job.width, job.height, job.frames, job.guidance)
    if warm not in held.warm:
        few = replace(job, steps=min(WARMUP_STEPS, job.steps or WARMUP_STEPS))
        _call(held, few, recipe, cancelled, lambda step, steps, preview: None, rough=True)
        held.warm.add(warm)


def _call(
    held: LoadedModel, job: Job, recipe: Recipe, cancelled: Callable[[], bool], tell: Tell, *, rough: bool = False
) -> tuple[Clip, dict[str, Any]]:
    """The clip, and the fields of a Side that are not about its file. rough: it is no clip worth learning much from."""
    pipe, device = held.pipe, device_of(held.pipe)
    arguments = arguments_of(job) | {"generator": torch.Generator("cpu").manual_seed(job.seed)}
    if "output_type" in (parameters_of(plain_class(pipe)) or {"output_type": False}):
        arguments["output_type"] = "np"  # floats, so that rounding to 8 bits does not hide small differences
    with without_progress_bars(pipe), attach_for_run(pipe, recipe) as session:
        watch = PreviewGuard(session, held.preview, cancelled, tell, rough=rough)
        with guard_run(pipe, watch):
            reset_peak(device)
            processor = time.process_time()
            output = pipe(**arguments)
            processor = time.process_time() - processor
            report, peak_bytes = session.report(), peak(device)
    clips = to_clips(output)
    if len(clips) != 1:
        raise ValueError(f"the pipeline returned {len(clips)} clips; the app shows one at a time.")
    if watch.latents is not None:
        held.preview.learn(watch.latents, _unclipped(watch.decoded, clips[0], rough), rough=rough)
    seconds = dict(report.seconds)
    for phase in ("total", "denoise"):
        seconds[phase] = max(0.0, seconds.get(phase, 0.0) - watch.spent)
    if device.type == "cpu":
        seconds["processor"] = max(0.0, processor - watch.processor)
    data = report.to_dict()
    return clips[0], {
        "seconds": seconds,
        "calls": data["calls"],
        "levers": data["levers"],
        "timeline": report.timeline(),
        "report": str(report),
        "peak_bytes": peak_bytes,
    }


def _unclipped(decoded: torch.Tensor | None, clip: Clip, rough: bool) -> Clip:
    """The clip as the autoencoder gave it, in [-1, 1] and beyond, where it is the same pixels; else the clip itself.

    A rough call's need not be the same: see `PreviewGuard.decode`.
    """
    if decoded is None or decoded.shape[0] != 1 or decoded.ndim not in (4, 5):
        return clip
    frames = decoded[0].movedim(0, -1).float().cpu().numpy()
    found: Clip = np.asarray((frames if decoded.ndim == 5 else frames[None]) / 2.0 + 0.5, np.float32)
    if found.shape != clip.shape:
        return clip
    return found if rough or np.allclose(np.clip(found, 0.0, 1.0), clip, atol=0.02) else clip


def kept_side(frames: Pixels, job: Job, folder: Path, fields: dict[str, Any]) -> Side:
    """Writes the clip to a file, which is deleted with the object that is returned."""
    data, suffix = encode(job, frames)
    path = folder / f"{job.id}-{secrets.token_hex(16)}{suffix}"  # the server gives a clip to whoever knows its name
    path.write_bytes(data)
    side = Side(frames=frames, path=path, **fields)
    weakref.finalize(side, path.unlink, missing_ok=True).atexit = False
    return side


def make_pair(
    base: StudioSettings,
    point: SweepPoint,
    baseline: TimedRun,
    accelerated: TimedRun,
    *,
    reused: bool,
    fps: float,
    pace: float = 1.0,
) -> Pair:
    """The pair of two calls. pace: how many times as long the unaccelerated call would have taken beside the other.

    Raises ValueError where their clips have other shapes.
    """
    ours, theirs = accelerated.clip, baseline.clip
    found = quality(ours, theirs)
    per_frame = tuple(psnr(ours[index : index + 1], theirs[index : index + 1]) for index in range(len(theirs)))
    ratios = {phase: _ratio(pace * baseline.side.effort(phase), accelerated.side.effort(phase)) for phase in _TIMED}
    return Pair(
        key=point.key(base),
        settings=point.settings,
        baseline=baseline.side,
        accelerated=accelerated.side,
        metrics={
            "psnr": found["psnr"],
            "ssim": found.get("ssim"),
            "flicker_difference": found.get("flicker_difference"),
            "speedup": ratios["total"],
            "denoise_speedup": ratios["denoise"],
        },
        psnr_per_frame=per_frame,
        worst_frame=int(np.argmin(per_frame)),
        baseline_reused=reused,
        timing_note=" ".join(_timing_notes(baseline, accelerated, reused)),
        baseline_when=baseline.when,
        fps=fps,
        when=accelerated.when,
        label=point.label,
        notes=tuple(changed_sizes(vars(base), theirs.shape[:3])),
    )


def _ratio(before: float, after: float) -> float | None:
    return before / after if after > 0.0 else None


def _timing_notes(baseline: TimedRun, accelerated: TimedRun, reused: bool) -> Iterator[str]:
    """How the speed-up was found, where the seconds beside it would give another one."""
    before, after = baseline.side, accelerated.side
    if reused:
        yield "The speed-up is at the pace of a few unaccelerated steps that ran beside the accelerated clip."
    if reused or "processor" not in after.seconds:
        return
    clock = _ratio(before.seconds["total"], after.seconds["total"])
    ratio = _ratio(before.effort("total"), after.effort("total"))
    if clock and ratio and not 1 / _DISAGREE < clock / ratio < _DISAGREE:
        yield f"The speed-up is of processor time: the machine had other work, and the clock alone says {clock:.2f}×."
