"""compare(): the protocol, with a pipeline whose times and pictures are known, and a session that plays its part."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanPipeline

import accel
from accel.measure import pipeline_runs, runner
from accel.measure.comparison import ComparisonInterrupted, compare
from accel.measure.results import Comparison
from accel.recipe import Recipe
from accel.report import CallRecord, LeverReport, Report
from tests.tiny import TINY

COST = {"": 1.0, "half": 0.5, "quarter": 0.25}
ERROR = {"": 0.0, "half": 0.01, "quarter": 0.05}
OVERHEAD = 2.0


class FakeClock:
    """Time that passes only when the pipeline says so, which makes every ratio exact."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now


class FakePipeline:
    """Takes OVERHEAD + steps x cost seconds; its picture errs by a constant and by 1/steps."""

    def __init__(self, clock: FakeClock) -> None:
        self.scheduler = object()
        self.clock = clock
        self.recipe: Recipe | None = None
        self.log: list[tuple[str, int, str, int]] = []
        self.fail_at: int | None = None
        self.failure: BaseException = RuntimeError("out of memory")
        self.slowdown = 1.0

    def __call__(
        self,
        prompt: str,
        num_inference_steps: int = 40,
        guidance_scale: float = 5.0,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
    ) -> Any:
        assert self.recipe is not None, "measured without a session"
        assert output_type == "np"
        self.log.append((self.recipe.name, num_inference_steps, prompt, generator.initial_seed()))
        if self.fail_at is not None and len(self.log) >= self.fail_at:
            raise self.failure
        self.clock.now += (OVERHEAD + num_inference_steps * COST[self.recipe.name]) * self.slowdown
        noise = torch.rand(3, 16, 16, 3, generator=generator).numpy() * 0.5
        frames = noise + np.float32(0.1 / num_inference_steps + ERROR[self.recipe.name])
        return SimpleNamespace(frames=frames[None])


class FakeSession:
    def __init__(self, pipe: FakePipeline, recipe: Recipe) -> None:
        self.pipe, self.recipe = pipe, recipe
        pipe.recipe = recipe

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.recipe = None

    def report(self) -> Report:
        steps = self.pipe.log[-1][1]
        skip = round(1 / COST[self.recipe.name])
        calls = [
            CallRecord(
                1, step, step, 1 - step / steps, stream, "transformer",
                "predicted" if step % skip else "computed", "why", 0.01,
            )
            for step in range(steps)
            for stream in ("cond", "uncond")
        ]  # fmt: skip
        denoise = steps * COST[self.recipe.name] * self.pipe.slowdown
        levers = [LeverReport("cache", "Half", True, "fits", 1000)] if self.recipe.name else []
        seconds = {"total": OVERHEAD + denoise, "before": 0.5, "denoise": denoise, "after": 1.5}
        return Report(self.recipe.label, calls, levers, seconds)


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePipeline]:
    clock = FakeClock()

    def accelerate(pipe: FakePipeline, recipe: Any) -> FakeSession:
        return FakeSession(pipe, Recipe(name=recipe) if isinstance(recipe, str) else recipe)

    monkeypatch.setattr(pipeline_runs, "accelerate", accelerate)
    monkeypatch.setattr(runner, "time", clock)
    yield FakePipeline(clock)


def measured(pipe: FakePipeline) -> list[tuple[str, int, str, int]]:
    return [entry for entry in pipe.log if entry[1] > runner.WARMUP_STEPS]


def run(pipe: FakePipeline, **arguments: Any) -> Comparison:
    given: dict[str, Any] = {
        "recipes": ["half", "quarter"],
        "prompts": ["a", "b"],
        "seeds": [0, 7],
        "progress": False,
    }
    return compare(pipe, **{**given, **arguments})


def test_speedups_are_wall_clock_ratios(pipe: FakePipeline) -> None:
    result = run(pipe)
    half = result.row("half")
    assert half.speedup == pytest.approx(42 / 22)
    assert half.denoise_speedup == pytest.approx(2.0)
    assert half.seconds == pytest.approx(22.0)
    assert (half.before, half.denoise, half.after) == pytest.approx((0.5, 20.0, 1.5))


