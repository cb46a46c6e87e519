"""CoarseToFine: exact where nothing is finer than a block; on every pipeline at work, or away with a reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

import accel
from accel import AdaptiveGuidance, CoarseToFine, DiCache, FirstBlockCache, FixedInterval, Recipe, SlidingTile
from tests.resolution.gaussian import BLOCK, SIDE, GaussianPipeline, means
from tests.resolution.untouched import UNTOUCHED
from tests.tiny import TINY, run

STEPS = 4


def diffusion(kind: type, prediction: str) -> Any:
    options = {"clip_sample": False} if kind is DDIMScheduler else {}
    return kind(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=prediction, **options
    )


MODELS = {
    "flow": lambda: (FlowMatchEulerDiscreteScheduler(), "flow"),
    "epsilon": lambda: (diffusion(DDIMScheduler, "epsilon"), "epsilon"),
    "v": lambda: (diffusion(DDIMScheduler, "v_prediction"), "v_prediction"),
    "epsilon, x0 + sigma noise": lambda: (diffusion(EulerDiscreteScheduler, "epsilon"), "epsilon"),
}
every_model = pytest.mark.parametrize("model", MODELS)


def small(pipe: Any, until: float = 0.4) -> torch.Tensor:
    with accel.accelerate(pipe, Recipe(resolution=CoarseToFine(until, BLOCK))):
        return pipe()


@every_model
def test_pictures_without_details_come_out_the_same(model: str) -> None:
    scheduler, kind = MODELS[model]()
    reference = GaussianPipeline(scheduler, kind)()
    pipe = GaussianPipeline(scheduler, kind)
    assert (small(pipe) - reference).abs().max() < 2e-4 * reference.abs().max()
    assert 5 < pipe.unet.asked.count(SIDE // BLOCK) < 20


@every_model
def test_of_pictures_with_details_the_means_come_out_the_same(model: str) -> None:
    scheduler, kind = MODELS[model]()
    reference = GaussianPipeline(scheduler, kind, fine=0.1)()
    found = small(GaussianPipeline(scheduler, kind, fine=0.1))
    assert (means(found) - means(reference)).abs().max() < 2e-4 * reference.abs().max()
    assert (found - reference).abs().max() > 1e-3


def accelerated(name: str, steps: int = STEPS, **levers: Any) -> tuple[torch.Tensor, Any]:
    pipe = TINY[name].build()
    session = accel.accelerate(pipe, Recipe(**levers))
    return run(pipe, TINY[name], steps=steps), session.report()


@pytest.mark.part(2)
@pytest.mark.parametrize("name", TINY)
def test_every_pipeline_is_answered_at_a_smaller_size_or_says_why_not(name: str) -> None:
    pipe, tiny = TINY[name].build(), TINY[name]
    plain = run(pipe, tiny, steps=STEPS)
    with accel.accelerate(pipe, Recipe(resolution=CoarseToFine(0.4))) as session:
        found, again = run(pipe, tiny, steps=STEPS), run(pipe, tiny, steps=STEPS)
        (lever,) = session.report().levers
    assert torch.equal(found, again)
    assert torch.equal(run(pipe, tiny, steps=STEPS), plain)
    assert lever.engaged == (name not in UNTOUCHED)
    assert torch.equal(found, plain) == (name in UNTOUCHED)
    assert UNTOUCHED.get(name, "") in lever.reason


@pytest.mark.part(1)
@pytest.mark.parametrize("method", [CoarseToFine(0.0, factor=1), CoarseToFine(1.0)], ids=str)
def test_a_factor_of_one_and_a_level_that_no_step_is_above_change_nothing(method: CoarseToFine) -> None:
    found, report = accelerated("wan", resolution=method)
    assert torch.equal(found, accelerated("wan")[0])
    assert not report.levers[0].engaged


def test_the_tokens_are_really_fewer() -> None:
    pipe, seen = TINY["wan"].build(), list[int]()
    pipe.transformer.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    with accel.accelerate(pipe, Recipe(resolution=CoarseToFine(0.6))):
        run(pipe, TINY["wan"], steps=STEPS)
    assert seen[0] * 4 == seen[-1]


@pytest.mark.part(2)
@pytest.mark.parametrize("name", ["wan", "pixart", "flux"])
@pytest.mark.parametrize(
    "levers",
    [
        {"cache": FixedInterval(2)},
        {"cache": FirstBlockCache(1e6)},
        {"cache": DiCache(1e6)},
        {"cache": accel.FORA(2)},
        {"cache": FixedInterval(2), "guidance": AdaptiveGuidance(0.0)},
        {"attention": SlidingTile()},
    ],
    ids=lambda levers: " ".join(str(method) for method in levers.values()),
)
def test_it_goes_with_other_levers(name: str, levers: dict[str, Any]) -> None:
    found, report = accelerated(name, steps=16, resolution=CoarseToFine(0.6), **levers)
    assert found.isfinite().all()
    assert next(lever for lever in report.levers if lever.lever == "resolution").engaged
    if "cache" in levers:
        assert next(lever for lever in report.levers if lever.lever == "cache").engaged


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["sd", "animatediff"])
def test_a_deep_feature_of_the_small_size_is_not_used_at_full_size(name: str) -> None:
    found, report = accelerated(name, steps=16, resolution=CoarseToFine(0.4), cache=accel.DeepCache(3))
    assert found.isfinite().all()
    assert all(lever.engaged for lever in report.levers)


def test_prompts_by_frame_become_fewer_with_the_frames() -> None:
    """AnimateDiff's, whose model would otherwise have more prompts than frames."""
    found, report = accelerated("animatediff", resolution=CoarseToFine(0.4, factor=1, frames=3))
    assert found.isfinite().all() and report.levers[0].engaged
    assert not torch.equal(found, accelerated("animatediff")[0])
