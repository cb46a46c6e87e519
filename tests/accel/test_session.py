"""Runs one after another, beside each other and broken off: a session never mixes what belongs apart."""

from __future__ import annotations

import copy
import math
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, WanPipeline

import accel
from accel import EasyCache, Extrapolate, FixedInterval, LastResidual, MagCache, OptimalSchedule, SeaCache, TeaCache
from accel.components import components_of
from tests.accel.residue import traces
from tests.accel.witness import Exchange, plain, witness
from tests.tiny import TINY, run

GUARDS: dict[str, Any] = {"predictor": LastResidual(), "warmup": 2, "final": 1, "max_skips": 2, "min_steps": 1}
EVERY_THIRD = FixedInterval(3, **GUARDS)
EVERY_SECOND = FixedInterval(2, **GUARDS)
METHODS = {
    "fixed": EVERY_THIRD,
    "easy": EasyCache(math.inf, **GUARDS),
    "sea": SeaCache(math.inf, **GUARDS),
    "tea": TeaCache(math.inf, coefficients=(1.0, 0.0), **GUARDS),
    "mag": MagCache(math.inf, most=2, retention=0.0, ratios=(1.0, 0.9), **GUARDS),
}
every_method = pytest.mark.parametrize("method", METHODS)
SCHEDULE = "██··█··█"


def build(name: str = "wan") -> DiffusionPipeline:
    return TINY[name].build()


def output(pipe: DiffusionPipeline, name: str = "wan", **options: Any) -> torch.Tensor:
    return run(pipe, TINY[name], **options)


@cache
def fresh(method: accel.caching.CacheMethod, name: str = "wan", **options: Any) -> torch.Tensor:
    """The output of a pipeline that was accelerated a moment before."""
    pipe = build(name)
    with accel.accelerate(pipe, cache=method):
        return output(pipe, name, **options)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_session_is_not_copied_and_its_recipe_is(duplicate: Any) -> None:
    """A copy that is suspended and goes on would be a second session on the pipeline."""
    pipe = build()
    with accel.accelerate(pipe, cache=EVERY_THIRD) as session:
        with pytest.raises(TypeError, match=r"neither copied nor pickled: keep session.recipe"):
            duplicate(session)
        duplicate(session.recipe)
        assert copy.deepcopy(pipe).transformer is not pipe.transformer  # a pipeline may be, without its session


# Its parts


def test_the_parts_are_asked_for_once_at_the_door_and_once_in_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, asked = build(), []

    def components(self: Any) -> Any:
        if sys._getframe(1).f_code is components_of.__code__:  # diffusers asks for them too
            asked.append(self)
        return DiffusionPipeline.components.fget(self)  # type: ignore[attr-defined]

    monkeypatch.setattr(WanPipeline, "components", property(components), raising=False)
    recipe = accel.Recipe(cache=EasyCache(), guidance=accel.GuidanceInterval(), sampler=accel.samplers.UniPC())
    with accel.accelerate(pipe, recipe):
        assert asked == [pipe]
        for count in (2, 3):
            output(pipe)
            assert asked == [pipe] * count
    assert asked == [pipe] * 3


# Beside each other


@pytest.mark.slow  # two that share their parts hold different ones too
def test_two_pipelines_of_one_class_hold_different_recipes() -> None:
    one, two, three = build(), build(), build()
    with accel.accelerate(one, cache=EVERY_SECOND) as first, accel.accelerate(two, cache=EVERY_THIRD) as second:
        outputs = [output(pipe) for pipe in (one, two, three)]
        assert first.report().timeline()["cond"] == "██·█·█·█"
        assert second.report().timeline()["cond"] == SCHEDULE
    expected = [fresh(EVERY_SECOND), fresh(EVERY_THIRD), plain("wan")]
    assert all(torch.equal(*pair) for pair in zip(outputs, expected, strict=True))


def siblings() -> tuple[DiffusionPipeline, DiffusionPipeline]:
    """Two pipelines that share every part."""
    pipe = build()
    other = WanPipeline(**pipe.components)
    other.set_progress_bar_config(disable=True)
    assert other.transformer is pipe.transformer and other.scheduler is pipe.scheduler
    return pipe, other


@pytest.mark.slow  # the test before it has both accelerated
@pytest.mark.part(1)
@every_method
def test_a_pipeline_that_shares_its_parts_with_an_accelerated_one_is_untouched(method: str) -> None:
    pipe, other = siblings()
    with accel.accelerate(pipe, cache=METHODS[method]):
        for _ in range(2):
            assert torch.equal(output(pipe), fresh(METHODS[method]))
            assert torch.equal(output(other), plain("wan"))


