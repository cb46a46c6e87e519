"""Runs a recipe with the real levers, clock and scheduler, and a denoiser that costs nothing."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from typing import Any

import torch

from accel.app.settings import StudioSettings
from accel.call_forms import call_default
from accel.components import components_of, denoisers_of, schedulers_of
from accel.recipe import Recipe
from accel.rendering.pipeline_arguments import plain_class
from accel.report import Report
from accel.session import Session

_REMEMBERED = 512
_SHAPE = (1, 4, 4, 4)
_SPREADS = (0.05, 2.0)


class DryRun:
    """Which evaluations a recipe computes on one model, for recipes that decide without looking at the outputs.

    The recipe is attached to a set with a copy of the model's scheduler and two streams for guidance, and denoises two
    simple distributions that have nothing in common. Where it computes the same evaluations on both, these are what it
    will compute on the model; where not, or where a lever cannot act on the set, only a real run can tell. Takes
    milliseconds, and touches nothing of the model. Thread-safe.
    """

    def __init__(self, pipe: Any) -> None:
        components = components_of(pipe)
        denoisers, schedulers = list(denoisers_of(components)), list(schedulers_of(components))
        known = len(denoisers) == len(schedulers) == 1  # the set has one of each
        self._scheduler = copy.deepcopy(schedulers[0][1]) if known else None
        self._name, self._guidance = plain_class(pipe).__name__, call_default(pipe, "guidance_scale")
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[Recipe, int, bool], float | None] = OrderedDict()

    def evaluations(self, settings: StudioSettings) -> float | None:
        """The share of the unaccelerated run's evaluations; None where it depends on the outputs."""
        guidance = self._guidance if settings.guidance is None else settings.guidance
        key = (_acting(settings.recipe, settings.steps), settings.steps, guidance is None or guidance > 1.0)
        if not key[0].methods():
            return 1.0
        with self._lock:
            if key not in self._known:
                self._known[key] = self._play(*key)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
            return self._known[key]

    def _play(self, recipe: Recipe, steps: int, guided: bool) -> float | None:
        if self._scheduler is None:
            return None
        try:
            reports = [self._report(recipe, steps, guided, spread) for spread in _SPREADS]
            plain = self._report(Recipe(), steps, guided, 1.0)
        except Exception:  # levers that need what the set lacks, schedulers that want to be told more, whatever it is
            return None
        engaged = all(lever.engaged for report in reports for lever in report.levers)
        one, other = (report.timeline() for report in reports)
        return reports[0].computed / plain.computed if engaged and one == other and plain.computed else None

    def _report(self, recipe: Recipe, steps: int, guided: bool, spread: float) -> Report:
        stage = type(self._name, (_StagePipeline,), {})(copy.deepcopy(self._scheduler), spread)
        with Session(stage, recipe) as session, torch.no_grad():  # warnings are for the model's own runs
            stage(num_inference_steps=steps, guidance_scale=6.0 if guided else 1.0)
            return session.report()


def _acting(recipe: Recipe, steps: int) -> Recipe:
    """The levers that decide which evaluations are computed, without those that leave short runs alone."""
    left = round(steps * float(getattr(recipe.sampler, "steps", 1.0)))
    short = recipe.cache is not None and getattr(recipe.cache, "min_steps", 0) > left
    return Recipe(cache=None if short else recipe.cache, guidance=recipe.guidance, sampler=recipe.sampler)


class _Denoiser(torch.nn.Module):
    """Answers for a model of data that is normally distributed around a mean that the condition gives."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.spread = spread

    def forward(
        self, hidden_states: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> torch.Tensor:
        level = float(timestep) / 1000.0
        return (hidden_states - encoder_hidden_states.mean()) * (level + self.spread)


class _StagePipeline:
    """What `accel.accelerate` takes for a pipeline, and a loop like any pipeline's."""

    def __init__(self, scheduler: Any, spread: float) -> None:
        self.scheduler, self.transformer = scheduler, _Denoiser(spread)
        self.config: dict[str, Any] = {}
        self.do_classifier_free_guidance = True

    @property
    def components(self) -> dict[str, Any]:
        return {"scheduler": self.scheduler, "transformer": self.transformer}

    def __call__(self, num_inference_steps: int = 50, guidance_scale: float = 6.0) -> torch.Tensor:
        self.do_classifier_free_guidance = guidance_scale > 1.0
        self.scheduler.set_timesteps(num_inference_steps)
        generator = torch.Generator("cpu").manual_seed(0)
        x = torch.randn(_SHAPE, generator=generator)
        words = [torch.full((1, 1, 1), value) for value in (0.5, -0.5)[: 2 if guidance_scale > 1.0 else 1]]
        for timestep in self.scheduler.timesteps:
            answers = [self.transformer(x, timestep.expand(1), word) for word in words]
            answer = answers[0] if len(answers) == 1 else answers[1] + guidance_scale * (answers[0] - answers[1])
            x = self.scheduler.step(answer, timestep, x, return_dict=False)[0]
        return x
