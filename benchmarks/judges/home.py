"""The pocket models in the judges' place: what is chosen on the others must not cost what it gave at home."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler

from accel import pocket
from accel.measure.metrics import Clip, to_frames
from accel.pocket.scenes import prompts
from benchmarks.judges.roster import flow_unipc

MOST = 64  # prompts


def own(scheduler: Any) -> Any:
    return scheduler


def unipc(scheduler: Any) -> Any:
    return flow_unipc(scheduler.config["shift"])


def dpm(scheduler: Any) -> Any:
    return DPMSolverMultistepScheduler.from_config(scheduler.config)


@dataclass(frozen=True)
class Home:
    """A pocket model, called as a judge is (`benchmarks.judges.judge.Judge`); the presets were once tuned on it.

    schedulers: by name, what makes one of the pipeline's own.
    """

    name: str
    model: str
    schedulers: Mapping[str, Callable[[Any], Any]]
    guidance_scales: tuple[float, float] = (3.0, 6.0)

    @property
    def prompts(self) -> list[str]:
        return prompts(MOST, seed=17)

    def load(self, scheduler: str) -> DiffusionPipeline:
        pipe = pocket.load(self.model)
        pipe.scheduler = self.schedulers[scheduler](pipe.scheduler)
        return pipe

    def clip(self, pipe: DiffusionPipeline, number: int, steps: int, guidance: float) -> Clip:
        """What its pipeline makes of a prompt, by number, with a seed of that number."""
        generator = torch.Generator().manual_seed(number)
        prompt = self.prompts[number % MOST]
        return to_frames(pipe(prompt, num_inference_steps=steps, guidance_scale=guidance, generator=generator))


HOME: Mapping[str, Home] = {
    home.name: home
    for home in (
        Home("pocket-video", "video", {"euler": own, "unipc": unipc}),
        Home("pocket-image", "image", {"ddim": own, "dpm": dpm}),
    )
}