@pytest.mark.part(1)
@pytest.mark.parametrize("first_restored", [0, 1])
def test_shared_parts_follow_the_recipe_of_whoever_calls_and_are_clean_in_the_end(first_restored: int) -> None:
    pair = siblings()
    for pipe, method in zip(pair, (EVERY_SECOND, EVERY_THIRD), strict=True):
        accel.accelerate(pipe, cache=method)
    for _ in range(2):
        assert torch.equal(output(pair[0]), fresh(EVERY_SECOND))
        assert torch.equal(output(pair[1]), fresh(EVERY_THIRD))
    accel.restore(pair[first_restored])
    assert torch.equal(output(pair[first_restored]), plain("wan"))
    assert torch.equal(output(pair[1 - first_restored]), fresh((EVERY_SECOND, EVERY_THIRD)[1 - first_restored]))
    accel.restore(pair[1 - first_restored])
    assert traces(pair[0]) == traces(pair[1]) == []


def test_accelerating_again_replaces_the_recipe() -> None:
    pipe = build()
    first = accel.accelerate(pipe, cache=EVERY_SECOND)
    second = accel.accelerate(pipe, cache=EVERY_THIRD)
    assert torch.equal(output(pipe), fresh(EVERY_THIRD))
    assert first.pipe is None and not first.report().calls
    assert second.report().timeline()["cond"] == SCHEDULE
    first.restore()
    assert second.pipe is pipe
    second.restore()
    assert traces(pipe) == [] and type(pipe) is WanPipeline


def test_its_representation_says_what_is_attached() -> None:
    pipe = build()
    session = accel.accelerate(pipe, "balanced", guidance=accel.AdaptiveGuidance(), cache=accel.DeepCache())
    told = repr(session)
    assert told.startswith("<Session on WanPipeline: cache DeepCache(); guidance AdaptiveGuidance(); ")
    assert "DeepCache() does not act: DeepCache needs the skip connections" in told
    with session.suspended():
        assert repr(session).endswith(", suspended>")
    assert repr(accel.accelerate(pipe, "fast")).startswith("<Session on WanPipeline: fast: cache OptimalSchedule(")
    assert repr(accel.accelerate(pipe, accel.Recipe())) == "<Session on WanPipeline: no lever>"
    assert repr(session) == f"<Session of {session.recipe.label}: restored>"


def test_leaving_the_block_restores_even_after_an_error() -> None:
    pipe = build()
    with pytest.raises(KeyError), accel.accelerate(pipe, cache=EVERY_THIRD):
        raise KeyError
    assert traces(pipe) == []
    assert torch.equal(output(pipe), plain("wan"))


# Hand-written loops


