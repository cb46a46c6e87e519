"""What every guidance method promises for every pipeline: exactness where nothing is left out, the written-out rule
where something is, and a pipeline that is its old self afterwards."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPAGPipeline

import accel
from accel import AdaptiveGuidance, GuidanceDelta, GuidanceInterval, LinearAG
from tests import tiny
from tests.accel import witness
from tests.accel.residue import snapshot, traces
from tests.accel.witness import denoisers, pipeline, twin
from tests.samplers.guidance import reference
from tests.samplers.guidance.reference import cut
from tests.tiny import TINY
from tests.tiny.inputs import generators
from tests.tiny.kinds import crossed, kinds_only

STEPS = 6
run, plain, by_rule = (partial(each, steps=STEPS) for each in (tiny.run, witness.plain, reference.by_rule))
GUIDED = [name for name, case in TINY.items() if case.guidance in ("two calls", "batched")]
EMBEDDED = [name for name, case in TINY.items() if case.guidance == "embedded"]

NOTHING = GuidanceInterval(low=math.inf)  # no step is guided
HALF = GuidanceInterval(low=0.5)  # the first half of the steps is
PAPER = AdaptiveGuidance(-1.0, start=0.5, rest="conditional")  # agreed as soon as it may

NEVER: dict[str, Any] = {
    "threshold never reached": AdaptiveGuidance(2.0),
    "threshold never reached, for good": AdaptiveGuidance(2.0, rest="conditional"),
    "interval covers everything": GuidanceInterval(low=0.0),
    "every step measured": GuidanceDelta(growth=1.0),
    "all steps in the beginning": GuidanceDelta(start=1.0),
    "calibrated elsewhere": LinearAG((0.7, 0.3, 0.0), ((), (1.0, 0.0, 0.0))),
}
# Which half of a batch is which is seen at the first step, so nothing can be left out before the second.
SILENT = tuple(name for name, case in TINY.items() if case.guidance == "batched")


def accelerated(name: str, method: Any, **options: Any) -> tuple[torch.Tensor, accel.Report]:
    pipe = pipeline(name)
    with accel.accelerate(pipe, accel.Recipe(guidance=method)) as session:
        return run(pipe, TINY[name], **options), session.report()


def close(got: torch.Tensor, wanted: torch.Tensor, tolerance: float = 2e-5) -> bool:
    """Equal but for the rounding of another batch size."""
    return bool((got - wanted).norm() <= tolerance * wanted.norm())


@pytest.mark.part(1)
@crossed("method", NEVER)
def test_where_nothing_is_left_out_the_output_is_bit_identical(name: str, method: str) -> None:
    output, report = accelerated(name, NEVER[method])
    assert torch.equal(output, plain(name))
    assert report.computed == len(report.calls) and not report.levers[0].engaged
    if name in GUIDED:
        assert report.levers[0].reason.startswith("0 of ")
        assert "(" in report.levers[0].reason  # and says why


@pytest.mark.part(1)
@kinds_only()
def test_without_guidance_there_is_nothing_to_leave_out(name: str) -> None:
    output, report = accelerated(name, NOTHING, guidance=False)
    assert torch.equal(output, plain(name, guidance=False))
    assert not report.levers[0].engaged
    assert report.levers[0].reason.startswith(("no unconditional pass was seen", "the guidance scale is an input"))


@pytest.mark.part(1)
@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_guidance_is_left_alone_and_the_report_says_what_to_do(name: str) -> None:
    output, report = accelerated(name, NOTHING)
    assert torch.equal(output, plain(name))
    assert "true_cfg_scale" in report.levers[0].reason


@pytest.mark.part(1)
@crossed("batch", [1, 3], GUIDED)
def test_leaving_out_every_pass_is_the_pipeline_without_guidance(name: str, batch: int) -> None:
    output, report = accelerated(name, NOTHING, batch=batch)
    if name in SILENT:
        assert close(output, by_rule(name, cut(1), batch=batch))
    else:
        assert close(output, plain(name, guidance=False, batch=batch))
    assert report.levers[0].engaged


@pytest.mark.part(1)
@crossed("method", [HALF, PAPER], GUIDED, ids=lambda method: type(method).__name__)
def test_dropped_steps_equal_the_conditional_answer_in_both_places(name: str, method: Any) -> None:
    first = math.ceil(0.5 * steps_of(name)) + (method is PAPER)  # the step that agrees is itself guided
    output, report = accelerated(name, method)
    assert close(output, by_rule(name, cut(first)))
    assert not close(output, plain(name))
    assert f"{steps_of(name) - first} of " in report.levers[0].reason


@pytest.mark.part(1)
@kinds_only(GUIDED)
def test_the_unconditional_half_of_the_work_is_not_done(name: str) -> None:
    """Counted by hooks outside: samples that went through the denoiser."""
    pipe, seen = pipeline(name), []
    module = next(iter(denoisers(pipe).values()))
    inside = next(child for child in module.modules() if isinstance(child, (torch.nn.Linear, torch.nn.Conv2d)))
    handle = inside.register_forward_hook(lambda _, args, out: seen.append(out.shape[0]))
    try:
        accelerated(name, GuidanceInterval(low=0.0))
        before = sum(seen)
        seen.clear()
        accelerated(name, HALF)
    finally:
        handle.remove()
    if name != "wan_two_experts":  # the first expert's steps are all in the first half
        assert sum(seen) < 0.85 * before


@pytest.mark.part(1)
@kinds_only(GUIDED)
def test_another_size_in_the_next_call_and_the_first_again(name: str) -> None:
    fresh = [accelerated(name, HALF, **options)[0] for options in ({}, {"size": "other", "batch": 2})]
    with accel.accelerate(pipeline(name), accel.Recipe(guidance=HALF)):
        again = [run(pipeline(name), TINY[name], **options) for options in ({}, {"size": "other", "batch": 2}, {})]
    assert torch.equal(again[0], fresh[0]) and torch.equal(again[1], fresh[1]) and torch.equal(again[2], fresh[0])


@pytest.mark.part(1)
@kinds_only(GUIDED)
@pytest.mark.parametrize("method", [HALF, GuidanceDelta(growth=math.inf, every=3)], ids=["interval", "delta"])
def test_restore_gives_the_pipeline_back_without_residue(name: str, method: Any) -> None:
    pipe = TINY[name].build()
    run(pipe, TINY[name])  # pipelines keep things of their last call
    before = snapshot(pipe)
    with accel.accelerate(pipe, accel.Recipe(guidance=method)):
        run(pipe, TINY[name])
    run(pipe, TINY[name])
    assert traces(pipe) == []
    assert {path for path, part in snapshot(pipe).items() if path.startswith("class") and part != before[path]} == set()
    assert torch.equal(run(pipe, TINY[name]), plain(name))


@pytest.mark.part(1)
@kinds_only(GUIDED)
def test_an_exception_in_a_run_leaves_nothing_for_the_next(name: str) -> None:
    pipe, method = pipeline(name), GuidanceDelta(growth=math.inf, every=3)
    expected, _ = accelerated(name, method)
    module = next(iter(denoisers(pipe).values()))
    with accel.accelerate(pipe, accel.Recipe(guidance=method)):
        calls: list[int] = []

        def fail(*_: Any) -> None:
            calls.append(1)
            if len(calls) == 4:
                raise RuntimeError("power cut")

        handle = module.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="power cut"):
            run(pipe, TINY[name])
        handle.remove()
        assert torch.equal(run(pipe, TINY[name]), expected)


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "sdxl", "z_image"])
def test_a_batch_of_three_is_three_single_runs(name: str) -> None:
    """Each sample's guidance ends where its own passes agree."""
    method = AdaptiveGuidance(threshold(name), start=0.2, rest="conditional")
    batch, _ = accelerated(name, method, batch=3)
    ends = []
    for sample in range(3):
        alone, single = accelerated(name, method, seed=sample, prompt=sample)
        assert (batch[sample : sample + 1] - alone).norm() < 1e-4 * alone.norm()
        ends.append(single.levers[0].reason)
    assert len(set(ends)) > 1  # they are not of one mind


