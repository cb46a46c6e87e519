"""accel.enlarge: a first run at home leads a larger one, on any layout of latents, and leaves nothing behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import accel
from accel import FixedInterval, Recipe
from accel.drafting import enlarging
from tests.accel.residue import of_denoisers
from tests.tiny import TINY
from tests.tiny.case import quiet

KINDS = ["wan", "flux", "ltx", "sd", "cogvideox", "sd3", "qwen_image", "hunyuan_video", "sdxl", "mochi", "sana"]
LATENTS = {"output_type": "latent", "return_dict": False}


def large(name: str) -> tuple[Any, dict[str, Any]]:
    """A pipeline that has run once, and arguments of a call at twice its size."""
    pipe = quiet(TINY[name].build())
    arguments = TINY[name].arguments(pipe) | {"num_inference_steps": 4}
    pipe(**arguments)
    return pipe, arguments | {side: 2 * arguments[side] for side in ("height", "width")}


def plain(pipe: Any, arguments: dict[str, Any]) -> torch.Tensor:
    torch.manual_seed(5)
    return pipe(**arguments, **LATENTS, generator=torch.Generator("cpu").manual_seed(5))[0]


@pytest.mark.part(1)
@pytest.mark.parametrize("name", KINDS)
def test_the_second_run_is_led_and_the_pipeline_comes_back(name: str) -> None:
    pipe, arguments = large(name)
    before, untouched = of_denoisers(pipe), plain(pipe, arguments)
    led = accel.enlarge(pipe, seed=5, recipe=Recipe(), **arguments, **LATENTS)[0]
    assert led.shape == untouched.shape and led.isfinite().all() and not torch.equal(led, untouched)
    assert of_denoisers(pipe) == before and torch.equal(plain(pipe, arguments), untouched)


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "flux", "sd"])
def test_without_a_lead_it_is_the_plain_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enlarging, "lead_of", lambda step, steps: 0.0)
    pipe, arguments = large(name)
    assert torch.equal(accel.enlarge(pipe, seed=5, recipe=Recipe(), **arguments, **LATENTS)[0], plain(pipe, arguments))


def test_a_lead_to_the_end_leaves_the_first_runs_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enlarging, "lead_of", lambda step, steps: 1.0)
    pipe, arguments = large("wan")
    led = accel.enlarge(pipe, seed=5, recipe=Recipe(), **arguments, **LATENTS)[0]  # (B, C, T, H, W)
    small = plain(pipe, arguments | {side: arguments[side] // 2 for side in ("height", "width")})
    means = torch.nn.functional.avg_pool3d(led, (1, 2, 2))
    assert torch.allclose(means, small, atol=1e-4 * float(small.abs().max()))
    assert not torch.allclose(led, small.repeat_interleave(2, -1).repeat_interleave(2, -2), atol=1e-3)


def test_both_runs_have_the_recipe_and_a_session_stays_what_it_was() -> None:
    pipe, arguments = large("wan")
    recipe = Recipe(cache=FixedInterval(2, warmup=1, min_steps=1))
    with accel.accelerate(pipe, recipe):
        mine = plain(pipe, arguments)
        skipping = accel.enlarge(pipe, seed=5, recipe=recipe, **arguments, **LATENTS)[0]
        assert torch.equal(plain(pipe, arguments), mine)
    whole = accel.enlarge(pipe, seed=5, recipe=Recipe(), **arguments, **LATENTS)[0]
    assert not torch.equal(whole, skipping)
    assert torch.equal(whole, accel.enlarge(pipe, seed=5, recipe=Recipe(), **arguments, **LATENTS)[0])


def test_the_lead_falls_from_all_to_nothing() -> None:
    assert [round(enlarging.lead_of(step, 4), 2) for step in range(5)] == [1.0, 0.85, 0.5, 0.15, 0.0]


@pytest.mark.parametrize(("height", "by"), [(33, 2), (32, 1), (32, 2.0), ("64", 2), (None, 2), (0, 2), (-32, 2)])
def test_sizes_that_do_not_divide_are_one_sentence(height: Any, by: Any) -> None:
    with pytest.raises(ValueError, match="whole multiples"):
        accel.enlarge(object(), "a corgi", height=height, width=32, by=by)


def test_an_interrupted_run_leaves_nothing() -> None:
    pipe, arguments = large("wan")
    before, untouched = of_denoisers(pipe), plain(pipe, arguments)

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        accel.enlarge(pipe, seed=5, recipe=Recipe(), callback_on_step_end=stop, **arguments)
    assert of_denoisers(pipe) == before and torch.equal(plain(pipe, arguments), untouched)
