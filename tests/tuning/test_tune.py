"""`accel.tune` on the pocket model: what it returns is verified, what it cannot do it says, nothing is done twice."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import accel
from accel import pocket
from accel.measure import runner
from accel.measure.metrics import psnr, to_frames
from accel.measure.pipeline_runs import attach_for_run, without_progress_bars
from accel.patch import session_of
from accel.recipe import Recipe
from accel.tuning import Bound, GoalNotMet, TuningInterrupted, trials
from accel.tuning.evidence import promised_for, sentence
from accel.tuning.trials import GLANCES, JOURNAL, UNACCELERATED
from accel.tuning.tuner import SCREEN
from tests import shallow

STEPS = 10
GOAL = 18.0  # dB
PROMPTS = pocket.prompts(4, 42)  # two to search with, and two to judge on
CALL = {"num_frames": 1, "height": 32, "width": 32}


class WorkClock:
    """Tells the time by the work that the denoiser does, so that what else the machine does decides no test."""

    def __init__(self, block: torch.nn.Module) -> None:
        self.now = 0.0
        block.register_forward_pre_hook(self._pass)

    def perf_counter(self) -> float:
        return self.now + time.perf_counter() / 100.0

    process_time = perf_counter

    def monotonic(self) -> float:
        return time.monotonic()

    def _pass(self, *_: Any) -> None:
        self.now += 0.05


SESSIONS: list[Any] = []  # the user's, which must be on again after everything


@pytest.fixture(scope="module")
def pipe() -> Iterator[Any]:
    found = shallow.load("video")
    clock = WorkClock(found.transformer.blocks[0])
    with without_progress_bars(found), pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "time", clock)
        patch.setattr(trials, "time", clock)
        patch.setattr("accel.tuning.tuner.VERIFICATIONS", 2)  # of twelve: what is verified is verified no worse
        patch.setattr("accel.tuning.clip_split.FEWEST_HELD_OUT", 2)  # of six clips, likewise
        SESSIONS.append(accel.accelerate(found, accel.Recipe(cache=accel.FixedInterval(3))))
        yield found


def tuned(pipe: Any, **asked: Any) -> Recipe:
    given = {"steps": STEPS, "call_arguments": CALL, "minutes": 10, "levers": ("cache",)}  # far more than it takes
    return accel.tune(pipe, **{"prompts": PROMPTS[:2], "held_out": PROMPTS[2:], **given, **asked})


@pytest.fixture(scope="module")
def folder(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tuning for this goal, with everything that it writes."""
    out = tmp_path_factory.mktemp("tuning")
    tuned(pipe, min_psnr=GOAL, out=out, verify=pocket.verify)
    return out


@pytest.mark.slow
def test_the_recipe_keeps_its_promise_on_prompts_it_has_not_seen(pipe: Any, folder: Path) -> None:
    def video(recipe: Recipe, prompt: str) -> Any:
        with attach_for_run(pipe, recipe):
            generator = torch.Generator().manual_seed(7)
            return to_frames(pipe(prompt, num_inference_steps=STEPS, output_type="np", generator=generator, **CALL))

    recipe = Recipe.load(folder / "recipe.json")
    unseen = pocket.prompts(4, 43)
    kept = [psnr(video(recipe, prompt), video(Recipe(), prompt)) >= GOAL - 1.0 for prompt in unseen]
    assert sum(kept) >= 3, "of all prompts 95 %"


def test_the_recipe_carries_its_evidence(folder: Path) -> None:
    recipe = Recipe.load(folder / "recipe.json")
    proof = recipe.evidence
    assert proof["met"] and proof["speedup"] > 1.2
    assert len(proof["quality"]["psnr"]["values"]) == len(proof["held_out"]["prompts"]) * len(
        proof["held_out"]["seeds"]
    )
    assert proof["quality"]["psnr"]["worst"] >= GOAL - 1.0
    assert not set(proof["held_out"]["prompts"]) & set(PROMPTS[:2]), "which were searched with"
    assert {"torch", "diffusers", "accel", "device_name"} <= set(proof["environment"])
    assert proof["model"]["fingerprint"].startswith("WanPocketPipeline@")
    assert "PSNR at least 18: met with" in sentence(proof)
    assert "evidence" not in recipe.to_dict(), "jobs and labels are about what a recipe does"
    page = (folder / "evidence.html").read_text()
    assert "<svg" in page and proof["held_out"]["prompts"][0] in page
    assert (folder / "held-out" / "page.html").exists()


