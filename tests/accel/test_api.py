"""The front door: what it takes, what it refuses, and what it does not load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline

import accel
from accel import EasyCache, FixedInterval
from accel.drafting.fast_init import fast_init
from accel.drafting.free_init import free_init
from accel.presets import PRESETS
from tests.accel.residue import snapshot
from tests.accel.witness import pipeline, plain
from tests.tiny import TINY, run
from tests.tiny.kinds import KINDS

METHOD = FixedInterval(3, warmup=2, min_steps=1)


def test_the_default_preset_speeds_a_long_run_up_and_says_so() -> None:
    with accel.accelerate(pipeline("wan")) as session:
        run(pipeline("wan"), TINY["wan"], steps=40)
    assert session.recipe.name == "balanced"
    assert session.report().levers[0].engaged
    assert session.report().computed < 0.6 * len(session.report().calls)


@pytest.mark.part(1)
@pytest.mark.parametrize(
    "preset, name",
    [
        *((preset, "wan") for preset in PRESETS),
        *(pytest.param("balanced", name, marks=() if name in KINDS else pytest.mark.slow) for name in TINY),
    ],
)
def test_every_preset_acts_and_the_default_one_does_on_every_pipeline(preset: str, name: str) -> None:
    with accel.accelerate(pipeline(name), preset) as session:
        assert torch.isfinite(run(pipeline(name), TINY[name], steps=30)).all()
    report = session.report()
    assert report.recipe == preset
    assert report.levers[0].engaged and report.predicted > 0


def test_a_recipe_an_object_and_a_file_are_the_same(tmp_path: Path) -> None:
    recipe, path = accel.Recipe(cache=METHOD), tmp_path / "recipe.json"
    recipe.save(path)
    outputs = []
    for given in (recipe, path, str(path)):
        with accel.accelerate(pipeline("wan"), given) as session:
            assert session.recipe == recipe
            outputs.append(run(pipeline("wan"), TINY["wan"]))
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def test_a_keyword_replaces_the_lever_of_the_preset_and_none_switches_it_off() -> None:
    with accel.accelerate(pipeline("wan"), "fast", cache=METHOD) as session:
        assert session.recipe == accel.Recipe(cache=METHOD)
    with accel.accelerate(pipeline("wan"), "fast", cache=None) as session:
        assert session.recipe == accel.Recipe()
        assert torch.equal(run(pipeline("wan"), TINY["wan"]), plain("wan"))
        assert len(session.report().calls) == 16


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "unknown preset": (lambda pipe: accel.accelerate(pipe, "quick"), ValueError, "the presets are lossless, balanced"),
    "empty name": (lambda pipe: accel.accelerate(pipe, ""), ValueError, "the presets are lossless, balanced"),
    "missing file": (
        lambda pipe: accel.accelerate(pipe, "none.json"),
        ValueError,
        "There is no recipe file none.json.",
    ),
    "missing path": (lambda pipe: accel.accelerate(pipe, Path("none")), ValueError, "There is no recipe file none."),
    "number": (lambda pipe: accel.accelerate(pipe, 2), TypeError, "a preset's name, a Recipe or a JSON file, not 2."),
    "method alone": (lambda pipe: accel.accelerate(pipe, EasyCache()), TypeError, "goes by its lever: cache=..."),
    "recipe class": (lambda pipe: accel.accelerate(pipe, accel.Recipe), TypeError, "a Recipe or a JSON file, not"),
    "wrong lever": (lambda pipe: accel.accelerate(pipe, sampler=EasyCache()), TypeError, "of the sampler lever"),
    "word as method": (lambda pipe: accel.accelerate(pipe, cache="easy"), TypeError, "cache='easy' is not a method"),
}


@pytest.mark.part(5)
@pytest.mark.parametrize("what", REFUSED)
def test_a_wrong_recipe_is_refused_in_one_sentence_and_the_pipeline_is_as_it_was(what: str) -> None:
    pipe = TINY["wan"].build()
    before = snapshot(pipe)
    refuse(REFUSED[what], pipe)
    assert snapshot(pipe) == before


@pytest.mark.part(2)
@pytest.mark.parametrize("what", REFUSED)
def test_a_wrong_recipe_leaves_the_present_one_in_place(what: str) -> None:
    pipe = TINY["wan"].build()
    with accel.accelerate(pipe, cache=METHOD) as session:
        refuse(REFUSED[what], pipe)
        assert session.pipe is pipe
        run(pipe, TINY["wan"])
        assert session.report().predicted == 8


class NoDenoiser:
    components: dict[str, Any] = {"scheduler": None}  # noqa: RUF012

    def __call__(self) -> None:
        pass


NOT_PIPELINES: dict[str, tuple[Any, str]] = {
    "nothing": (None, "not a NoneType."),
    "name": ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "not a str."),
    "class": (WanPipeline, "not the class WanPipeline."),
    "model": (TINY["wan"].build().transformer, "not a WanTransformer3DModel."),
    "scheduler": (TINY["wan"].build().scheduler, "not a UniPCMultistepScheduler."),
    "dictionary": ({"transformer": 1}, "not a dict."),
    "function": (print, "not a builtin_function_or_method."),
}


@pytest.mark.parametrize("what", NOT_PIPELINES)
def test_what_is_not_a_pipeline_is_refused_in_one_sentence(what: str) -> None:
    value, expected = NOT_PIPELINES[what]
    refuse((accel.accelerate, TypeError, expected), value)
    refuse((accel.restore, TypeError, expected), value)


VERBS: dict[str, Callable[[Any], Any]] = {
    "draft": lambda pipe: accel.draft(pipe, "a"),
    "best_of": lambda pipe: accel.best_of(pipe, "a", verifier=len),
    "enlarge": lambda pipe: accel.enlarge(pipe, "a", height=64, width=64),
    "free_init": lambda pipe: free_init(pipe, "a"),
    "fast_init": lambda pipe: fast_init(pipe, "a"),
    "check": lambda pipe: accel.check(pipe, "a"),
    "compare": lambda pipe: accel.compare(pipe, ["fast"], ["a"]),
    "tune": lambda pipe: accel.tune(pipe, ["a"], steps=9, min_psnr=30, progress=False),
    "calibrate": lambda pipe: accel.calibrate(pipe, ["a"]),
    "calibrating": lambda pipe: accel.calibrating(pipe).__enter__(),
    "search_sigmas": lambda pipe: accel.search_sigmas(pipe, ["a", "b"], steps=4),
    "precision.measure": lambda pipe: accel.precision.measure(pipe, len),
    "attention.measure": lambda pipe: accel.attention.measure(pipe, len, accel.attention.SlidingTile()),
    "resolution.measure": lambda pipe: accel.resolution.measure(pipe, [], accel.resolution.CoarseToFine()),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("what", ["nothing", "name", "class", "model"])
def test_every_verb_refuses_it_in_one_sentence(what: str, verb: str) -> None:
    refuse((VERBS[verb], (TypeError, ValueError), "."), NOT_PIPELINES[what][0])


def test_a_pipeline_without_a_denoiser_is_refused_in_one_sentence() -> None:
    refuse((accel.accelerate, ValueError, "NoDenoiser has no denoiser that accel knows"), NoDenoiser())
    pipe = TINY["wan"].build()
    pipe.scheduler = None
    refuse((accel.accelerate, ValueError, "WanPipeline has no scheduler"), pipe)


def refuse(case: tuple[Any, Any, str], value: Any) -> None:
    call, kind, expected = case
    with pytest.raises(kind) as refusal:
        call(value)
    message = str(refusal.value)
    assert expected in message
    assert message.endswith(".") and "\n" not in message and len(message) < 400


def test_restoring_an_untouched_pipeline_does_nothing() -> None:
    pipe = TINY["wan"].build()
    before = snapshot(pipe)
    accel.restore(pipe)
    assert snapshot(pipe) == before
