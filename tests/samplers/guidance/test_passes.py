"""Which pass is the conditional one is seen from what the pipeline makes of both, not looked up by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPanoramaPipeline,
)

import accel
from accel import AdaptiveGuidance, GuidanceDelta, GuidanceInterval, families
from accel.report import Report
from accel.streams import Streams
from tests.accel.witness import pipeline
from tests.samplers.guidance.reference import FIRST_HALF
from tests.tiny import TINY, run
from tests.tiny.case import quiet
from tests.tiny.image import image_vae
from tests.tiny.kinds import crossed
from tests.tiny.weights import randomise

HALF = GuidanceInterval(low=0.5)
BATCHED = [name for name, tiny in TINY.items() if tiny.guidance == "batched"]
NAMED = [name for name, tiny in TINY.items() if tiny.guidance == "two calls"]


def guided(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float = 5.0) -> torch.Tensor:
    return unconditional + scale * (conditional - unconditional)


def accelerated(pipe: Any, name: str, method: Any = HALF, **options: Any) -> tuple[torch.Tensor, Report]:
    with accel.accelerate(pipe, accel.Recipe(guidance=method)) as session:
        return run(pipe, TINY[name], **options), session.report()


@pytest.mark.part(1)
@crossed("method", [HALF, GuidanceDelta()], BATCHED, ids=lambda method: type(method).__name__)
def test_what_is_seen_at_the_first_step_is_as_good_as_a_record(
    name: str, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step's outputs count as measured once it is seen which is which."""
    seen, report = accelerated(pipeline(name), name, method)
    half = "conditional half first" if name in FIRST_HALF else "conditional half last"
    row = families.Family("on record", (type(pipeline(name)).__name__,), guidance_calls=half)
    monkeypatch.setitem(families.FAMILIES, row.name, row)
    known, recorded = accelerated(pipeline(name), name, method)
    assert torch.equal(seen, known) and report.halved == recorded.halved > 0


@pytest.mark.part(1)
@pytest.mark.parametrize("name", NAMED)
def test_calls_without_a_name_are_seen_at_the_first_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """These pipelines name their calls; where one does not, calls are told apart by their prompts."""
    expected, named = accelerated(pipeline(name), name)
    find = Streams.find

    def unnamed(streams: Streams, named: str | None, *call: Any) -> tuple[str, int]:
        return find(streams, None, *call)

    monkeypatch.setattr(Streams, "find", unnamed)
    output, report = accelerated(pipeline(name), name)
    assert torch.equal(output, expected) and report.dropped == named.dropped > 0
    assert any("pass 2" in stream for stream in report.timeline())


def dit() -> DiTPipeline:
    """Classes in place of prompts, the conditional half first, and a loop that keeps both halves of the latents."""
    transformer = DiTTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=2, in_channels=4,
        out_channels=8, norm_type="ada_norm_zero", num_embeds_ada_norm=1000, norm_elementwise_affine=False,
    )  # fmt: skip
    return quiet(DiTPipeline(randomise(transformer), image_vae(4), DDIMScheduler(clip_sample=False)))


def test_a_pipeline_of_diffusers_that_is_in_no_table() -> None:
    pipe = dit()

    def asked(**options: Any) -> torch.Tensor:
        seed = torch.Generator().manual_seed(0)
        called = pipe([1, 2], generator=seed, num_inference_steps=8, output_type="np", **options)
        return torch.as_tensor(called.images)

    with accel.accelerate(pipe, accel.Recipe(guidance=HALF)) as session:
        output, report = asked(), session.report()
        unguided = asked(guidance_scale=1.0)
    assert report.timeline() == {"pass 1": "████◐◐◐◐"}
    assert torch.equal(unguided, asked(guidance_scale=1.0))
    calls: list[int] = []

    def without_guidance(module: Any, args: Any, answer: Any) -> Any:
        calls.append(1)
        return type(answer)(answer.sample.chunk(2)[0].repeat(2, 1, 1, 1)) if len(calls) > 4 else answer

    pipe.transformer.register_forward_hook(without_guidance)
    torch.testing.assert_close(output, asked(), rtol=1e-4, atol=1e-5)


