from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

import accel
from accel.anatomy import inspect
from accel.cli import main
from accel.rendering import settings_of
from tests.rendering.studio import SMALL, Worded, check_exactly_once, ledger_lines, media_files, worded

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Worded]:
    """Every model is the tiny pipeline; those that were loaded are recorded."""
    pipes: list[Worded] = []

    def load(model: str, **_: Any) -> Any:
        pipes.append(worded())
        return pipes[-1]

    monkeypatch.setattr("accel.loading.load_pipeline", load)
    return pipes


def manifest(folder: Path, *lines: dict[str, Any]) -> str:
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in ({"defaults": SMALL}, *lines)))
    return str(path)


def test_render_writes_files_and_says_where(
    loaded: list[Worded], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [manifest(tmp_path, {"prompt": "one"}, {"prompt": "two"}), "--model", "some/model", "--out"]
    options = ["--set", "frames=1", "--grid", "seed=1,2", "--recipe", "off", "--output", "{slug}-{seed}"]
    assert main(["render", *given, str(tmp_path / "out"), *options]) == 0
    printed = capsys.readouterr().out
    assert "4 jobs: 4 rendered" in printed and str(tmp_path / "out" / "index.html") in printed
    assert media_files(tmp_path / "out") == ["one-1.png", "one-2.png", "two-1.png", "two-2.png"]
    assert settings_of(tmp_path / "out" / "one-2.png")["seed"] == 2
    assert len(loaded) == 1


def test_recipes_are_planned_from_a_calibration_and_files_say_so(loaded: list[Worded], tmp_path: Path) -> None:
    pipe, measured = worded(), str(tmp_path / "calibration.json")
    with accel.calibrating(pipe) as calibration:
        pipe("a prompt", num_inference_steps=12, width=16, height=16, num_frames=1)
    calibration.save(measured)
    lines = [{"prompt": "one", "steps": 12, "recipe": recipe} for recipe in ("fast", "off")]
    given = [manifest(tmp_path, *lines), "--model", "some/model", "--out", str(tmp_path / "out")]
    assert main(["render", *given, "--set", "frames=1", "--output", "{index}", "--calibration", measured]) == 0
    fast, off = (settings_of(tmp_path / "out" / f"{index}.png")["recipe"] for index in media_numbers(tmp_path / "out"))
    kept = accel.Recipe.from_dict(fast).cache
    assert isinstance(kept, accel.OptimalSchedule) and kept.features is not None
    assert kept.features.misfit(inspect(loaded[0])) == "" and off == "off"


def media_numbers(folder: Path) -> list[str]:
    return [Path(name).stem for name in media_files(folder)]


def test_the_code_says_whether_everything_is_there(
    loaded: list[Worded], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [manifest(tmp_path, {"prompt": "one"}, {"prompt": "poison"}), "--model", "m", "--out", str(tmp_path / "o")]
    assert main(["render", *given]) == 1
    assert main(["render", *given]) == 1
    assert len(loaded) == 1, "nothing is open, so no model loads"
    assert main(["render", *given, "--retry-failed"]) == 1
    assert "the prompt is poisoned" in capsys.readouterr().out
    assert main(["render", *given, "--shard", "1/0"]) == 2
    assert capsys.readouterr().err == "accel: a shard is like 3/8, the third of eight parts, not 1/0.\n"


def test_bad_lines_are_told_and_nothing_loads(
    loaded: list[Worded], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [manifest(tmp_path, {"prompt": "one"}, {"stepz": 3}, {"prompt": 4}), "--out", str(tmp_path / "out")]
    assert main(["render", *given, "--model", "m"]) == 2
    message = capsys.readouterr().err
    assert "line 3: 'stepz' is not a field" in message and "line 4: prompt must be text" in message
    assert not (tmp_path / "out").exists() and loaded == []


def test_a_dry_run_says_what_would_be_rendered(
    loaded: list[Worded], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [manifest(tmp_path, {"prompt": "one", "repeat": 5}), "--model", "m", "--out", str(tmp_path / "out")]
    assert main(["render", *given, "--dry-run"]) == 0
    assert "5 jobs: 0 done, 0 failed earlier, 5 open." in capsys.readouterr().out
    assert loaded == [] and not (tmp_path / "out").exists()
    assert main(["render", *given, "--set", "repeat=2"]) == 0
    assert main(["render", *given, "--dry-run"]) == 0
    assert "5 jobs: 2 done, 0 failed earlier, 3 open." in capsys.readouterr().out


def test_engines_that_do_not_fit_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [manifest(tmp_path, {"prompt": "one"}), "--model", "m", "--out", str(tmp_path / "out")]
    assert main(["render", *given, "--address", "auto"]) == 2
    assert main(["render", *given, "--workers", "0"]) == 2
    assert main(["render", *given, "--batch", "all"]) == 2
    assert capsys.readouterr().err == (
        "accel: --address is of a Ray cluster; add --engine ray.\n"
        "accel: workers must be a whole number from 1, not 0.\n"
        "accel: batch must be a whole number from 1, or \"auto\", not 'all'.\n"
    )


def test_ctrl_c_says_how_to_go_on(
    loaded: list[Worded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Worded, *_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Worded, "__call__", interrupted)
    given = [manifest(tmp_path, {"prompt": "one"}), "--model", "m", "--out", str(tmp_path / "out")]
    assert main(["render", *given]) == 130
    assert "interrupted; 0 of 1 jobs are in" in capsys.readouterr().err


@pytest.mark.part(1)
@pytest.mark.parametrize(
    ("script", "arguments", "files"),
    [
        ("render_prompts.py", ["--seeds", "2", "--steps", "1"], 8),
        ("render_grid.py", ["--recipes", "fast", "turbo", "--steps", "3", "4"], 4),
    ],
)
def test_examples(
    script: str, arguments: list[str], files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", [script, "--model", "pocket:few", "--out", str(out), *arguments])
    for _ in range(2):
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    check_exactly_once(out, files)
    assert {entry["status"] for entry in ledger_lines(out)} == {"ok"}