def test_fewer_steps_take_the_same_time(pipe: FakePipeline) -> None:
    result = run(pipe)
    fewer = result.equal_time_row("half")
    assert fewer is not None
    assert (fewer.label, fewer.steps) == ("20 steps", 20)
    assert fewer.seconds == pytest.approx(result.row("half").seconds)
    assert [row.label for row in result.rows] == ["unaccelerated", "half", "20 steps", "quarter", "10 steps"]


def test_recipes_of_equal_speed_share_their_fewer_steps(pipe: FakePipeline) -> None:
    result = run(pipe, recipes=[("one", "half"), ("two", "half")])
    assert [row.label for row in result.rows] == ["unaccelerated", "one", "20 steps", "two"]
    assert result.equal_time_row("one") is result.equal_time_row("two")


def test_a_recipe_that_saves_nothing_gets_no_fewer_steps(pipe: FakePipeline) -> None:
    result = run(pipe, recipes=[("nothing", Recipe())])
    assert [row.kind for row in result.rows] == ["baseline", "recipe"]
    assert result.row("nothing").psnr == 100.0


def test_quality_refers_to_the_unaccelerated_clip_of_the_same_prompt_and_seed(pipe: FakePipeline) -> None:
    result = run(pipe)
    assert result.row("half").psnr == pytest.approx(40.0, abs=0.01)
    assert result.row("quarter").psnr_worst == pytest.approx(20 * np.log10(20), abs=0.01)
    assert result.row("half").flicker_difference == pytest.approx(0.0, abs=1e-6)
    assert result.row("unaccelerated").psnr is None


def test_runs_are_interleaved_and_rotate(pipe: FakePipeline) -> None:
    run(pipe, fewer_steps=False, repeats=2)
    names = [entry[0] for entry in measured(pipe)]
    assert len(names) == 3 * 2 * 2 * 2
    rounds = [names[start : start + 3] for start in range(0, len(names), 3)]
    assert all(sorted(each) == ["", "half", "quarter"] for each in rounds)
    assert {each[0] for each in rounds} == {"", "half", "quarter"}


def test_a_machine_that_slows_down_does_not_change_the_speedup(pipe: FakePipeline) -> None:
    def slower(frames: Any, prompt: str) -> Any:  # called once for every judged clip
        pipe.slowdown = 3.0
        return SimpleNamespace(correct=True, matches={})

    result = run(pipe, verify=slower, prompts=["a"], seeds=[0])
    fewer = result.equal_time_row("half")
    assert fewer is not None
    assert fewer.seconds > 2 * result.row("half").seconds
    assert fewer.speedup == pytest.approx(result.row("half").speedup)


def test_times_that_vary_are_pointed_out(pipe: FakePipeline) -> None:
    assert run(pipe).cautions() == []

    def slower(frames: Any, prompt: str) -> Any:
        pipe.slowdown *= 1.2
        return SimpleNamespace(correct=True, matches={})

    result = run(pipe, verify=slower)
    assert "busy" in result.cautions()[0]
    assert "busy" in str(result)


def test_every_contestant_is_warmed_up_first(pipe: FakePipeline) -> None:
    run(pipe, fewer_steps=False)
    assert [(name, steps) for name, steps, *_ in pipe.log[:3]] == [("", 4), ("half", 4), ("quarter", 4)]


def test_the_same_seeds_reach_every_contestant(pipe: FakePipeline) -> None:
    run(pipe, fewer_steps=False)
    per_name = {name: [(prompt, seed) for n, _, prompt, seed in measured(pipe) if n == name] for name in ("", "half")}
    assert per_name[""] == per_name["half"] == [("a", 0), ("a", 7), ("b", 0), ("b", 7)]


def test_counts_and_memory_come_from_the_report(pipe: FakePipeline) -> None:
    row = run(pipe).row("quarter")
    assert (row.computed, row.predicted, row.dropped, row.extra_bytes) == (20, 60, 0, 1000)