class Loop:
    """A pipeline of the user's own: calls for each step, in some order, combined in some way."""

    def __init__(self, order: str, combine: Callable[..., torch.Tensor]) -> None:
        torch.manual_seed(0)
        self.transformer, self.scheduler = Toy(), FlowMatchEulerDiscreteScheduler()
        self.config, self.components = {}, {"transformer": self.transformer, "scheduler": self.scheduler}
        self.order, self.combine = order, combine
        self.prompts = {name: torch.randn(1, 3, 4) for name in "cut"}

    def __call__(self) -> torch.Tensor:
        latents = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(1))
        self.scheduler.set_timesteps(8)
        for timestep in self.scheduler.timesteps:
            found = {
                name: self.transformer(latents, timestep=timestep[None], encoder_hidden_states=self.prompts[name])
                for name in self.order
            }
            latents = self.scheduler.step(self.combine(**found), timestep, latents).prev_sample
        return latents


class Toy(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Linear(4, 4)

    @torch.no_grad()
    def forward(self, hidden_states: Any, timestep: Any, encoder_hidden_states: Any) -> torch.Tensor:
        return torch.tanh(self.mix(hidden_states) + 0.3 * encoder_hidden_states.mean(1, keepdim=True))


def in_own_loop(order: str, combine: Callable[..., torch.Tensor]) -> tuple[bool, Report]:
    """Whether the output is as it was, and the report."""
    expected, pipe = Loop(order, combine)(), Loop(order, combine)
    with accel.accelerate(pipe, accel.Recipe(guidance=HALF)) as session:
        return torch.equal(pipe(), expected), session.report()


def test_a_loop_of_the_users_own_is_seen_as_well() -> None:
    same, report = in_own_loop("cu", guided_by_name)
    assert not same and report.timeline() == {"pass 1": "████████", "pass 2": "████○○○○"}


def guided_by_name(c: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return guided(c, u)


@pytest.mark.parametrize(
    ("order", "combine", "reason"),
    [
        ("uc", guided_by_name, "the unconditional pass comes first here"),
        ("cut", lambda c, u, t: guided(c, u) + t, "no classifier-free guidance"),
        ("cu", lambda c, u: (c + u) / 2, "no classifier-free guidance"),
        ("c", lambda c: c, "no unconditional pass was seen"),
    ],
    ids=["unconditional first", "three passes", "an ensemble", "one pass"],
)
def test_what_cannot_be_saved_is_left_alone_with_the_reason(order: str, combine: Any, reason: str) -> None:
    same, report = in_own_loop(order, combine)
    assert same and not report.levers[0].engaged and reason in report.levers[0].reason


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["sdxl", "sd3", "ltx"])
def test_guidance_with_one_prompt_for_both_passes_is_not_said_to_be_off(name: str) -> None:
    given = TINY[name].arguments(pipeline(name))
    same = {f"negative_{part}": given[part] for part in given if f"negative_{part}" in given}
    output, report = accelerated(pipeline(name), name, **same)
    assert torch.equal(output, run(pipeline(name), TINY[name], **same))
    assert "the same output" in report.levers[0].reason and "off" not in report.levers[0].reason


def test_named_calls_with_one_prompt_for_both_passes_are_left_out_as_always() -> None:
    given = TINY["wan"].arguments(pipeline("wan"))
    _, report = accelerated(pipeline("wan"), "wan", negative_prompt_embeds=given["prompt_embeds"])
    assert report.timeline() == {"cond": "████████", "uncond": "████○○○○"}


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["sdxl", "wan"])
@pytest.mark.parametrize(
    "method", [AdaptiveGuidance(), GuidanceDelta(), HALF], ids=lambda method: type(method).__name__
)
def test_the_same_call_gives_the_same_output_whatever_was_seen_before(name: str, method: Any) -> None:
    pipe = pipeline(name)
    with accel.accelerate(pipe, accel.Recipe(guidance=method)):
        first, second = run(pipe, TINY[name]), run(pipe, TINY[name])
    assert torch.equal(first, second)


def test_calls_that_are_not_all_combined_into_one_update_are_on_record() -> None:
    pipe = type(StableDiffusionPanoramaPipeline.__name__, (Loop,), {})("cu", guided_by_name)
    with accel.accelerate(pipe, accel.Recipe(guidance=HALF)) as session:
        pipe()
    assert "combines several calls" in session.report().levers[0].reason
