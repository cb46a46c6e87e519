"""FlowTurbo: Heun blocks against Heun, refined steps against velocity reuse, and what other levers see of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import accel
from accel import AdaptiveGuidance, Euler, FixedInterval, LastOutput, PseudoCorrector
from accel.anatomy import Anatomy, inspect
from accel.call import DenoiserCall, DenoiserResult, Proceed
from accel.lever import Lever
from accel.method import Method
from accel.report import CallRecord, LeverReport
from accel.samplers import AdamsBashforth, DPMSolver, FlowTurbo, Refiner, SchedulerSolver, Shift
from accel.samplers.sampler import StepPlace
from accel.samplers.trained.refiner import channel_axis, new_refiner
from tests.accel.residue import snapshot, traces
from tests.accel.witness import pipeline, plain, twin, witness
from tests.samplers.mixture import even_times, exact, noise, velocity
from tests.tiny import TINY, run
from tests.tiny.kinds import kinds_only

FLOWS = (
    "wan",
    "wan_two_experts",
    "wan_token_timesteps",
    "wan_i2v",
    "ltx",
    "mochi",
    "hunyuan_video",
    "flux",
    "flux_true_guidance",
    "flux_controlnet",
    "flux_img2img",
    "flux_kontext",
    "sd3",
    "sd3_controlnet",
    "qwen_image",
    "sana",
)
OTHERS = ("sdxl", "cogvideox", "pixart", "svd")


@cache
def reusing(name: str) -> Refiner:
    """The untrained refiner of a tiny pipeline. Its answers have as many channels as a denoiser call shows."""
    with witness(twin(name)) as seen:
        run(twin(name), TINY[name], steps=4)
    answer = seen.exchanges[0].outputs[0]
    return new_refiner(twin(name).transformer, type(twin(name)).__name__, answer.shape[channel_axis(answer)])


def sampled(
    name: str, sampler: FlowTurbo, cache: Any = None, guidance: Any = None, **options: Any
) -> tuple[torch.Tensor, accel.Report]:
    recipe = accel.Recipe(sampler=sampler, cache=cache, guidance=guidance)
    with accel.accelerate(pipeline(name), recipe) as session:
        return run(pipeline(name), TINY[name], **options), session.report()


# Which step is what


@pytest.mark.parametrize(
    ("total", "parameters", "expected"),
    [
        (9, {"refined": 3}, "PPPPPPRRR"),
        (9, {"heun": 2, "refined": 3}, "ECECPPRRR"),
        (10, {"heun": 0.4, "refined": 0.3}, "ECECPPPRRR"),
        (10, {"heun": 0.4, "refined": 0}, "ECECPPPPPP"),
        (9, {"refined": 3, "placement": "alternating"}, "PPPPRPRPR"),
        (9, {"refined": 100}, "PRRRRRRRR"),  # somebody must have answered before
        (9, {"heun": 100, "refined": 100}, "ECECECECR"),
        (1, {"heun": 3, "refined": 3}, "P"),
    ],
)
def test_blocks_come_in_the_papers_order(total: int, parameters: dict[str, Any], expected: str) -> None:
    assert FlowTurbo(**({"heun": 0, "placement": "last"} | parameters)).blocks(total) == expected


# Heun blocks


def heun(levels: Sequence[float], blocks: int, start: torch.Tensor) -> torch.Tensor:
    """Textbook Heun for the first `blocks` steps over `levels`, and Euler's predictor with a trapezoidal correction
    from the next answer for the others.
    """
    x = start
    for time, following in pairwise(levels[: blocks + 1]):
        slope, step = velocity(x, time), following - time
        x = x + step / 2 * (slope + velocity(x + step * slope, following))
    held, before = x, None
    for index, (time, following) in enumerate(pairwise(levels[blocks:])):
        slope = velocity(held, time)
        if before is not None:
            x = x + (time - levels[blocks + index - 1]) / 2 * (before + slope)
        held, before = x + (following - time) * slope, slope
    return held


def by_weights(levels: Sequence[float], blocks: int, start: torch.Tensor) -> torch.Tensor:
    """FlowTurbo's updates over a timetable in which both halves of a block lead to one level."""
    method = FlowTurbo(heun=float(blocks), refined=0)
    doubled = [level for pair in list(pairwise(levels))[:blocks] for level in pair] + list(levels[blocks:])
    x, times, answers = start, [], []
    for step, (time, following) in enumerate(pairwise(doubled)):
        if times and time >= times[-1]:
            times, answers = [], []
        times, answers = [*times, time], [*answers, velocity(x, time)]
        keep, weights, _ = method.update(times, following, StepPlace(step, len(doubled) - 1 - step))
        x = keep * x + sum(w * a for w, a in zip(weights[::-1], answers[::-1], strict=False))
    return x


