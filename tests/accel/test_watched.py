"""A call is computed wherever more comes of it than its output."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from accel.call import DenoiserCall
from accel.clock import StepContext
from accel.watched import GRADIENT, STATE, TRACES, why_needed

LATENTS = torch.zeros(1, 4)


class Processor:
    """An attention processor with what it keeps."""

    def __init__(self, **kept: Any) -> None:
        vars(self).update(kept)


class Weights(torch.nn.Module):
    """One whose tensors are weights, as an IP-Adapter's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))


def call(latents: torch.Tensor = LATENTS, **processors: Any) -> DenoiserCall:
    module = torch.nn.Linear(4, 4)
    module.attn_processors = processors  # type: ignore[assignment]
    context = StepContext(0, 0, 0, 8, 1.0)
    return DenoiserCall("unet", "pass 1", True, context, (), {}, [latents], module, {})


@pytest.mark.parametrize(
    "kept",
    [
        {"attention_probs": torch.ones(1)},
        {"store": SimpleNamespace(maps={"down": [torch.ones(1)]})},
        {"reference": {981: torch.ones(1)}},
    ],
)
def test_maps_that_a_processor_keeps_need_computed_calls(kept: dict[str, Any]) -> None:
    assert why_needed(call(one=Processor(heads=2), other=Processor(**kept)), LATENTS) == TRACES


def test_settings_and_weights_of_processors_do_not() -> None:
    assert why_needed(call(one=Processor(heads=2, store=SimpleNamespace(maps={})), other=Weights()), LATENTS) == ""


def test_a_gradient_through_the_denoiser_needs_computed_calls() -> None:
    wanted = LATENTS.clone().requires_grad_()
    assert why_needed(call(wanted), LATENTS) == GRADIENT
    with torch.no_grad():
        assert why_needed(call(wanted), LATENTS) == ""


def test_an_output_that_carries_state_needs_computed_calls() -> None:
    assert why_needed(call(), (LATENTS, {"layer": [LATENTS]})) == STATE