def test_the_pipeline_comes_back_as_it_was(pipe: Any, folder: Path) -> None:
    assert session_of(pipe) is SESSIONS[-1]


def test_the_same_call_goes_on_where_it_was(pipe: Any, folder: Path) -> None:
    before = [(folder / name).read_text() for name in (JOURNAL, GLANCES, UNACCELERATED)]
    searched_again(pipe, folder)
    after = [(folder / name).read_text() for name in (JOURNAL, GLANCES, UNACCELERATED)]
    assert after == before, "every run was in a journal"


@pytest.mark.slow
def test_another_goal_uses_the_runs_of_the_first(pipe: Any, folder: Path) -> None:
    faster = tuned(pipe, target_speedup=1.3, out=folder)
    assert faster.evidence["speedup"] >= 1.3
    assert faster.evidence["search"]["runs"] < 20


def test_a_line_that_a_crash_cut_off_is_forgotten(pipe: Any, folder: Path, tmp_path: Path) -> None:
    for name in (path.name for path in folder.iterdir() if path.is_file()):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    text = (tmp_path / JOURNAL).read_text()
    (tmp_path / JOURNAL).write_text(text[: len(text) - 20])
    (tmp_path / SCREEN).mkdir()
    for path in (folder / SCREEN).iterdir():
        (tmp_path / SCREEN / path.name).write_bytes(path.read_bytes())
    searched_again(pipe, tmp_path)
    kept, lines = text.splitlines()[:-1], (tmp_path / JOURNAL).read_text().splitlines()
    assert lines[: len(kept)] == kept
    assert len(lines) <= len(kept) + 2, "the rest of the line, and at most one more run"


def searched_again(pipe: Any, folder: Path) -> None:
    """The same tuning up to where the winner is measured with the clock, which is not in the journal."""

    def tell(text: str) -> None:
        if text.startswith("verifying"):
            raise KeyboardInterrupt

    with pytest.raises(TuningInterrupted):
        tuned(pipe, min_psnr=GOAL, out=folder, tell=tell)


def test_a_folder_of_another_tuning_is_refused(pipe: Any, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"holds runs with other settings \(.*shots.*\)"):
        tuned(pipe, prompts=pocket.prompts(2, 99), min_psnr=GOAL, out=folder)


@pytest.mark.slow  # test_command.py asks for such a one too
def test_an_impossible_quality_is_not_promised(pipe: Any, folder: Path) -> None:
    with pytest.raises(
        GoalNotMet, match=r"PSNR at least 99 cannot be promised .* what comes nearest is .* promises PSNR"
    ) as caught:
        tuned(pipe, min_psnr=99.0)
    assert caught.value.nearest is not None
    assert not caught.value.nearest.evidence["met"]


@pytest.mark.slow  # test_command.py asks for such a one too
def test_an_impossible_speed_is_not_promised(pipe: Any) -> None:
    with pytest.raises(GoalNotMet, match="50x cannot be reached"):
        tuned(pipe, target_speedup=50.0)


def test_an_interruption_before_anything_is_verified_keeps_the_runs(pipe: Any, tmp_path: Path) -> None:
    def tell(text: str) -> None:
        if "clip 2 of 2" in text and "unaccelerated" not in text and "recording" not in text:
            raise KeyboardInterrupt

    with pytest.raises(TuningInterrupted, match="the same command goes on from there"):
        tuned(pipe, min_psnr=GOAL, out=tmp_path, tell=tell)
    assert len((tmp_path / JOURNAL).read_text().splitlines()) > 1, "the settings, and a run"
    assert session_of(pipe) is SESSIONS[-1]


@pytest.mark.slow
def test_an_interruption_after_that_returns_the_best_so_far(pipe: Any, tmp_path: Path) -> None:
    def tell(text: str) -> None:
        if text.startswith("verified"):
            raise KeyboardInterrupt

    recipe = tuned(pipe, min_psnr=GOAL, out=tmp_path, tell=tell)
    assert recipe.evidence["met"]
    assert json.loads((tmp_path / "recipe.json").read_text())["evidence"]["met"]