def hand_written(pipe: DiffusionPipeline, steps: int = 8) -> torch.Tensor:
    scheduler, asked = pipe.scheduler, TINY["wan"].arguments(pipe)
    scheduler.set_timesteps(steps)
    latents = torch.randn((1, 16, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            velocity = pipe.transformer(latents, timestep.expand(1), asked["prompt_embeds"], return_dict=False)[0]
            latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return latents


def test_a_hand_written_loop_is_accelerated_inside_of_running_and_nowhere_else() -> None:
    pipe = build()
    expected = hand_written(pipe)
    with accel.accelerate(pipe, cache=EVERY_THIRD) as session:
        assert torch.equal(hand_written(pipe), expected)
        assert not session.report().calls
        with session.running():
            assert not torch.equal(hand_written(pipe), expected)
        assert session.report().timeline() == {"pass 1": SCHEDULE}
        assert torch.equal(hand_written(pipe), expected)
    with session.running():
        assert torch.equal(hand_written(pipe), expected)


def test_two_runs_inside_of_one_running_block_are_two_runs() -> None:
    pipe = build()
    with accel.accelerate(pipe, cache=EVERY_THIRD) as session:
        with session.running():
            once = hand_written(pipe)
            assert torch.equal(hand_written(pipe), once)
        assert session.report().timeline() == {"pass 1": SCHEDULE * 2}
        assert session.report().steps == 16


# Guidance that changes


@pytest.mark.part(2)
@every_method
@pytest.mark.parametrize("step", [2, 3, 4, 5])
def test_guidance_switched_off_in_mid_run_does_not_mix_the_streams(method: str, step: int) -> None:
    """The conditional stream goes on by its own history; the unconditional one just ends."""
    pipe = build()

    def switch_off(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if index == step:
            pipe._guidance_scale = 1.0
        return values

    with accel.accelerate(pipe, cache=METHODS[method]) as session, witness(pipe) as seen:
        output(pipe, callback_on_step_end=switch_off)
    timeline = session.report().timeline()
    assert timeline == {"cond": SCHEDULE, "uncond": SCHEDULE[: step + 1]}
    for exchanges, marks in zip(seen.streams().values(), timeline.values(), strict=True):
        check_last_residual(exchanges, marks)


def check_last_residual(exchanges: list[Exchange], marks: str) -> None:
    computed = exchanges[0]
    assert len(exchanges) == len(marks)
    for exchange, mark in zip(exchanges, marks, strict=True):
        if mark == "█":
            computed = exchange
        else:
            expected = exchange.latents[0] + (computed.outputs[0] - computed.latents[0])
            torch.testing.assert_close(exchange.outputs[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["sdxl", "sd"])
def test_guidance_switched_off_by_the_recipe_of_the_diffusers_documentation(name: str) -> None:
    """The batch shrinks from two to one: from there on it is another stream with a history of its own."""
    pipe = build(name)
    cut = ["prompt_embeds", *(["add_text_embeds", "add_time_ids"] if name == "sdxl" else [])]

    def switch_off(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if index == 4:
            values |= {key: values[key].chunk(2)[-1] for key in cut}
            pipe._guidance_scale = 0.0
        return values

    options = {"callback_on_step_end": switch_off, "callback_on_step_end_tensor_inputs": cut}
    with accel.accelerate(pipe, cache=EVERY_SECOND) as session, witness(pipe) as seen:
        output(pipe, name, steps=10, **options)
    before, after = seen.streams().values()
    first, second = session.report().timeline().values()
    assert first == "██·█·"
    assert second.startswith("█·█") and second.endswith("█")
    check_last_residual(before, first)
    check_last_residual(after, second)


def test_guidance_off_has_one_stream() -> None:
    pipe = build()
    with accel.accelerate(pipe, cache=EVERY_THIRD) as session:
        output(pipe, guidance=False)
    assert session.report().timeline() == {"cond": SCHEDULE}


# Runs that end badly


class Stop(Exception):
    pass


def stop_after(step: int) -> Any:
    def callback(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if index == step:
            raise Stop
        return values

    return callback


@pytest.mark.part(1)
@pytest.mark.parametrize(("name", "step"), [("wan", 2), ("flux", 4)])
@every_method
def test_a_run_stopped_by_its_callback_leaves_nothing_for_the_next(name: str, method: str, step: int) -> None:
    pipe = build(name)
    with accel.accelerate(pipe, cache=METHODS[method]):
        with pytest.raises(Stop):
            output(pipe, name, callback_on_step_end=stop_after(step))
        assert torch.equal(output(pipe, name, size="other"), fresh(METHODS[method], name, size="other"))
        with pytest.raises(Stop):
            output(pipe, name, callback_on_step_end=stop_after(step))
        assert torch.equal(output(pipe, name), fresh(METHODS[method], name))
    assert torch.equal(output(pipe, name), plain(name))


@pytest.mark.part(1)
@every_method
def test_a_denoiser_that_raises_leaves_nothing_for_the_next_run(method: str) -> None:
    pipe, calls = build(), []

    def fail(module: torch.nn.Module, args: Any) -> None:
        calls.append(1)
        if len(calls) == 5:
            raise Stop

    with accel.accelerate(pipe, cache=METHODS[method]) as session:
        handle = pipe.transformer.blocks[1].register_forward_pre_hook(fail)
        with pytest.raises(Stop):
            output(pipe)
        handle.remove()
        assert len(session.report().calls) >= 4 and session.report().seconds["total"] > 0
        assert torch.equal(output(pipe), fresh(METHODS[method]))
        assert all(len(child._forward_hooks) == 0 for child in pipe.transformer.modules())


def test_interrupting_as_the_documentation_does_is_a_short_run() -> None:
    pipe = build()

    def interrupt(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = index >= 3
        return values

    with accel.accelerate(pipe, cache=EVERY_THIRD) as session:
        output(pipe, callback_on_step_end=interrupt)
        assert session.report().timeline()["cond"] == SCHEDULE[:4]
        assert torch.equal(output(pipe), fresh(EVERY_THIRD))


# The report


def test_image_to_image_starts_in_the_middle_of_the_timetable_and_ends_at_its_end() -> None:
    pipe = build("flux_img2img")
    with accel.accelerate(pipe, cache=EVERY_THIRD) as session:
        output(pipe, "flux_img2img")
    calls = session.report().calls
    assert [call.step for call in calls] == [0, 1, 2, 3, 4, 5]
    assert [call.position for call in calls] == [2, 3, 4, 5, 6, 7]
    assert session.report().timeline() == {"pass 1": "██··██"}


def test_every_expert_of_two_has_its_own_history() -> None:
    pipe = build("wan_two_experts")
    with accel.accelerate(pipe, cache=EVERY_THIRD) as session:
        output(pipe, "wan_two_experts")
    assert session.report().timeline() == {
        "transformer cond": "███",  # its last call computes: nothing that it owes is paid by the other expert
        "transformer uncond": "███",
        "transformer_2 cond": "█··██",
        "transformer_2 uncond": "█··██",
    }


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["flux_controlnet", "sd3_controlnet"])
def test_the_control_image_still_matters_when_steps_are_predicted(name: str) -> None:
    pipe = build(name)
    with accel.accelerate(pipe, cache=FixedInterval(3, predictor=Extrapolate(1), warmup=2, min_steps=1)) as session:
        usual = output(pipe, name)
        other = output(pipe, name, control_image=torch.zeros(1, 3, 128, 128))
        assert session.report().predicted == 4
    assert (usual - other).norm() > 0.01 * usual.norm()


def test_the_report_adds_up() -> None:
    pipe = build()
    with accel.accelerate(pipe, cache=EVERY_THIRD) as session:
        assert "Nothing has run yet" in str(session.report())
        output(pipe, output_type="np")
    report = session.report()
    assert (report.steps, report.computed, report.predicted, report.dropped) == (8, 8, 8, 0)
    assert report.seconds["total"] == pytest.approx(sum(report.seconds[key] for key in ("before", "denoise", "after")))
    assert all(value > 0 for value in report.seconds.values())
    assert sum(call.seconds for call in report.calls) <= report.seconds["denoise"]
    lever = report.levers[0]
    assert lever.engaged and lever.lever == "cache" and "8 of 16" in lever.reason
    assert lever.extra_bytes == 2 * 16 * 3 * 8 * 8 * 4  # one output of each stream
    assert report.to_dict()["calls"][0]["action"] == "computed"
    assert SCHEDULE in str(report)


def test_sigma_of_a_flow_run_is_the_schedulers() -> None:
    pipe = build("wan_two_experts")
    assert isinstance(pipe.scheduler, FlowMatchEulerDiscreteScheduler)
    with accel.accelerate(pipe, accel.Recipe()) as session:
        output(pipe, "wan_two_experts")
    sigmas = [call.sigma for call in session.report().calls if call.stream == "cond"]
    assert sigmas == pytest.approx(pipe.scheduler.sigmas[:8].tolist())
    assert sigmas[0] == pytest.approx(1.0, abs=1e-3) and sigmas == sorted(sigmas, reverse=True)


THREE = accel.Recipe(cache=OptimalSchedule(0.5, min_steps=1), guidance=accel.GuidanceDelta(), sampler=accel.UniPC())


@pytest.mark.part(1)
@pytest.mark.parametrize(("recipe", "most"), [(accel.Recipe(), 130), (THREE, 550)], ids=["empty", "three levers"])
def test_a_step_costs_so_many_calls_of_functions(recipe: accel.Recipe, most: int) -> None:
    """Counted, and not timed: a busy machine is as quick at that. In microseconds: `benchmarks.real_shapes`."""
    pipe, found = build("flux"), dict[int, int]()
    with accel.accelerate(pipe, recipe):
        for steps in (4, 8, 4, 8):  # the first of each reads the timetable and asks the scheduler
            with called_functions() as count:
                output(pipe, "flux", steps=steps)
            found[steps] = count[0]
    assert (found[8] - found[4]) / 4 <= most


@contextmanager
def called_functions() -> Iterator[list[int]]:
    """How many functions accel's own lines are, and call, in the block."""
    ours, count = str(Path(accel.__file__).parents[1]), [0]
    folders = tuple(f"{ours}/{folder}/" for folder in ("accel", "attention", "caching", "samplers"))

    def hear(frame: Any, event: str, _: Any) -> None:
        count[0] += event in ("call", "c_call") and frame.f_code.co_filename.startswith(folders)

    before = sys.getprofile()
    sys.setprofile(hear)
    try:
        yield count
    finally:
        sys.setprofile(before)
