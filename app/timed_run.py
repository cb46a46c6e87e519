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

from accel.app.inputs import call_with_inputs
from accel.app.models import LoadedModel
from accel.app.pair import Pair, Side
from accel.app.settings import StudioSettings
from accel.app.sweep import SweepPoint
from accel.app.watch import PreviewGuard, Tell, guard_run
from accel.device import device_of, peak, reset_peak
from accel.measure.media import changed_sizes
from accel.measure.metrics import Clip, psnr
from accel.measure.output import PipelineOutput, fidelity, outputs_of
from accel.measure.pipeline_runs import attach_for_run, without_progress_bars
from accel.measure.sound import encode_wav, sampling_rate
from accel.recipe import Recipe
from accel.rendering.encoding import encode, fps_of, lost
from accel.rendering.jobs import Job
from accel.rendering.pipeline_arguments import parameters_of, plain_class, wrong_arguments

WARMUP_STEPS = 2
_TIMED = ("total", "denoise")
_METRICS = ("psnr", "ssim", "flicker_difference", "snr", "si_sdr", "stft_distance")
_DISAGREE = 1.1  # processor time and the clock, beyond which the page says so


@dataclass(frozen=True)
class TimedRun:
    """One call: what the pipeline gave, and what it is in a page. `when` is in seconds since 1970."""

    made: PipelineOutput
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
    made, fields = _call(held, job, settings.recipe, cancelled, tell)
    return TimedRun(made, kept_side(made, job, folder, fields), time.time())


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
) -> tuple[PipelineOutput, dict[str, Any]]:
    """The output, and the fields of a Side that are not about its files. rough: it is not worth learning much from."""
    pipe, device = held.pipe, device_of(held.pipe)
    arguments: dict[str, Any] = {"generator": torch.Generator("cpu").manual_seed(job.seed)}
    if "output_type" in (parameters_of(plain_class(pipe)) or {"output_type": False}):
        arguments["output_type"] = "np"  # floats, so that rounding to 8 bits does not hide small differences
    with (
        without_progress_bars(pipe),
        call_with_inputs(pipe, job) as given,
        attach_for_run(pipe, recipe) as session,
    ):
        watch = PreviewGuard(session, held.preview, cancelled, tell, rough=rough)
        with guard_run(pipe, watch):
            reset_peak(device)
            processor = time.process_time()
            output = pipe(**given | arguments)
            processor = time.process_time() - processor
            report, peak_bytes = session.report(), peak(device)
    outputs = outputs_of(output, sampling_rate(pipe))
    if len(outputs) != 1:
        raise ValueError(f"the pipeline returned {len(outputs)} outputs; the app shows one at a time.")
    made = outputs[0]
    if watch.latents is not None and made.frames is not None:
        held.preview.learn(watch.latents, _unclipped(watch.decoded, made.frames, rough), rough=rough)
    seconds = dict(report.seconds)
    for phase in ("total", "denoise"):
        seconds[phase] = max(0.0, seconds.get(phase, 0.0) - watch.spent)
    if device.type == "cpu":
        seconds["processor"] = max(0.0, processor - watch.processor)
    data = report.to_dict()
    return made, {
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


def kept_side(made: PipelineOutput, job: Job, folder: Path, fields: dict[str, Any]) -> Side:
    """Writes the output to a file, and its sound to one for the page's player, deleted with what is returned."""
    data, suffix = encode(job, made)
    heard = () if made.sound is None else (_written(folder, job.id, encode_wav(made.sound), ".wav"),)
    return _shown(made, _written(folder, job.id, data, suffix), heard, fields)


def _written(folder: Path, name: str, data: bytes, suffix: str) -> Path:
    path = folder / f"{name}-{secrets.token_hex(16)}{suffix}"  # the server gives a clip to whoever knows its name
    path.write_bytes(data)
    return path


def _shown(made: PipelineOutput, path: Path, heard: tuple[Path, ...], fields: dict[str, Any]) -> Side:
    """The side, with which its files are deleted."""
    side = Side(frames=made.pixels, path=path, heard=heard, **fields)
    for file in (path, *heard):
        weakref.finalize(side, file.unlink, missing_ok=True).atexit = False
    return side


def _difference(ours: PipelineOutput, theirs: PipelineOutput, folder: Path) -> Side | None:
    """How the difference sounds, and its spectrogram."""
    if ours.sound is None or theirs.sound is None:
        return None
    found = PipelineOutput(sound=ours.sound.minus(theirs.sound))
    path = _written(folder, "difference", encode_wav(ours.sound.minus(theirs.sound)), ".wav")
    return _shown(found, path, (path,), {"seconds": {}, "calls": [], "timeline": {}, "report": ""})


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
    """The pair of two calls. fps: of videos without sound. pace: how many times as long the unaccelerated call would
    have taken beside the other.

    Raises ValueError where their outputs have other shapes.
    """
    ours, theirs = accelerated.made, baseline.made
    found: dict[str, float | None] = {**dict.fromkeys(_METRICS), **fidelity(ours, theirs, _METRICS)}
    per_frame = _per_frame(ours.frames, theirs.frames)
    size = [theirs.size[name] or None for name in ("frames", "height", "width")]
    ratios = {phase: _ratio(pace * baseline.side.effort(phase), accelerated.side.effort(phase)) for phase in _TIMED}
    return Pair(
        key=point.key(base),
        settings=point.settings,
        baseline=baseline.side,
        accelerated=accelerated.side,
        metrics=found | {"speedup": ratios["total"], "denoise_speedup": ratios["denoise"]},
        psnr_per_frame=per_frame,
        worst_frame=int(np.argmin(per_frame)) if per_frame else 0,
        baseline_reused=reused,
        timing_note=" ".join(_timing_notes(baseline, accelerated, reused)),
        baseline_when=baseline.when,
        fps=fps_of(base.job(None if theirs.sound else fps), theirs),
        when=accelerated.when,
        label=point.label,
        notes=(*changed_sizes(vars(base), size), *lost(base.job(), theirs)),
        difference=_difference(ours, theirs, baseline.side.path.parent),
    )


def _per_frame(ours: Clip | None, theirs: Clip | None) -> tuple[float, ...]:
    """PSNR of each frame; of sound there is none."""
    if ours is None or theirs is None:
        return ()
    return tuple(psnr(ours[index : index + 1], theirs[index : index + 1]) for index in range(len(theirs)))


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