def test_a_verifier_gives_adherence_per_attribute(pipe: FakePipeline) -> None:
    def verify(frames: Any, prompt: str) -> Any:
        assert frames.shape == (3, 16, 16, 3)
        return SimpleNamespace(correct=prompt == "a", matches={"colour": True, "shape": prompt == "a"})

    result = run(pipe, verify=verify)
    assert all(row.adherence == 0.5 for row in result.rows)
    assert result.row("half").attributes == {"colour": 1.0, "shape": 0.5}


def test_fewer_steps_can_be_given_as_a_list(pipe: FakePipeline) -> None:
    result = run(pipe, fewer_steps=[30, 10])
    assert [row.label for row in result.rows] == ["unaccelerated", "half", "quarter", "30 steps", "10 steps"]
    psnrs = [result.row(f"{count} steps").psnr for count in (30, 10)]
    assert psnrs[0] > psnrs[1]


def test_a_recipe_may_be_called_as_fewer_steps_are(pipe: FakePipeline) -> None:
    result = run(pipe, recipes=[("10 steps", "half")], fewer_steps=[10])
    assert [row.label for row in result.rows] == ["unaccelerated", "10 steps", "10 steps (2)"]
    assert [row.kind for row in result.rows] == ["baseline", "recipe", "fewer_steps"]
    assert result.row("10 steps (2)").equal_time_to == () and result.row("10 steps").computed != result.rows[2].computed