@pytest.mark.slow
def test_a_metric_of_ones_own(pipe: Any) -> None:
    worst = Bound("worst pixel", lambda one, other: float(abs(one - other).max()), most=0.5, slack=0.05)
    recipe = tuned(pipe, bounds=[worst])
    assert max(recipe.evidence["quality"]["worst pixel"]["values"]) <= 0.55


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"prompts": []}, "prompts must be a list"),
        ({"prompts": "one text"}, "prompts must be a list"),
        ({"minutes": 0}, "minutes must be a number above 0"),
        ({"levers": ("speed",)}, "levers must be some of cache, attention, guidance, sampler"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"call_arguments": {"prompt": "x"}}, "call_arguments must not hold prompt"),
        ({"call_arguments": {"output_type": "latent"}}, "decoded frames are needed, not latents"),
    ],
)
def test_bad_input_is_one_sentence(pipe: Any, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tuned(pipe, **{"min_psnr": GOAL, **asked})
    assert session_of(pipe) is SESSIONS[-1]


def test_a_time_that_cannot_suffice_is_told_after_the_first_run(pipe: Any) -> None:
    said: list[str] = []
    with pytest.raises(ValueError, match=r"minutes=0.02 is too short: an unaccelerated .*; give minutes=\d+"):
        tuned(pipe, min_psnr=GOAL, minutes=0.02, tell=said.append)
    assert said == ["warming up", "unaccelerated, clip 1 of 2"]
    assert session_of(pipe) is SESSIONS[-1]


def test_progress_is_told_unless_it_is_not_wanted(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Sign:
        def __enter__(self) -> Sign:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def update(self, text: str) -> None:
            shown.append(text)

    monkeypatch.setattr("accel.tuning.api.waiting", lambda text: Sign())
    for wanted in (False, True):
        with pytest.raises(ValueError, match="too short"):
            tuned(pipe, min_psnr=GOAL, minutes=0.02, progress=wanted)
        assert ("warming up" in shown) is wanted


def test_few_prompts_promise_nothing_of_others(folder: Path) -> None:
    proof = Recipe.load(folder / "recipe.json").evidence
    assert proof["held_out"]["scope"] == "prompts" and "Nothing is promised" not in sentence(proof)
    seeds = sentence({**proof, "held_out": {**proof["held_out"], "scope": "seeds"}})
    assert "clips of the same prompts with other seeds" in seeds and "Nothing is promised of other prompts" in seeds
    assert promised_for(0.95, "seeds") == "95 % of the seeds of these prompts"


@pytest.mark.parametrize("known", [True, False, "history.jsonl"])
def test_earlier_tunings_are_refused_in_one_sentence(pipe: Any, known: object) -> None:
    with pytest.raises(TypeError, match=r"^tune has no known= any more, .*: leave it out\.$"):
        tuned(pipe, min_psnr=GOAL, known=known)


def test_what_is_no_pipeline_is_refused() -> None:
    with pytest.raises(TypeError, match="expects a diffusers pipeline"):
        accel.tune(object(), ["a corgi"], min_psnr=GOAL)


def test_constants_are_taken_from_a_calibration_that_fits(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with accel.calibrating(pipe) as calibration:
        pipe(PROMPTS[0], num_inference_steps=STEPS, **CALL)
    given: list[Any] = []

    def enough(anatomy: Any, measured: Any, *_: Any) -> None:
        given.append(measured)
        raise KeyboardInterrupt

    monkeypatch.setattr("accel.tuning.tuner.space_of", enough)
    with pytest.raises(TuningInterrupted):
        accel.tune(pipe, PROMPTS, min_psnr=20, steps=STEPS, call_arguments=CALL, calibration=calibration)
    assert given == [calibration]
    table = replace(calibration.tables[0], kind="UNet2DConditionModel")
    with pytest.raises(ValueError, match=r"does not fit this pipeline\. It was calibrated on UNet2DConditionModel"):
        accel.tune(pipe, PROMPTS, min_psnr=20, calibration=replace(calibration, tables=(table,)))