@pytest.mark.parametrize("blocks", [1, 3, 8])
def test_heun_blocks_are_heun(blocks: int) -> None:
    levels = [1.0, 0.93, 0.8, 0.72, 0.5, 0.41, 0.3, 0.2, 0.12, 0.05]
    torch.testing.assert_close(by_weights(levels, blocks, noise()), heun(levels, blocks, noise()), rtol=0, atol=1e-12)


def test_heun_blocks_converge_with_order_two() -> None:
    truth = exact(even_times(40), noise())
    errors = [float((by_weights(even_times(n), n - 1, noise()) - truth).norm()) for n in (40, 80, 160)]
    slopes = [math.log2(one / two) for one, two in pairwise(errors)]
    print(f"Heun: errors {[f'{error:.1e}' for error in errors]}, slopes {[f'{slope:.2f}' for slope in slopes]}")
    assert slopes[-1] == pytest.approx(2, abs=0.2)


class Mixture(torch.nn.Module):
    """A flow model that is right: the velocity of the Gaussian mixture."""

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.levels: list[float] = []

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor]:
        self.levels.append(float(timestep) / 1000)
        return (velocity(sample.double(), self.levels[-1]).float(),)


class MixturePipeline:
    """The loop that diffusers' flow pipelines have, around that model."""

    def __init__(self) -> None:
        self.scheduler, self.unet = FlowMatchEulerDiscreteScheduler(shift=3.0), Mixture()
        self.config = type("Config", (), {"_name_or_path": ""})()

    @property
    def components(self) -> dict[str, Any]:
        return {"unet": self.unet, "scheduler": self.scheduler}

    def __call__(self, num_inference_steps: int) -> torch.Tensor:
        self.scheduler.set_timesteps(num_inference_steps)
        x, self.unet.levels = noise().float(), []
        for timestep in self.scheduler.timesteps:
            x = self.scheduler.step(self.unet(x, timestep)[0], timestep, x, return_dict=False)[0]
        return x


@pytest.mark.parametrize("blocks", [1, 4])
def test_a_pipeline_makes_heun_blocks_by_two_steps_to_one_level(blocks: int) -> None:
    pipe, total = MixturePipeline(), 12
    plain = FlowMatchEulerDiscreteScheduler(shift=3.0)
    plain.set_timesteps(total - blocks)
    with accel.accelerate(pipe, accel.Recipe(sampler=FlowTurbo(heun=blocks, refined=0))) as session:
        found = pipe(total)
    own = plain.sigmas.tolist()
    assert len(pipe.unet.levels) == total  # as many evaluations as steps were asked for
    assert pipe.unet.levels[: 2 * blocks + 1 : 2] == pytest.approx(own[: blocks + 1], rel=1e-5)
    assert pipe.unet.levels[1 : 2 * blocks : 2] == pytest.approx(own[1 : blocks + 1], rel=1e-5)
    torch.testing.assert_close(found.double(), heun(own, blocks, noise().float().double()), rtol=0, atol=2e-4)
    assert session.report().levers[0].reason.endswith(f"{blocks} Heun blocks")


def test_where_a_scheduler_cannot_repeat_a_level_the_run_goes_without_heun_blocks_and_says_so() -> None:
    """Wan's UniPC would divide by the difference of the two levels."""
    output, report = sampled("wan", FlowTurbo(heun=2, refined=0))
    assert torch.equal(output, sampled("wan", FlowTurbo(heun=0, refined=0))[0])
    assert "no Heun blocks: UniPCMultistepScheduler cannot" in report.levers[0].reason


@pytest.mark.part(1)
@pytest.mark.parametrize("solver", [Euler(), AdamsBashforth(3)], ids=str)
def test_heun_blocks_go_with_every_solver_and_with_other_levels(solver: Any) -> None:
    pipe = MixturePipeline()
    truth = exact([1 - 1e-4, 0.003], noise())
    distances = {}
    for steps in (20, 80):
        method = FlowTurbo(solver=solver, heun=0.5, refined=0, sigmas=Shift(2.0))
        with accel.accelerate(pipe, accel.Recipe(sampler=method)):
            distances[steps] = float((pipe(steps).double() - truth).norm() / truth.norm())
    print(solver, distances)
    assert distances[80] < 0.6 * distances[20]


# Refined steps


