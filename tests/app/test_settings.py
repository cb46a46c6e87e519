"""Settings are plain data: within limits, found again in the files that they made, and the same thing when copied."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import accel
from accel.app.limits import Limits
from accel.app.settings import StudioSettings, embedded
from accel.cli import parser
from accel.measure.output import PipelineOutput
from accel.rendering.encoding import encode
from accel.rendering.jobs import Job
from accel.rendering.manifest import read_jsonl

PROMPT = "a red circle moves left on a dark background"
PLAIN = StudioSettings(prompt=PROMPT)
RICH = StudioSettings(
    prompt='it\'s "quoted" \\n $HOME `ls` é',
    negative="x'y",
    seed=3,
    steps=12,
    width=96,
    height=64,
    frames=17,
    guidance=5.5,
    recipe=accel.Recipe(
        cache=accel.EasyCache(threshold=0.1, predictor=accel.LastOutput()), guidance=accel.GuidanceInterval(low=0.3)
    ),
)


@pytest.mark.parametrize("settings", [PLAIN, RICH], ids=["plain", "rich"])
def test_as_data_they_survive_strict_json(settings: StudioSettings) -> None:
    text = json.dumps(settings.to_dict(), allow_nan=False)  # GuidanceInterval's upper bound is infinite
    assert StudioSettings.from_dict(json.loads(text)) == settings
    assert StudioSettings.from_dict(json.loads(text)).key() == settings.key()


def test_the_baseline_key_ignores_the_recipe_and_nothing_else() -> None:
    assert replace(PLAIN, recipe=RICH.recipe).baseline_key() == PLAIN.baseline_key()
    assert replace(PLAIN, recipe=RICH.recipe).key() != PLAIN.key()
    changes = {"model": "pocket:few", "prompt": "", "negative": "x", "seed": 1, "steps": 4}
    changes |= {"width": 64, "height": 64, "frames": 5, "guidance": 1.0}
    keys = [replace(PLAIN, **{name: value}).baseline_key() for name, value in changes.items()]
    assert len({*keys, PLAIN.baseline_key()}) == len(changes) + 1


def test_a_recipe_counts_for_what_it_does_and_not_for_its_name() -> None:
    assert replace(PLAIN, recipe=replace(PLAIN.recipe, name="mine")).key() == PLAIN.key()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"steps": 0}, "steps must be a whole number from 1 to 200, not 0"),
    ({"steps": 2.5}, "steps must be a whole number"),
    ({"steps": True}, "steps must be a whole number"),
    ({"width": 10**6}, "width must be a whole number from 8 to 2048"),
    ({"frames": 0}, "frames must be"),
    ({"width": 2048, "height": 2048, "frames": 257}, "more than this server allows"),
    ({"guidance": float("nan")}, "guidance must be a number from 0 to 100"),
    ({"seed": -1}, "seed must be"),
    ({"prompt": "x" * 5000}, "prompt has 5000 characters"),
    ({"prompt": "a\0b"}, "holds a character that is none"),
    ({"prompt": 7}, "prompt must be text"),
    ({"model": ""}, "no model is given"),
    ({"model": "pocket:nope"}, "no pocket model"),
    ({"model": "/etc"}, "may not read '/etc'"),
    ({"model": "../models/x"}, "may not read"),
    ({"model": "tests"}, "may not read"),
    ({"model": "a/b/c"}, "is no model"),
]


@pytest.mark.parametrize(
    "data",
    [{"seed": 2**63}, {"steps": 10**30}, {"recipe": {"cache": {"method": "EasyCache", "warmup": -(2**64)}}}],
)
def test_numbers_that_no_browser_is_sent_are_refused_as_they_come(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="settings hold numbers of 64 bits, and not one of"):
        StudioSettings.from_dict(data)


@pytest.mark.parametrize(("changes", "sentence"), WRONG, ids=[str(changes)[:40] for changes, _ in WRONG])
def test_what_is_out_of_bounds_is_told_in_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        replace(PLAIN, **changes).check(Limits())
    assert "\n" not in str(error.value)


def test_models_and_files_lie_below_the_allowed_folders(tmp_path: Path) -> None:
    inside, outside = tmp_path / "models" / "mine", tmp_path / "secret"
    for folder in (inside, outside):
        folder.mkdir(parents=True)
        (folder / "model_index.json").write_text("{}")
    (tmp_path / "models" / "link").symlink_to(outside)
    limits = Limits(roots=(tmp_path / "models",))
    assert replace(PLAIN, model=str(inside)).check(limits).model == str(inside)
    for model in (outside, tmp_path / "models" / ".." / "secret", tmp_path / "models" / "link"):
        with pytest.raises(ValueError, match="may not read"):
            replace(PLAIN, model=str(model)).check(limits)
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        replace(PLAIN, model=str(tmp_path / "models")).check(limits)


def test_methods_that_read_folders_read_allowed_ones_only(tmp_path: Path) -> None:
    from accel.samplers.model_switch import ModelSwitch
    from accel.samplers.trained.flowturbo import FlowTurbo

    for method in (FlowTurbo(refiner=str(tmp_path)), ModelSwitch(model="/etc")):
        with pytest.raises(ValueError, match="may not read"):
            replace(PLAIN, recipe=accel.Recipe(sampler=method)).check(Limits())
    allowed = FlowTurbo(refiner=str(tmp_path))
    replace(PLAIN, recipe=accel.Recipe(sampler=allowed)).check(Limits(roots=(tmp_path,)))
    replace(PLAIN, recipe=accel.Recipe(sampler=ModelSwitch(model="pocket:small"))).check(Limits())


def test_the_hub_can_be_closed() -> None:
    hub = replace(PLAIN, model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    assert hub.check(Limits()) == hub
    with pytest.raises(ValueError, match="loads no models of the hub"):
        hub.check(Limits(hub=False))


@pytest.mark.parametrize(("frames", "suffix"), [(1, ".png"), (1, ".webp"), (3, ".webp"), (3, ".mp4")])
def test_a_file_gives_its_settings_back(tmp_path: Path, frames: int, suffix: str) -> None:
    job = replace(RICH.job(fps=8.0), format=suffix[1:])
    data, found = encode(job, PipelineOutput(np.zeros((frames, 16, 16, 3), np.uint8)))
    path = tmp_path / f"clip{found}"
    path.write_bytes(data)
    assert found == suffix and embedded(path) == RICH


def test_files_of_the_renderer_and_json_are_read_too(tmp_path: Path) -> None:
    job = Job("pocket:video", PROMPT, seed=2, steps=9, recipe={}, format="png", output="{slug}")
    path = tmp_path / "rendered.png"
    path.write_bytes(encode(job, PipelineOutput(np.zeros((1, 8, 8, 3), np.uint8)))[0])
    assert embedded(path) == StudioSettings(prompt=PROMPT, seed=2, steps=9, recipe=accel.Recipe(name="off"))
    saved = tmp_path / "settings.json"
    saved.write_text(json.dumps(RICH.to_dict()))
    assert embedded(saved) == RICH
    saved.write_text(json.dumps({"prompt": "x", "recipe": "fast"}))
    assert embedded(saved).recipe.name == "fast"


def test_a_file_that_holds_no_settings_is_told(tmp_path: Path) -> None:
    cases = {
        "a.txt": "holds no settings",
        "b.json": "is not JSON",
        "c.png": "cannot be read",
        "d.json": "cannot be read",
    }
    for name, sentence in cases.items():
        if name != "d.json":
            (tmp_path / name).write_text("{")
        with pytest.raises(ValueError, match=sentence):
            embedded(tmp_path / name)
    (tmp_path / "b.json").write_text(json.dumps({"recipe": str(tmp_path / "recipe.json")}))  # a path is no recipe
    with pytest.raises(ValueError, match="there is no preset"):
        embedded(tmp_path / "b.json")
    (tmp_path / "b.json").write_text(json.dumps({"line": {"model": "m", "video": "/etc/passwd"}}))
    with pytest.raises(ValueError, match="made with video, which the app has no field for"):
        embedded(tmp_path / "b.json")


def test_the_command_of_a_caption_is_a_comparison() -> None:
    sized = replace(PLAIN, width=64, height=32, frames=17, guidance=5.0, seed=4)
    options = parser().parse_args(shlex.split(sized.as_command())[1:])
    assert (options.model, options.prompts, options.recipes) == ("pocket:video", [PROMPT], ["balanced"])
    assert (options.seeds, options.steps, options.size, options.frames, options.guidance) == (
        [4],
        50,
        (64, 32),
        17,
        5.0,
    )


def test_a_recipe_of_ones_own_is_written_into_a_file_by_the_command() -> None:
    first, compare = replace(PLAIN, recipe=RICH.recipe).as_command().split(" && ")
    assert shlex.split(compare)[:5] == ["accel", "compare", "pocket:video", "--recipes", "recipe.json"]
    assert accel.Recipe.from_dict(json.loads(shlex.split(first)[2])) == RICH.recipe
    assert shlex.split(first)[3:] == [">", "recipe.json"]


@pytest.mark.parametrize("changes", [{"negative": "x"}, {"width": 64}, {"prompt": "-v"}, {"recipe": accel.Recipe()}])
def test_what_a_comparison_cannot_say_is_rendered_from_a_manifest(changes: dict[str, Any]) -> None:
    settings = replace(PLAIN, **changes)
    first, render = settings.as_command().split(" && ")
    assert shlex.split(render) == ["accel", "render", "job.jsonl", "--metrics", "--out", "renders"]
    (line,), problems = read_jsonl(shlex.split(first)[2])
    assert not problems and line.fields == settings.job().to_line()


def test_the_program_builds_the_same_recipe() -> None:
    code = RICH.as_python()
    made = code[code.index("recipe =") : code.index("session =")]
    names: dict[str, Any] = {"accel": accel}
    exec(made, names)
    assert names["recipe"] == RICH.recipe
    compile(code, "copied", "exec")
    assert "negative_prompt=" in code and "manual_seed(3)" in code
    assert 'accel.accelerate(pipe, "balanced")' in PLAIN.as_python()