def threshold(name: str) -> float:
    """A cosine that the samples 0, 1 and 2 reach at different steps: the middle of the second one's."""
    found: list[list[float]] = []
    for sample in range(3):
        cosines: list[float] = []

        def note(step: int, sigma: float, x: Any, c: Any, u: Any, cosines: list[float] = cosines) -> None:
            sign = 1.0 if name != "z_image" else -1.0
            scale = sigma / math.sqrt(1 + sigma**2) if name == "sdxl" else sigma * sign
            one, other = ((x - scale * part).flatten() for part in (c, u))
            cosines.append(float(torch.cosine_similarity(one, other, dim=0)))

        by_rule(name, note, seed=sample, prompt=sample)
        found.append(cosines[2:])
    candidates = sorted(value for row in found for value in row)
    for candidate in candidates[len(candidates) // 2 :] + candidates:
        value = candidate - 1e-5
        ends = [next((index for index, cosine in enumerate(row) if cosine >= value), None) for row in found]
        gap = min(abs(cosine - value) for row in found for cosine in row)
        if len(set(ends)) > 1 and None not in ends and gap > 5e-6:
            return value
    raise AssertionError("these samples agree at the same steps whatever the threshold")


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["sdxl", "ltx", "mochi"])
def test_two_samples_of_one_seed_without_guidance_are_no_pair(name: str) -> None:
    def same() -> list[torch.Generator]:
        return [*generators(3, 2)[:1], *generators(3, 2)[:1]]

    expected = run(twin(name), TINY[name], batch=2, guidance=False, generator=same())
    output, report = accelerated(name, NOTHING, batch=2, guidance=False, generator=same())
    assert torch.equal(output, expected)
    assert not report.levers[0].engaged


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["sd", "sdxl", "ltx"])
def test_guidance_rescale(name: str) -> None:
    output, _ = accelerated(name, HALF, guidance_rescale=0.7)
    assert close(output, by_rule(name, cut(math.ceil(steps_of(name) / 2)), guidance_rescale=0.7))


