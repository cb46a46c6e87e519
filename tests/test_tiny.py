"""The tiny pipelines react to all that a real one reacts to; without that, no exactness test is one."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from tests.tiny import TINY, picture, run
from tests.tiny.kinds import KINDS, crossed, kinds_only
from tests.tiny.weights import randomise

CONTROLLED = {
    "flux_controlnet": "control_image",
    "sd3_controlnet": "control_image",
    "flux_img2img": "image",
    "flux_kontext": "image",
    "wan_i2v": "image",
}
WITHOUT_CALLBACK = {"pixart"}
# PNDM evaluates once more than it is asked to; a strength of 0.75 drops a quarter of the steps.
EVALUATIONS_OF_FOUR_STEPS = {"sd": 5, "flux_img2img": 3}
# CogVideoX's DPM solver adds fresh noise at each step; SVD's eight sigmas run from 700 to 0.002.
ABRUPT = {"cogvideox_dpm", "svd"}

every_pipeline = pytest.mark.parametrize("name", TINY)


@cache
def pipeline(name: str) -> DiffusionPipeline:
    return TINY[name].build()


def output(name: str, steps: int = 4, **options: Any) -> torch.Tensor:
    return run(pipeline(name), TINY[name], steps=steps, **options)


@cache
def usual(name: str) -> torch.Tensor:
    return output(name)


def change(new: torch.Tensor, old: torch.Tensor) -> float:
    """Relative root-mean-square difference."""
    return float((new - old).norm() / old.norm())


def denoisers(pipe: DiffusionPipeline) -> list[nn.Module]:
    found = [getattr(pipe, name, None) for name in ("transformer", "transformer_2", "unet")]
    return [module for module in found if module is not None]


def recorded_calls(name: str, **options: Any) -> list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]:
    """The denoiser calls of one run of four steps: module, positional and keyword arguments."""
    calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((module, args, kwargs))

    hooks = [module.register_forward_pre_hook(record, with_kwargs=True) for module in denoisers(pipeline(name))]
    output(name, **options)
    for hook in hooks:
        hook.remove()
    return calls


def prediction(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        answer = module(*args, **kwargs | {"return_dict": False})[0]
    return torch.stack(answer) if isinstance(answer, list) else answer


@pytest.mark.part(2)
@kinds_only()
def test_output_is_finite_and_of_order_one(name: str) -> None:
    latents = output(name, steps=8)
    assert torch.isfinite(latents).all()
    assert 0.5 < float(latents.std()) < 5


@pytest.mark.part(2)
@every_pipeline
def test_output_repeats_bit_for_bit_in_the_same_and_in_a_fresh_pipeline(name: str) -> None:
    assert torch.equal(output(name), usual(name))
    assert torch.equal(run(TINY[name].build(), TINY[name], steps=4), usual(name))


@pytest.mark.part(3)
@crossed("option", [{"seed": 1}, {"prompt": 1}, {"guidance": False}, {"steps": 2}])
def test_output_moves_with(name: str, option: dict[str, Any]) -> None:
    assert change(output(name, **option), usual(name)) > 0.03


@pytest.mark.part(4)
@kinds_only()
def test_prediction_moves_with_the_timestep_alone(name: str) -> None:
    (module, args, kwargs), *_, (_, last_args, last_kwargs) = recorded_calls(name)
    if "timestep" in kwargs:
        later = (args, kwargs | {"timestep": last_kwargs["timestep"]})
    else:
        later = ((args[0], last_args[1], *args[2:]), kwargs)
    assert change(prediction(module, *later), prediction(module, args, kwargs)) > 0.03


@pytest.mark.part(2)
@kinds_only(name for name in TINY if name not in ABRUPT)
def test_neighbouring_steps_have_related_predictions(name: str) -> None:
    """As in trained models: without it there would be nothing to cache."""
    calls = recorded_calls(name, steps=8)
    stride = 2 if TINY[name].guidance == "two calls" else 1
    middle = len(calls) // 2 // stride * stride
    earlier, later = prediction(*calls[middle]), prediction(*calls[middle + stride])
    assert 0.001 < change(later, earlier) < 0.4


@pytest.mark.part(3)
@pytest.mark.parametrize("name", CONTROLLED)
def test_output_moves_with_the_picture_that_is_given(name: str) -> None:
    arguments = TINY[name].arguments(pipeline(name))
    other = picture(1, arguments["height"], arguments["width"])
    assert change(output(name, **{CONTROLLED[name]: other}), usual(name)) > 0.03


@pytest.mark.part(2)
@kinds_only()
def test_sample_of_a_batch_equals_a_single_run(name: str) -> None:
    batch = output(name, batch=3)
    alone = output(name, seed=1, prompt=1)
    assert batch.shape == (3, *usual(name).shape[1:])
    torch.testing.assert_close(batch[1:2], alone, rtol=1e-4, atol=1e-4)
    assert change(batch[1:2], usual(name)) > 0.03


@pytest.mark.part(4)
@kinds_only()
def test_other_size_runs_and_is_not_square(name: str) -> None:
    arguments = TINY[name].arguments(pipeline(name), size="other")
    assert arguments["height"] != arguments["width"]
    latents = output(name, size="other")
    assert torch.isfinite(latents).all()
    assert latents.shape != usual(name).shape


@pytest.mark.part(4)
@crossed("guidance", [True, False], ids=lambda guided: "guided" if guided else "unguided")
def test_guidance_is_asked_for_as_declared(name: str, guidance: bool) -> None:
    calls = recorded_calls(name, guidance=guidance)
    evaluations = EVALUATIONS_OF_FOUR_STEPS.get(name, 4)
    kind = TINY[name].guidance if guidance else "none"
    assert len(calls) == evaluations * (2 if kind == "two calls" else 1)
    for _, args, kwargs in calls:
        latents = args[0] if args else kwargs["hidden_states"]
        assert len(latents) == (2 if kind == "batched" else 1)


def test_two_experts_share_a_run_of_eight_steps() -> None:
    pipe = pipeline("wan_two_experts")
    counts = {pipe.transformer: 0, pipe.transformer_2: 0}

    def count(module: nn.Module, args: tuple[Any, ...]) -> None:
        counts[module] += 1

    hooks = [module.register_forward_pre_hook(count) for module in counts]
    output("wan_two_experts", steps=8)
    for hook in hooks:
        hook.remove()
    assert counts == {pipe.transformer: 6, pipe.transformer_2: 10}


@pytest.mark.part(3)
@kinds_only(name for name in TINY if name not in WITHOUT_CALLBACK)
def test_callback_is_passed_through(name: str) -> None:
    seen: list[int] = []

    def callback(pipe: DiffusionPipeline, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        seen.append(step)
        return values

    assert torch.equal(output(name, callback_on_step_end=callback), usual(name))
    assert seen == list(range(EVALUATIONS_OF_FOUR_STEPS.get(name, 4)))


@pytest.mark.part(3)
@kinds_only()
def test_pictures_can_be_decoded(name: str) -> None:
    pictures = output(name, steps=2, output_type="np")
    arguments = TINY[name].arguments(pipeline(name))
    assert pictures.shape[-3:] == (arguments["height"], arguments["width"], 3)
    assert torch.isfinite(pictures).all()
    assert float(pictures.std()) > 0.02


@pytest.mark.parametrize("name", ["wan", "sd3_controlnet"])
def test_global_random_state_is_neither_read_nor_moved(name: str) -> None:
    pipeline(name)  # to make the first of its kind draws weights that nobody sees
    torch.manual_seed(123)
    before = torch.get_rng_state()
    latents = output(name)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(456)
    assert torch.equal(output(name), latents)


def test_randomise_leaves_no_parameter_at_zero_or_constant() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Conv2d(2, 3, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    randomise(model)
    for name, parameter in model.named_parameters():
        assert float(parameter.detach().std()) > 0.02, name


def test_randomise_depends_on_its_seed_alone() -> None:
    torch.manual_seed(7)
    first = randomise(nn.Linear(4, 4), seed=1)
    assert torch.equal(randomise(nn.Linear(4, 4), seed=1).weight, first.weight)
    assert not torch.equal(randomise(nn.Linear(4, 4), seed=2).weight, first.weight)


def test_each_value_meets_half_of_the_kinds_and_each_pipeline_a_value_and_the_rest_is_slow() -> None:
    *_, pairs = crossed("value", "abc").args
    fast = {pair.values for pair in pairs if not pair.marks}
    assert all(sum((name, value) in fast for name in KINDS) == len(KINDS) / 2 for value in "abc")
    assert {name for name, _ in fast} == set(TINY)
    assert {pair.values for pair in pairs} == {(name, value) for name in TINY for value in "abc"}
    assert {pair.values[0] for pair in kinds_only().args[1] if not pair.marks} == set(KINDS)
