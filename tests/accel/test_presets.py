"""A preset is a promise for this pipeline and this scheduler: it is kept, or there is a word before the run.

Kept promises are looked for on the trained pocket models: tiny pipelines of random weights say nothing about quality.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import accel
from accel import pocket
from accel.caching.methods.schedules import OptimalSchedule
from accel.measure.metrics import psnr
from accel.presets import PRESETS
from tests.schedulers import FLOW, SCHEDULERS
from tests.tiny import TINY, run

PROMISES = ("lossless", "balanced")

# Scheduler classes in place of the pocket models' own, with the settings that they need for that.
Settings = dict[str, tuple[str, dict[str, Any]]]
FOR_PICTURES: Settings = {
    "DDIM": ("DDIMScheduler", {}),
    "DPM++": ("DPMSolverMultistepScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "DDPM": ("DDPMScheduler", {}),
}
FOR_CLIPS: Settings = {
    "Euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", FLOW),
}
MORE_PICTURES: Settings = {
    "DEIS": ("DEISMultistepScheduler", {}),
    "DPM++ single": ("DPMSolverSinglestepScheduler", {}),
    "DPM++ SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "KDPM2": ("KDPM2DiscreteScheduler", {}),
    "LCM": ("LCMScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True}),
    "TCD": ("TCDScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "clipped": ("DDIMScheduler", {"clip_sample": True}),
}
MORE_CLIPS: Settings = {
    "DPM++": ("DPMSolverMultistepScheduler", FLOW),
    "Heun": ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}),
    "flow map": ("FlowMapEulerDiscreteScheduler", {"shift": 3.0}),
    "ancestral without noise": ("LTXEulerAncestralRFScheduler", {"eta": 0.0}),
}


@functools.cache
def pocket_pipeline(name: str) -> Any:
    pipe = pocket.load(name)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def kept_or_said(name: str, scheduler: tuple[str, dict[str, Any]], preset: str) -> str:
    """What was said before the run, "" where the promise was kept; raises where neither holds."""
    pipe, (kind, settings) = pocket_pipeline(name), scheduler
    own, pipe.scheduler = pipe.scheduler, getattr(diffusers, kind).from_config(pipe.scheduler.config, **settings)
    try:
        plain = _made(pipe)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            session = accel.accelerate(pipe, preset)
        words = [str(word.message) for word in said if "promises nothing" in str(word.message)]
        found = psnr(_made(pipe), plain)
        assert session.report().predicted > 0
        assert words or found >= PRESETS[preset].decibels, f"{preset}: {found:.1f} dB and not a word"
    finally:
        accel.restore(pipe)
        pipe.scheduler = own
    return words[0] if words else ""


def _made(pipe: Any) -> Any:
    """A picture, or a short clip."""
    short = {"num_frames": 9} if hasattr(pipe, "transformer") else {}
    generator = torch.Generator().manual_seed(1)
    result = pipe(pocket.prompts(1, seed=5)[0], num_inference_steps=28, generator=generator, output_type="np", **short)
    return result.frames[0] if hasattr(result, "frames") else result.images[0][None]


@pytest.mark.slow  # test_self_check.py has a promise that is kept
@pytest.mark.part(1)
@pytest.mark.parametrize("preset", PROMISES)
@pytest.mark.parametrize("scheduler", FOR_PICTURES)
def test_on_pictures_from_noise_predictions(scheduler: str, preset: str) -> None:
    said = kept_or_said("image", FOR_PICTURES[scheduler], preset)
    assert bool(said) == (scheduler in ("DDPM", "Heun"))


@pytest.mark.slow  # test_self_check.py has a promise that is kept; the constants change rarely
@pytest.mark.part(1)
@pytest.mark.parametrize("scheduler", FOR_CLIPS)
def test_on_clips_from_flows(scheduler: str) -> None:
    assert kept_or_said("video", FOR_CLIPS[scheduler], "balanced") == ""


@pytest.mark.slow
@pytest.mark.parametrize("preset", PROMISES)
@pytest.mark.parametrize("scheduler", MORE_PICTURES)
def test_on_pictures_under_all_others(scheduler: str, preset: str) -> None:
    said = kept_or_said("image", MORE_PICTURES[scheduler], preset)
    assert bool(said) == (scheduler in ("DPM++ SDE", "Euler a", "LCM", "PNDM", "TCD", "clipped"))


@pytest.mark.slow
@pytest.mark.parametrize("preset", PROMISES)
@pytest.mark.parametrize("scheduler", MORE_CLIPS)
def test_on_clips_under_all_others(scheduler: str, preset: str) -> None:
    assert bool(kept_or_said("video", MORE_CLIPS[scheduler], preset)) == (scheduler == "Heun")


@pytest.mark.part(3)
@pytest.mark.parametrize(
    ("scheduler", "reason"),
    [
        ("LCMScheduler", "each of its updates starts from fresh noise"),
        ("DDPMScheduler", "its updates add noise"),
        ("ddim clipped", "its updates are not linear"),
        ("pndm without prk", "it evaluates noise levels twice"),
        ("HeunDiscreteScheduler", "it evaluates noise levels twice"),
    ],
)
def test_what_is_said_names_the_scheduler_the_reason_and_the_way_out(scheduler: str, reason: str) -> None:
    pipe = TINY["sd"].build()
    pipe.scheduler = SCHEDULERS[scheduler]()
    with pytest.warns(UserWarning, match=f"Under .*Scheduler .* {reason}: the preset balanced .* accel.check"):
        accel.accelerate(pipe, "balanced")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        accel.accelerate(pipe, cache=accel.FixedInterval(3))  # which promises nothing anyway
    accel.restore(pipe)


@pytest.mark.slow  # test_own_schedulers.py has it for noise that the call asks for
def test_a_preset_computes_more_there() -> None:
    def computed(scheduler: Callable[[], Any]) -> int:
        pipe = TINY["sd"].build()
        pipe.scheduler = scheduler()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            session = accel.accelerate(pipe, "balanced")
        run(pipe, TINY["sd"], steps=28)
        return session.report().computed

    cache = PRESETS["balanced"].recipe.cache
    assert isinstance(cache, OptimalSchedule)
    corrected, noisy = computed(SCHEDULERS["DDIMScheduler"]), computed(SCHEDULERS["DDPMScheduler"])
    assert cache.fewest <= corrected < (28 + cache.fewest) // 2 <= noisy  # half of the skips stay there


def test_the_readme_promises_what_the_presets_do() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for name, preset in PRESETS.items():
        promised = readme.split(f"| `{name}` | ")[1].split("|")[0]
        assert re.findall(r"(\d+) dB", promised) == ([] if preset.decibels is None else [f"{preset.decibels:g}"])
        cache = preset.recipe.cache
        assert isinstance(cache, OptimalSchedule)
        row = readme.split(f"| `{name}` | ")[1].splitlines()[0]
        dense = f", dense={cache.dense}" if cache.dense != OptimalSchedule().dense else ""
        plan = f"{cache.compute:g}, guard={cache.guard:g}, fewest={cache.fewest}{dense}"
        assert row.endswith(f"| `OptimalSchedule({plan})` |")
