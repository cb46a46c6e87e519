"""Which pass is the conditional one is seen from what the pipeline makes of both, not looked up by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionInstructPix2PixPipeline,
)

import accel
from accel import AdaptiveGuidance, GuidanceDelta, GuidanceInterval, families
from accel.report import Report
from accel.samplers.guidance.passes import PassPair, conditional_first
from accel.streams import Streams
from tests.accel.witness import pipeline, plain
from tests.tiny import TINY, run
from tests.tiny.case import quiet
from tests.tiny.image import image_vae
from tests.tiny.weights import randomise

HALF = GuidanceInterval(low=0.5)
BATCHED = [name for name, tiny in TINY.items() if tiny.guidance == "batched"]
NAMED = [name for name, tiny in TINY.items() if tiny.guidance == "two calls"]
# Its scale grows from frame to frame, which is no multiple of the difference.
ON_RECORD = ("svd",)

Combine = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def answers() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Conditional and unconditional outputs as alike as real ones, and the latents they are about."""
    drawn = torch.Generator().manual_seed(0)
    latents, conditional, other = (torch.randn(2, 4, 8, 8, generator=drawn) for _ in range(3))
    return conditional, conditional + 0.1 * other, latents


def guided(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float = 5.0) -> torch.Tensor:
    return unconditional + scale * (conditional - unconditional)


GUIDANCE: dict[str, Combine] = {
    "plain": lambda c, u, x: guided(c, u),
    "weak": lambda c, u, x: guided(c, u, 1.2),
    "negated": lambda c, u, x: -guided(c, u),
    "rescaled": lambda c, u, x: 0.6 * guided(c, u),
    "to a clean sample": lambda c, u, x: x - 0.7 * guided(c, u),
    "in half precision": lambda c, u, x: guided(c.bfloat16(), u.bfloat16()).float(),
    "kept for both halves": lambda c, u, x: torch.cat([guided(c, u)] * 2),
}
OTHER: dict[str, Combine] = {
    "the first alone": lambda c, u, x: c,
    "the mean": lambda c, u, x: (c + u) / 2,
    "a third pass": lambda c, u, x: guided(c, u) + 0.3 * x.flip(0) * c.abs(),
    "another shape": lambda c, u, x: guided(c, u)[..., :4],
    "a batch": lambda c, u, x: torch.cat([c, u]),
}


@pytest.mark.parametrize("combine", GUIDANCE)
@pytest.mark.parametrize("first", [True, False])
def test_the_conditional_answer_is_the_one_that_counts_more_than_once(combine: str, first: bool) -> None:
    conditional, unconditional, latents = answers()
    given = GUIDANCE[combine](conditional, unconditional, latents)
    pair = (conditional, unconditional) if first else (unconditional, conditional)
    sample = torch.cat([latents] * 2) if len(given) > len(latents) else latents
    assert conditional_first(PassPair(*pair, ("pass 1",)), given, sample) is first


@pytest.mark.parametrize("combine", OTHER)
def test_what_is_not_guidance_is_told_from_it(combine: str) -> None:
    conditional, unconditional, latents = answers()
    given = OTHER[combine](conditional, unconditional, latents)
    assert conditional_first(PassPair(conditional, unconditional, ("pass 1",)), given, latents) is None


def test_learned_variances_are_no_part_of_it() -> None:
    conditional, unconditional, latents = answers()
    more = [torch.cat([answer, torch.rand(answer.shape)], 1) for answer in (conditional, unconditional)]
    assert conditional_first(PassPair(*more, ("pass 1",)), guided(conditional, unconditional), latents) is True


def accelerated(pipe: Any, name: str, method: Any = HALF, **options: Any) -> tuple[torch.Tensor, Report]:
    with accel.accelerate(pipe, accel.Recipe(guidance=method)) as session:
        return run(pipe, TINY[name], **options), session.report()


@pytest.fixture
def nothing_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pipeline is one of which no table has heard."""
    rows = {name: replace(row, guidance_calls="to be seen") for name, row in families.FAMILIES.items()}
    monkeypatch.setattr(families, "FAMILIES", rows)


@pytest.mark.usefixtures("nothing_on_record")
@pytest.mark.parametrize("name", [name for name in BATCHED if name not in ON_RECORD])
def test_halves_are_seen_at_the_first_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, report = accelerated(pipeline(name), name)
    monkeypatch.undo()
    known, _ = accelerated(pipeline(name), name)
    assert torch.equal(seen, known) and report.halved == 4
    assert "4 of " in report.levers[0].reason


@pytest.mark.usefixtures("nothing_on_record")
def test_where_it_cannot_be_seen_nothing_is_left_out_and_the_report_says_why() -> None:
    output, report = accelerated(pipeline("svd"), "svd")
    assert torch.equal(output, plain("svd"))
    assert "not classifier-free guidance" in report.levers[0].reason


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
        ("cut", lambda c, u, t: guided(c, u) + t, "more than two passes of each step are combined"),
        ("cu", lambda c, u: (c + u) / 2, "not classifier-free guidance"),
        ("c", lambda c: c, "no unconditional pass was seen"),
    ],
    ids=["unconditional first", "three passes", "an ensemble", "one pass"],
)
def test_what_cannot_be_saved_is_left_alone_with_the_reason(order: str, combine: Any, reason: str) -> None:
    same, report = in_own_loop(order, combine)
    assert same and not report.levers[0].engaged and reason in report.levers[0].reason


@pytest.mark.parametrize("name", ["sdxl", "sd3", "ltx"])
def test_guidance_with_one_prompt_for_both_passes_is_not_said_to_be_off(name: str) -> None:
    given = TINY[name].arguments(pipeline(name))
    same = {f"negative_{part}": given[part] for part in given if f"negative_{part}" in given}
    output, report = accelerated(pipeline(name), name, **same)
    assert torch.equal(output, run(pipeline(name), TINY[name], **same))
    assert "the same prompt" in report.levers[0].reason and "off" not in report.levers[0].reason


def test_named_calls_with_one_prompt_for_both_passes_are_left_out_as_always() -> None:
    given = TINY["wan"].arguments(pipeline("wan"))
    _, report = accelerated(pipeline("wan"), "wan", negative_prompt_embeds=given["prompt_embeds"])
    assert report.timeline() == {"cond": "████████", "uncond": "████○○○○"}


@pytest.mark.parametrize("name", ["sdxl", "wan"])
@pytest.mark.parametrize(
    "method", [AdaptiveGuidance(), GuidanceDelta(), HALF], ids=lambda method: type(method).__name__
)
def test_the_same_call_gives_the_same_output_whatever_was_seen_before(name: str, method: Any) -> None:
    pipe = pipeline(name)
    with accel.accelerate(pipe, accel.Recipe(guidance=method)):
        first, second = run(pipe, TINY[name]), run(pipe, TINY[name])
    assert torch.equal(first, second)


def test_pipelines_that_batch_three_passes_are_on_record() -> None:
    pipe = type(StableDiffusionInstructPix2PixPipeline.__name__, (Loop,), {})("cu", guided_by_name)
    with accel.accelerate(pipe, accel.Recipe(guidance=HALF)) as session:
        pipe()
    assert "combines more than two passes" in session.report().levers[0].reason