@pytest.mark.part(1)
@pytest.mark.parametrize("name", FLOWS)
def test_an_untrained_refiner_says_every_streams_last_answer_again(name: str) -> None:
    """Bit for bit, on all kinds of latents; as the pipeline saw it, which knows nothing of refiners."""
    method = FlowTurbo(refiner=reusing(name), refined=3)
    with accel.accelerate(pipeline(name), accel.Recipe(sampler=method)) as session, witness(pipeline(name)) as seen:
        run(pipeline(name), TINY[name])
    refined = 0
    for exchanges in seen.streams().values():
        for before, now in pairwise(exchanges):
            refined += torch.equal(before.outputs[0], now.outputs[0])
    actions = [call.reason for call in session.report().calls].count("refined from the last answer")
    assert refined == actions > 0
    assert session.report().levers[0].engaged and "3 of" in session.report().levers[0].reason


@pytest.mark.part(1)
@kinds_only(FLOWS)
def test_the_pipeline_comes_back_as_it_was(name: str) -> None:
    pipe = pipeline(name)
    run(pipe, TINY[name], steps=2)  # diffusers leaves its registry of hooks on what has run
    before = snapshot(pipe)
    session = accel.accelerate(pipe, accel.Recipe(sampler=FlowTurbo(refiner=reusing(name), heun=1, refined=3)))
    first = run(pipe, TINY[name])
    assert torch.equal(run(pipe, TINY[name]), first)  # nothing stays from run to run either
    session.restore()
    assert traces(pipe) == []
    assert {
        path for path, value in snapshot(pipe).items() if value != before[path] and path.startswith("trans")
    } == set()
    assert torch.equal(run(pipe, TINY[name]), plain(name))


def test_nothing_is_refined_across_an_exchange_of_experts() -> None:
    """The first step of the second expert is its own, wherever it falls."""
    report = sampled("wan_two_experts", FlowTurbo(refiner=reusing("wan_two_experts"), heun=0, refined=7))[1]
    for name in ("transformer", "transformer_2"):
        actions = [call.action for call in report.calls if call.denoiser == name]
        assert actions[:2] == ["computed", "computed"] and set(actions[2:]) == {"predicted"}


def test_nothing_refined_is_the_solver_alone() -> None:
    alone = accel.Recipe(sampler=PseudoCorrector())
    with accel.accelerate(pipeline("flux"), alone):
        expected = run(pipeline("flux"), TINY["flux"])
    assert torch.equal(sampled("flux", FlowTurbo(heun=0, refined=0))[0], expected)


def test_the_memory_of_refiner_and_answers_is_reported() -> None:
    refiner = reusing("sd3")
    report = sampled("sd3", FlowTurbo(refiner=refiner, refined=3))[1]
    lever = report.levers[0]
    assert lever.extra_bytes > refiner.bytes > 0
    assert "3 of 8 steps refined" in lever.reason and lever.spared == 3 * len(report.timeline())


def test_a_stream_whose_layout_changes_is_asked_anew() -> None:
    """Two sizes in one session; each run is its own."""
    refiner = reusing("sd3")
    with accel.accelerate(pipeline("sd3"), accel.Recipe(sampler=FlowTurbo(refiner=refiner, refined=3))) as session:
        run(pipeline("sd3"), TINY["sd3"])
        run(pipeline("sd3"), TINY["sd3"], size="other", batch=2)
        assert "3 of 8 steps refined" in session.report().levers[0].reason


# Other levers


@dataclass(frozen=True)
class Hearing(Method, lever="cache", abstract=True):
    """Notes which calls reach the place of the cache."""

    positions: list[int] = field(default_factory=list)

    def build(self, anatomy: Anatomy) -> Lever:
        return Ear(self)


class Ear(Lever):
    def __init__(self, method: Hearing) -> None:
        self.method = method

    def handle(self, call: DenoiserCall, proceed: Proceed) -> DenoiserResult:
        self.method.positions.append(call.context.position)
        return proceed(call)

    def reset(self) -> None:
        pass

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        return LeverReport("cache", "hearing", True, "")


def test_refined_calls_never_reach_guidance_or_cache() -> None:
    hearing = Hearing()
    method = FlowTurbo(refiner=reusing("wan"), heun=0, refined=3)
    report = sampled("wan", method, cache=hearing, guidance=AdaptiveGuidance(2.0))[1]
    assert method.blocks(8) == "PPPRPRPR"
    assert sorted(set(hearing.positions)) == [0, 1, 2, 4, 6]
    assert {call.position for call in report.calls if call.reason.startswith("refined")} == {3, 5, 7}


