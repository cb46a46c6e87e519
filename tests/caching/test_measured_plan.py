"""Plans from what the model was measured to answer: by the rules of the preset, told in the report, never silently."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import accel
from accel import Calibration, OptimalSchedule, calibrating
from accel.caching.planning import plan_steps
from accel.presets import PRESETS
from tests.caching.toy import ToyPipeline

SIGNS = torch.where(torch.arange(32).reshape(1, 2, 4, 4) % 2 == 0, 1.0, -1.0)


def bent(latents: torch.Tensor, sigma: float) -> torch.Tensor:
    """Straight but for the middle of the run, where no prior would look for it."""
    return SIGNS * (1.0 + max(0.0, 0.25 - abs(sigma - 0.5)) ** 2 * 40.0)


def measured(pipe: Any, steps: int = 30) -> Calibration:
    with calibrating(pipe) as calibration:
        pipe(num_inference_steps=steps)
    return calibration


def marks(pipe: Any, steps: int = 30, **recipe: Any) -> tuple[str, str]:
    """Which steps compute, and the cache's line in the report."""
    with accel.accelerate(pipe, **recipe) as session:
        pipe(num_inference_steps=steps)
        return next(iter(session.report().timeline().values())), session.report().levers[0].reason


def test_it_computes_where_this_model_bends_and_as_much_as_the_prior_does() -> None:
    pipe = ToyPipeline(bent)
    calibration = measured(pipe)
    plain, _ = marks(pipe, cache=OptimalSchedule(0.5))
    planned, reason = marks(pipe, cache=OptimalSchedule(0.5), calibration=calibration)
    assert planned.count("█") == plain.count("█") == 15
    middle = slice(8, 24)
    assert planned[middle].count("█") > plain[middle].count("█")
    assert "planned from this model's own outputs, measured over 30 steps of FlowMatchEulerDiscreteScheduler" in reason


def test_a_plan_without_trust_in_what_was_measured_is_the_even_one() -> None:
    sigmas = np.linspace(1.0, 0.0, 31)
    features = np.stack([np.ones(30), sigmas[:-1] ** 3], 1)
    even, none, full = (
        plan_steps(sigmas.tolist(), 0.4, flow=True, features=known, trust=trust)
        for known, trust in ((None, 1.0), (features, 0.0), (features, 1.0))
    )
    assert none == even and full != even


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("steps", [14, 30])
def test_presets_keep_their_rules(preset: str, steps: int) -> None:
    pipe = ToyPipeline(bent)
    calibration, named = measured(pipe), PRESETS[preset].recipe
    recipe = replace(named, cache=replace(named.cache, guard=0.0), name=preset)  # what a guard adds depends on the plan
    plain, _ = marks(pipe, steps, recipe=recipe)
    planned, reason = marks(pipe, steps, recipe=recipe, calibration=calibration)
    assert planned.count("█") == plain.count("█")
    assert "·" not in planned or "planned from this model's own outputs" in reason


def test_the_same_call_is_planned_alike_whatever_ran_before() -> None:
    pipe = ToyPipeline(bent)
    recipe = {"cache": OptimalSchedule(0.4), "calibration": measured(pipe)}
    first = marks(pipe, **recipe)
    marks(pipe, 17, **recipe)
    marks(pipe, cache=OptimalSchedule(0.4), calibration=measured(ToyPipeline(lambda x, sigma: SIGNS * sigma**3)))
    assert marks(pipe, **recipe) == first


def test_levels_that_were_not_measured_are_told_before_the_run_and_planned_as_for_any_model() -> None:
    class FromPicture(ToyPipeline):
        """The second half of the run, as of image-to-image."""

        def __call__(self, *args: Any, half: bool = False, **options: Any) -> torch.Tensor:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(self.scheduler, "sigma_max", 0.5 if half else 1.0)
                return super().__call__(*args, **options)

    pipe = FromPicture(bent)
    plain, _ = marks(pipe, cache=OptimalSchedule(0.5))
    with calibrating(pipe) as calibration:
        pipe(half=True)
    with pytest.warns(UserWarning, match="does not fit .the run's noise levels go from 1 to .*any model"):
        planned, reason = marks(pipe, cache=OptimalSchedule(0.5), calibration=calibration)
    assert planned == plain and "the calibration does not fit" in reason


def test_another_model_is_told_at_once_and_planned_as_any(recwarn: pytest.WarningsRecorder) -> None:
    pipe = ToyPipeline(bent)
    pipe.transformer.extra = torch.nn.Linear(2, 2)
    calibration = measured(pipe)
    other = ToyPipeline(bent)
    plain, _ = marks(other, recipe="fast")
    with (
        pytest.warns(UserWarning, match="does not fit this pipeline") as told,
        accel.accelerate(other, "fast", calibration=calibration) as session,
    ):
        assert len(told) == 1
        other(num_inference_steps=30)
    assert next(iter(session.report().timeline().values())) == plain
    assert "so the plan is the one for any model" in str(session.report())


def test_another_shift_is_interpolated() -> None:
    pipe = ToyPipeline(bent)
    calibration = measured(pipe)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    planned, reason = marks(pipe, cache=OptimalSchedule(0.5), calibration=calibration)
    assert planned.count("█") == 15 and "planned from this model's own outputs" in reason


def test_a_call_at_another_guidance_scale_is_told_what_was_measured() -> None:
    class Guided(ToyPipeline):
        def __call__(self, *args: Any, guidance_scale: float = 5.0, **options: Any) -> torch.Tensor:
            return super().__call__(*args, **options)

    pipe = Guided(bent)
    calibration = measured(pipe)
    _, reason = marks(pipe, cache=OptimalSchedule(0.5), calibration=calibration)
    assert "at guidance 5" in reason and "this call" not in reason
    with accel.accelerate(pipe, cache=OptimalSchedule(0.5), calibration=calibration) as session:
        pipe(num_inference_steps=30, guidance_scale=2.0)
    assert "at guidance 5 (this call has 2)" in str(session.report())