def test_the_device_is_asked_for_once(pipe: FakePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(runner, "device_of", lambda pipe: asked.append(pipe) or torch.device("cpu"))
    run(pipe, fewer_steps=False)
    assert asked == [pipe]


def test_another_library_is_measured_by_the_same_protocol(pipe: FakePipeline) -> None:
    events: list[str] = []

    def attach(pipe: FakePipeline) -> Any:
        events.append("on")
        return lambda: events.append("off")

    result = run(pipe, recipes=[("rival", attach)], fewer_steps=False, prompts=["a"], seeds=[0])
    assert events == ["on", "off"] * 3  # tried, warmed up, measured
    assert result.row("rival").kind == "other"


@pytest.mark.parametrize("failure", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_failure_leaves_the_pipeline_restored(pipe: FakePipeline, failure: BaseException) -> None:
    before = set(vars(pipe))
    pipe.fail_at, pipe.failure = 2, failure
    with pytest.raises(type(failure)):
        run(pipe)
    assert pipe.recipe is None
    assert set(vars(pipe)) == before


def test_ctrl_c_keeps_the_rounds_that_were_complete(pipe: FakePipeline) -> None:
    pipe.fail_at, pipe.failure = 3 + 3 + 2, KeyboardInterrupt()  # warm-up, one round, one run of the next
    with pytest.raises(ComparisonInterrupted) as caught:
        run(pipe)
    partial = caught.value.partial
    assert partial is not None
    assert {row.label: row.runs for row in partial.rows} == {"unaccelerated": 1, "half": 1, "quarter": 1}


def test_ctrl_c_before_the_first_round_keeps_nothing(pipe: FakePipeline) -> None:
    pipe.fail_at, pipe.failure = 4, KeyboardInterrupt()
    with pytest.raises(ComparisonInterrupted) as caught:
        run(pipe)
    assert caught.value.partial is None


def test_a_pipeline_that_does_not_repeat_itself_is_reported(pipe: FakePipeline) -> None:
    assert run(pipe).environment["repeatable"] is True
    assert run(pipe, fewer_steps=False).environment["repeatable"] is None
    original = type(pipe).__call__

    class Unsteady(FakePipeline):
        def __call__(self, prompt: str, num_inference_steps: int = 40, **arguments: Any) -> Any:
            output = original(self, prompt, num_inference_steps, **arguments)
            output.frames = output.frames + len(self.log) * 1e-4
            return output

    assert run(Unsteady(pipe.clock)).environment["repeatable"] is False


def test_to_dict_is_json_with_the_settings(pipe: FakePipeline) -> None:
    data = json.loads(json.dumps(run(pipe).to_dict(), allow_nan=False))
    settings = data["settings"]
    assert (settings["steps"], settings["guidance"]) == (40, 5.0)
    assert (settings["width"], settings["height"], settings["frames"]) == (16, 16, 3)
    assert settings["prompts"] == ["a", "b"]
    assert {"device", "torch", "diffusers", "threads"} <= set(data["environment"])
    assert data["recipes"]["half"]["name"] == "half"
    assert len(data["timelines"]["half"]) == 80


def test_the_table_and_headlines_name_every_row(pipe: FakePipeline) -> None:
    text = str(run(pipe))
    for part in ("unaccelerated", "half", "20 steps", "1.91x", "the same time buys 20 steps"):
        assert part in text


def test_save_writes_json_page_and_videos(pipe: FakePipeline, tmp_path: Any) -> None:
    page = run(pipe, fps=4).save(tmp_path / "out")
    names = sorted(path.name for path in page.parent.iterdir())
    videos = [f"prompt-{number}-{label}.mp4" for number in (1, 2) for label in ("half", "quarter")]
    assert names == sorted(["comparison.json", "page.html", *videos])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompts": []}, "prompts must be"),
        ({"recipes": "balanced"}, "must be a list"),
        ({"recipes": ["half", "half"]}, "two recipes are called 'half'"),
        ({"seeds": [0.5]}, "a seed must be a whole number"),
        ({"steps": 0}, "steps must be"),
        ({"repeats": 0}, "repeats must be"),
        ({"repeats": "two"}, "repeats must be a whole number of at least 1, not 'two'"),
        ({"prompts": None}, "prompts must be"),
        ({"call_arguments": [3]}, "call_arguments must be a dictionary"),
        ({"verify": "clip"}, "verify must be a function that judges frames, not 'clip'"),
        ({"metrics": {"mine": 3}}, "mine must be a function that judges frames, not 3"),
        ({"fewer_steps": [0]}, "fewer_steps must be"),
        ({"call_arguments": {"num_inference_steps": 3}}, "must not hold num_inference_steps"),
        ({"call_arguments": {"colour": 3}}, "takes no argument called colour"),
    ],
)
def test_bad_arguments_give_one_sentence(pipe: FakePipeline, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        run(pipe, **arguments)
    assert pipe.log == []


def test_something_that_is_not_a_pipeline_is_refused() -> None:
    with pytest.raises(TypeError, match="needs a diffusers pipeline, not int"):
        compare(3, prompts=["a"])  # type: ignore[arg-type]


class Worded(WanPipeline):  # type: ignore[misc]
    """The tiny Wan pipeline, whose prompts become embeddings without a text encoder."""

    def encode_prompt(self, prompt: str, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        words = torch.Generator().manual_seed(len(prompt))
        return torch.randn(1, 4, 24, generator=words), torch.zeros(1, 4, 24)


def test_a_real_pipeline_is_measured_and_comes_back_untouched() -> None:
    pipe = Worded(**TINY["wan"].build().components)
    arguments = {"height": 16, "width": 16, "num_frames": 1}

    def output() -> Any:
        generator = torch.Generator().manual_seed(1)
        return pipe("a", num_inference_steps=3, generator=generator, output_type="np", **arguments).frames

    before, attributes = output(), dict(vars(pipe))
    result = compare(
        pipe,
        [("every other", accel.FixedInterval(2, warmup=1, min_steps=1)), ("nothing", accel.Recipe())],
        ["a", "bbb"],
        steps=5,
        call_arguments=arguments,
        fewer_steps=[3],
        progress=False,
    )
    every_other, nothing = result.row("every other"), result.row("nothing")
    assert nothing.psnr == 100.0
    assert nothing.computed == 2 * 5
    assert every_other.computed + every_other.predicted == 2 * 5
    assert every_other.predicted > 0
    assert 0 < every_other.psnr < 100
    assert every_other.before > 0 and every_other.denoise > 0 and every_other.after > 0
    assert result.environment["repeatable"] is None
    np.testing.assert_array_equal(output(), before)
    assert vars(pipe) == attributes
