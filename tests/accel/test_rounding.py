"""Activations in few bits are seen by asking layers whether they are linear, and said before the run."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig

import accel
from accel import pocket
from accel.rounding import COARSE, rounding
from tests.tiny import TINY


class Rounded(torch.nn.Module):
    """A linear layer whose weights, and activations if wanted, are rounded to 8 bits."""

    def __init__(self, linear: torch.nn.Linear, activations: bool = True, per_token: bool = False) -> None:
        super().__init__()
        self.in_features, self.activations, self.per_token = linear.in_features, activations, per_token
        self.weight = torch.nn.Parameter(self.rounded(linear.weight.detach(), False), requires_grad=False)
        self.bias = linear.bias

    def rounded(self, values: torch.Tensor, per_token: bool) -> torch.Tensor:
        scale = (values.abs().amax(-1, keepdim=True) if per_token else values.abs().amax()).clamp_min(1e-9) / 127
        return (values / scale).round() * scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.rounded(x, self.per_token) if self.activations else x
        return torch.nn.functional.linear(x, self.weight, self.bias)


def quantised(module: torch.nn.Module, **how: bool) -> torch.nn.Module:
    for name, child in module.named_children():
        if type(child) is torch.nn.Linear:
            setattr(module, name, Rounded(child, **how))
        else:
            quantised(child, **how)
    return module


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounded_activations_are_seen(per_token: bool, dtype: torch.dtype) -> None:
    assert rounding(quantised(TINY["wan"].build().transformer, per_token=per_token).to(dtype)) > COARSE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounded_weights_adapters_and_half_precision_are_none(dtype: torch.dtype) -> None:
    assert rounding(TINY["wan"].build().transformer.to(dtype)) == 0.0
    assert rounding(quantised(TINY["wan"].build().transformer, activations=False).to(dtype)) < COARSE
    adapted = TINY["wan"].build().transformer
    torch.manual_seed(0)  # the adapter's weights are drawn
    adapted.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "style")
    assert rounding(adapted.to(dtype)) < COARSE


def test_a_layer_that_cannot_be_asked_is_passed_over() -> None:
    class Strange(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("it wants tokens of its own")

    assert rounding(torch.nn.Sequential(Strange(2, 2))) == 0.0


def test_it_is_said_before_the_run_and_after() -> None:
    pipe = pocket.load("image")
    pipe.set_progress_bar_config(disable=True)
    quantised(pipe.unet)
    with accel.accelerate(pipe, "lossless") as session:
        assert "rounds its activations to few bits" in str(session.report())
        assert "rounds its activations" in str(session.anatomy)
        pipe("a red circle", num_inference_steps=2, output_type="latent")
        assert "rounds its activations to few bits" in str(session.report())


@pytest.mark.slow  # the other tests here say when and that it is said
def test_no_run_is_nearer_to_another_than_an_accelerated_one() -> None:
    """What is lost is lost to the rounding: a nudge of a millionth costs as much."""
    pipe = pocket.load("image")
    pipe.set_progress_bar_config(disable=True)
    quantised(pipe.unet)

    def picture(nudge: float = 0.0) -> torch.Tensor:
        def nudged(pipe: object, step: int, _: object, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"latents": values["latents"] * (1.0 + nudge * (step == 0))}

        draw, words = torch.Generator().manual_seed(0), "a red circle on a dark background"
        options = {"num_inference_steps": 10, "output_type": "pt", "callback_on_step_end": nudged}
        return torch.as_tensor(pipe(words, generator=draw, **options).images)

    def level(wrong: torch.Tensor) -> float:
        return float(-10 * torch.log10((wrong - right).pow(2).mean()))

    right = picture()
    floor = level(picture(1e-6))
    with accel.accelerate(pipe, cache=accel.OptimalSchedule(0.7, dense=1)):
        assert level(picture()) > floor - 3
    assert floor < 45
