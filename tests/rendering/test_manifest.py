from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import accel
from accel.rendering import Job, ManifestError, RenderPlan, plan_for
from accel.rendering.manifest import parse_settings

FEW = "pocket:few"


def written(folder: Path, text: str, name: str = "manifest.jsonl") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def rows(*lines: dict[str, Any]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_jsonl_has_defaults_comments_repeats_and_grids(tmp_path: Path) -> None:
    text = rows(
        {"prompt": "before the defaults"},
        {"defaults": {"steps": 7, "size": "64x32"}},
        {"prompt": "two seeds", "seed": 5, "repeat": 2},
        {"prompt": "a grid", "steps": 3, "grid": {"guidance": [1, 3], "seed": [0, 9]}},
    )
    jobs = plan_for(FEW, written(tmp_path, "// a remark\n\n" + text)).jobs
    assert [(job.prompt, job.seed, job.steps, job.width, job.height, job.guidance) for job in jobs] == [
        ("before the defaults", 0, None, None, None, None),
        ("two seeds", 5, 7, 64, 32, None),
        ("two seeds", 6, 7, 64, 32, None),
        ("a grid", 0, 3, 64, 32, 1.0),
        ("a grid", 9, 3, 64, 32, 1.0),
        ("a grid", 0, 3, 64, 32, 3.0),
        ("a grid", 9, 3, 64, 32, 3.0),
    ]
    assert [job.index for job in jobs] == list(range(7))
    assert [job.line for job in jobs] == [3, 5, 5, 6, 6, 6, 6]


def test_csv_says_the_same_as_jsonl(tmp_path: Path) -> None:
    table = (
        "prompt,seed,size,arguments.max_sequence_length,recipe\n"
        '"a, b\nc",3,64x32,16,fast\n\n'
        "42,,,,\n"  # a prompt of digits stays text, and empty cells leave fields out
    )
    lines = rows(
        {"prompt": "a, b\nc", "seed": 3, "size": "64x32", "arguments": {"max_sequence_length": 16}, "preset": "fast"},
        {"prompt": "42"},
    )
    from_csv = plan_for(FEW, written(tmp_path, "\ufeff" + table, "manifest.csv")).jobs
    from_jsonl = plan_for(FEW, written(tmp_path, lines)).jobs
    assert from_csv == from_jsonl
    assert [job.id for job in from_csv] == [job.id for job in from_jsonl]
    assert [job.line for job in from_csv] == [2, 5]


def test_what_fills_in_and_what_wins() -> None:
    lines = [{"prompt": "a", "steps": 9, "size": 64}, {"prompt": "b"}]
    plan = plan_for(FEW, lines, defaults={"steps": 4, "width": 32, "height": 32}, overrides={"guidance": 1.5})
    assert [(job.steps, job.width, job.guidance) for job in plan.jobs] == [(9, 64, 1.5), (4, 32, 1.5)]
    assert {job.recipe_name for job in plan.jobs} == {"balanced"}
    assert {job.recipe_name for job in plan_for(FEW, ["a"], recipe="off").jobs} == {"off"}
    assert plan_for(FEW, ["a"], recipe=accel.Recipe(cache=accel.EasyCache(0.1))).jobs[0].recipe_name == "EasyCache"


def test_settings_of_the_command_line() -> None:
    assert parse_settings(["steps=8", "prompt=a=b", "arguments.strength=0.5", "size=64x32"]) == {
        "steps": 8,
        "prompt": "a=b",
        "arguments.strength": 0.5,
        "size": "64x32",
    }
    assert parse_settings(["steps=4,8", 'prompt=["a, b", "c"]'], several=True) == {
        "steps": [4, 8],
        "prompt": ["a, b", "c"],
    }
    for wrong in ("steps", "stepz=3"):
        with pytest.raises(ValueError, match=r"name=value|did you mean 'steps'"):
            parse_settings([wrong])


def test_the_expanded_manifest_is_a_plain_one_that_gives_the_same_jobs(tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    accel.Recipe(cache=accel.EasyCache(0.1)).save(tmp_path / "inputs" / "mine.json")
    text = rows(
        {"defaults": {"recipe": "mine.json"}},
        {"prompt": "ünïcode 🐞", "repeat": 2, "grid": {"steps": [2, 3]}},
        {"prompt": "", "arguments": {"max_sequence_length": 8}, "recipe": "off", "fps": 8, "format": "webp"},
    )
    plan = plan_for(FEW, written(tmp_path / "inputs", text))
    again = plan_for(None, written(tmp_path, plan.to_jsonl()))
    assert again.jobs == plan.jobs
    assert [job.id for job in again.jobs] == [job.id for job in plan.jobs]
    assert all("repeat" not in line and "grid" not in line for line in plan.to_jsonl().splitlines())


def test_the_book_of_jobs_names_inputs_relative_to_its_folder(tmp_path: Path) -> None:
    """Wherever that really is: the folder may be a link."""
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "far" / "away")
    Image.new("RGB", (8, 8)).save(tmp_path / "in.png")
    job = Job("some/model", "a", image=str(tmp_path / "in.png"))
    (line,) = RenderPlan((job,)).lines(tmp_path / "out")
    assert json.loads(line)["image"] == "../../in.png" and (tmp_path / "out" / "../../in.png").is_file()


@pytest.mark.parametrize(
    ("model", "fields", "sentence"),
    [
        ("pocket:video", {"width": 50, "height": 64}, "have to be divisible by 16 but are 64 and 50"),
        ("pocket:image", {"size": 60}, "have to be divisible by 8 but are 60 and 60"),
        ("pocket:image", {"width": 60}, "have to be divisible by 8"),
        ("pocket:video", {"recipe": {}}, "recipe: This recipe is empty"),
    ],
)
def test_what_a_pipeline_will_refuse_is_told_before_it_loads(model: str, fields: Any, sentence: str) -> None:
    with pytest.raises(ManifestError, match=sentence):
        plan_for(model, [{"prompt": "a"} | fields])
    plan_for(model, [{"prompt": "a", "size": 64}])


def test_lines_that_ask_for_the_same_are_rendered_once() -> None:
    plan = plan_for(FEW, [{"prompt": "a", "repeat": 3}, {"prompt": "a", "seed": 2}])
    assert [job.seed for job in plan.jobs] == [0, 1, 2]
    assert plan.notes == ("line 2 repeats line 1, so it is rendered once.",)
    with pytest.raises(ManifestError, match="line 2: this is the same job as in line 1 with another output name"):
        plan_for(FEW, [{"prompt": "a"}, {"prompt": "a", "output": "mine"}])


BAD = {
    '{"prompt": "a"': "this is not JSON: Expecting ',' delimiter at column 15",
    '["a"]': "a job is an object such as",
    '{"prompt": "a", "prompt": "b"}': "'prompt' is given twice",
    '{"prompt": "a", "stepz": 4}': "'stepz' is not a field; did you mean 'steps'?",
    '{"prompt": "a", "steps": "4"}': "steps must be a whole number from 1 to 100000, not '4'",
    '{"prompt": "a", "steps": 0}': "steps must be a whole number from 1",
    '{"prompt": "a", "seed": -1}': "seed must be a whole number from 0",
    '{"prompt": "a", "seed": 9223372036854775807, "repeat": 2}': "seed is too large for its repeats",
    '{"prompt": "a", "repeat": true}': "repeat must be a whole number",
    '{"prompt": "a", "size": "huge"}': 'size must be like 512 or "832x480"',
    '{"prompt": "a", "size": 64, "width": 32}': "size and width or height are both given",
    '{"prompt": "a", "guidance": NaN}': "guidance must be a number, not nan",
    '{"prompt": 3}': "prompt must be text, not 3",
    '{"prompt": "\\ud800"}': "prompt holds half of a surrogate pair",
    '{"seed": 3}': "there is nothing to render: give a prompt",
    '{"prompt": "a", "recipe": "fastest"}': "recipe: There is no preset or recipe file 'fastest'",
    '{"prompt": "a", "recipe": "gone.json"}': "recipe: There is no recipe file",
    '{"prompt": "a", "recipe": {"cash": null}}': "recipe: 'cash' is not a field of a recipe; did you mean cache",
    '{"prompt": "a", "recipe": "fast", "preset": "fast"}': "recipe and preset are both given",
    '{"prompt": "a", "model": "pocket:huge"}': "model: there is no pocket model 'huge'",
    '{"prompt": "a", "model": "./nowhere"}': "model: there is no folder './nowhere'",
    '{"prompt": "a", "arguments": {"strenght": 1}}': "arguments: WanPocketPipeline takes no 'strenght'",
    '{"prompt": "a", "arguments": {"height": 64}}': "arguments must not hold 'height'; it has a field of its own",
    '{"prompt": "a", "arguments": {"return_dict": false}}': "arguments must not hold 'return_dict'",
    '{"prompt": "a", "image": "gone.png"}': "image: there is no file",
    '{"prompt": "a", "image": "broken.png"}': "broken.png",
    '{"prompt": "a", "image": "real.png"}': "image is given, but WanPocketPipeline takes no 'image'",
    '{"prompt": "a", "output": "{secret}"}': "output: {secret} is not known",
    '{"prompt": "a", "output": "../{id}"}': "must not be empty or lead out of the output folder",
    '{"prompt": "a", "output": "/etc/{id}"}': "must not start at a root or drive",
    '{"prompt": "a", "output": "{slug.__class__}"}': "{slug.__class__} is not known",
    '{"prompt": "a", "format": "gif"}': "format must be one of png, webp, mp4, wav, flac, not 'gif'",
    '{"prompt": "a", "fps": 0}': "fps must be above 0",
    '{"prompt": "a", "grid": {"steps": 4}}': "grid: steps must be a list of at least one value",
    '{"defaults": {"stepz": 4}}': "defaults: 'stepz' is not a field",
}


def test_every_bad_line_is_told_at_once_with_its_number(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (8, 8)).save(tmp_path / "real.png")
    with pytest.raises(ManifestError) as found:
        plan_for(FEW, written(tmp_path, '{"prompt": "good"}\n' + "\n".join(BAD) + "\n"))
    told = {number: " ".join(p.text for p in found.value.problems if p.line == number) for number in range(1, 99)}
    assert told[1] == ""
    for number, (line, sentence) in enumerate(BAD.items(), 2):
        assert sentence in told[number], f"{line} got: {told[number]}"
    assert "line 2: " in str(found.value) and f"\n  and {len(found.value.problems) - 20} more." in str(found.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("prompt,stepz\na,4\n", "line 1: the column 'stepz' is not a field; did you mean 'steps'?"),
        ("prompt,prompt\na,b\n", "line 1: the column 'prompt' is there twice"),
        ("prompt,steps\na,4,5\n", "line 2: 3 cells under 2 columns; put quotes around text with a comma"),
        ('prompt,steps\n"a\nb",4\nc,many\n', "line 4: steps must be a whole number from 1 to 100000, not 'many'"),
        ("", "there is nothing to render"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ManifestError) as found:
        plan_for(FEW, written(tmp_path, text, "manifest.csv"))
    assert sentence in str(found.value)


def test_manifests_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "a"}\n{"prompt": "é"}'.encode("latin-1"))
    for manifest, sentence in (
        (tmp_path / "gone.jsonl", "there is no manifest"),
        (tmp_path / "latin.jsonl", "line 2: this is not UTF-8"),
        (written(tmp_path, "a", "prompts.txt"), "a manifest ends in .jsonl or .csv"),
    ):
        with pytest.raises(ValueError, match=sentence):
            plan_for(FEW, manifest)
    with pytest.raises(TypeError, match="a list of prompts or dicts"):
        plan_for(FEW, {"prompt": "a"})
    with pytest.raises(ManifestError, match="there is no model"):
        plan_for(None, ["a"])