def test_a_cache_answers_from_what_was_computed_and_not_from_what_was_refined() -> None:
    """The cache sees steps 0, 1, 2, 4, 6; where it repeats its last output, that is a computed one. The refiner is one
    that changes everything, so that a refined answer in the cache would show.
    """
    refiner = reusing("wan")
    loud = Refiner(new_refiner(twin("wan").transformer, "", 16).model, refiner.facts)
    with torch.no_grad():
        loud.model.proj_out.bias.fill_(5.0)
    cached = FixedInterval(2, predictor=LastOutput(), warmup=3, final=0, min_steps=1)
    recipe = accel.Recipe(sampler=FlowTurbo(refiner=loud, heun=0, refined=3), cache=cached)
    with accel.accelerate(pipeline("wan"), recipe) as session, witness(pipeline("wan")) as seen:
        run(pipeline("wan"), TINY["wan"])
    calls = session.report().calls
    for number, exchanges in enumerate(seen.streams().values()):
        mine = calls[number::2]
        computed = [exchange for exchange, call in zip(exchanges, mine, strict=True) if call.action == "computed"]
        for place, (exchange, call) in enumerate(zip(exchanges, mine, strict=True)):
            if call.action == "predicted" and not call.reason.startswith("refined"):
                last = [known for known in computed if known.round < place][-1]
                assert torch.equal(exchange.outputs[0], last.outputs[0])
            if call.reason.startswith("refined"):
                torch.testing.assert_close(exchange.outputs[0], exchanges[place - 1].outputs[0] + 5.0)
    assert {call.action for call in calls if not call.reason.startswith("refined")} == {"computed", "predicted"}


def test_levers_below_are_told_that_their_corrections_would_miss_steps() -> None:
    anatomy = inspect(pipeline("flux"))
    assert anatomy.corrects_in_full
    assert not FlowTurbo(solver=Euler(), refiner=reusing("flux")).adjust_anatomy(anatomy).corrects_in_full
    assert FlowTurbo(solver=Euler(), heun=0, refined=0).adjust_anatomy(anatomy).corrects_in_full


# Where it cannot act


@pytest.mark.part(1)
@pytest.mark.parametrize("name", OTHERS)
def test_other_models_than_flows_are_left_alone_with_a_reason(name: str) -> None:
    output, report = sampled(name, FlowTurbo(refined=0, heun=1))
    assert not report.levers[0].engaged and "is for flow models" in report.levers[0].reason
    assert torch.equal(output, plain(name))


def reason_of(refiner: Any, name: str = "wan") -> str:
    output, report = sampled(name, FlowTurbo(refiner=refiner))
    assert torch.equal(output, plain(name)) and not report.levers[0].engaged
    return report.levers[0].reason


def test_a_refiner_that_cannot_be_had_is_one_sentence(tmp_path: Path) -> None:
    assert "python -m benchmarks.refiner" in reason_of("")
    assert "no refiner file" in reason_of(str(tmp_path / "nowhere"))
    assert "FluxTransformer2DModel and not a WanTransformer3DModel" in reason_of(reusing("flux"))
    assert "in_channels is 52 where this pipeline needs 32" in reason_of(reusing("wan_i2v"))
    reusing("wan").save(tmp_path)
    reusing("wan").path = ""
    weights = next(tmp_path.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    assert "cannot be read" in reason_of(str(tmp_path))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"heun": 1.5}, "share below 1 or a whole number"),
        ({"refined": -1}, "must be a number from"),
        ({"refiner": 3}, "must be a folder or a Refiner"),
        ({"solver": DPMSolver()}, "must work with velocities"),
        ({"solver": SchedulerSolver()}, "must work with velocities"),
        ({"solver": PseudoCorrector(steps=0.5)}, "give steps= and sigmas= to FlowTurbo itself"),
        ({"placement": "first"}, "must be one of alternating, last"),
    ],
)
def test_wrong_parameters_are_one_sentence(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        FlowTurbo(**parameters)


def test_a_recipe_names_the_refiners_folder(tmp_path: Path) -> None:
    recipe = accel.Recipe(sampler=FlowTurbo(refiner="some/folder", heun=2, solver=AdamsBashforth(), steps=0.5))
    assert accel.Recipe.from_dict(recipe.to_dict()) == recipe
    refiner = reusing("sd3")
    with pytest.raises(ValueError, match="in memory alone"):
        FlowTurbo(refiner=refiner).to_dict()
    refiner.save(tmp_path / "kept")
    assert FlowTurbo(refiner=refiner).to_dict()["refiner"] == str(tmp_path / "kept")
    refiner.path = ""


def test_the_refiner_follows_the_pipelines_precision_and_a_given_one_stays_as_it_is() -> None:
    pipe, refiner = TINY["wan"].build().to(torch.bfloat16), reusing("wan")
    with accel.accelerate(pipe, accel.Recipe(sampler=FlowTurbo(refiner=refiner, refined=3))) as session:
        assert torch.isfinite(run(pipe, TINY["wan"])).all()
    assert "3 of 8 steps refined" in session.report().levers[0].reason
    assert {weight.dtype for weight in refiner.model.parameters()} == {torch.float32}
