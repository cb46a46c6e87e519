"""A studio on the pocket model whose denoiser calls are counted, and the same clips without it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

import accel
from accel.app.pair import Pair, Update
from accel.app.settings import StudioSettings
from accel.app.studio import Studio
from accel.measure.metrics import Clip, to_frames
from accel.measure.pipeline_runs import without_progress_bars
from accel.recipe import Recipe
from tests import shallow

PROMPT = "a red circle moves left on a dark background"
BASE = StudioSettings(
    prompt=PROMPT, steps=10, width=32, height=32, frames=5, recipe=Recipe(cache=accel.OptimalSchedule(0.6))
)
LONG = replace(BASE, steps=60)


class Stage:
    """The studio, and the pipelines that it loads, whose computed denoiser calls are counted inside of all layers."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.calls = 0
        self.pipes: dict[str, Any] = {}
        self.studio = Studio(load=self._load)

    def _load(self, model: str, **_: Any) -> Any:
        self.loaded.append(model)
        self.pipes[model] = shallow.load(model.removeprefix("pocket:"))
        self.pipes[model].transformer.blocks[0].register_forward_hook(self._count)
        return self.pipes[model]

    def _count(self, *_: Any) -> None:
        self.calls += 1

    def idle(self) -> None:
        """Waits until no job is left."""
        list(self.studio.prepare(replace(BASE, steps=1)))


def finished(updates: Iterator[Update]) -> Pair:
    pair = list(updates)[-1].pair
    assert pair is not None
    return pair


def direct(settings: StudioSettings) -> Clip:
    """The clip of a plain call, float32."""
    pipe = shallow.load("video")
    generator = torch.Generator("cpu").manual_seed(settings.seed)
    named = {"width": settings.width, "height": settings.height, "num_frames": settings.frames}
    named["num_inference_steps"] = settings.steps
    if settings.guidance is not None:
        named["guidance_scale"] = settings.guidance
    with without_progress_bars(pipe), accel.accelerate(pipe, settings.recipe):
        return to_frames(pipe(settings.prompt, generator=generator, output_type="np", **named))