def test_skip_layer_guidance_keeps_its_third_pass() -> None:
    options = {"skip_guidance_layers": [0], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
    output, report = accelerated("sd3", HALF, **options)
    assert close(output, by_rule("sd3", cut(3), **options))
    assert not close(output, by_rule("sd3", cut(3)))
    assert "3 of 6" in report.levers[0].reason


def test_perturbed_attention_batches_other_things_and_is_left_alone() -> None:
    parts = pipeline("sdxl").components
    pipe = StableDiffusionXLPAGPipeline(**parts, add_watermarker=False, pag_applied_layers="mid")
    pipe.set_progress_bar_config(disable=True)
    expected = run(pipe, TINY["sdxl"])
    with accel.accelerate(pipe, accel.Recipe(guidance=NOTHING)) as session:
        assert torch.equal(run(pipe, TINY["sdxl"]), expected)
    assert "perturbed attention" in session.report().levers[0].reason


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "sd3", "sdxl", "ltx"])
def test_a_scale_that_changes_within_the_run(name: str) -> None:
    def change(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 5.0 - 0.5 * step
        return tensors

    output, _ = accelerated(name, HALF, callback_on_step_end=change)
    expected = by_rule(name, cut(3), callback_on_step_end=change)
    if name != "wan":  # Wan takes the scale once, before the run
        assert not close(expected, by_rule(name, cut(3)))
    assert close(output, expected)


def test_guidance_that_the_user_ends_within_the_run() -> None:
    def end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 3.0 if step < 3 else 1.0
        return tensors

    expected = run(twin("wan"), TINY["wan"], callback_on_step_end=end)
    output, report = accelerated("wan", AdaptiveGuidance(2.0), callback_on_step_end=end)
    assert torch.equal(output, expected)
    assert report.timeline() == {"cond": "██████", "uncond": "████"}


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "sdxl"])
def test_the_negative_prompt_has_its_effect_on_what_is_carried(name: str) -> None:
    method = GuidanceDelta(growth=math.inf, every=3)
    asked = TINY[name].arguments(pipeline(name))["negative_prompt_embeds"]
    one, _ = accelerated(name, method)
    other, _ = accelerated(name, method, negative_prompt_embeds=-asked)
    assert not torch.allclose(one, other)


def test_two_pipelines_of_one_denoiser_do_not_meet() -> None:
    """The twin shares nothing; a second pipeline of the same parts is not accelerated."""
    pipe = pipeline("wan")
    other = type(pipe)(**pipe.components)
    other.set_progress_bar_config(disable=True)
    with accel.accelerate(pipe, accel.Recipe(guidance=NOTHING)):
        assert torch.equal(run(other, TINY["wan"]), plain("wan"))


def test_every_second_stage_of_a_solver_is_a_step_of_its_own() -> None:
    """Stable Diffusion's PNDM evaluates seven times in six steps."""
    output, report = accelerated("sd", HALF)
    assert report.steps == 7
    assert close(output, by_rule("sd", cut(4)))


def steps_of(name: str) -> int:
    return STEPS + (name == "sd")
