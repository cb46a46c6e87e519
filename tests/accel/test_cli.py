from __future__ import annotations

import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import WanPipeline

import accel
from accel import pocket
from accel.caching import Calibration
from accel.cli import MOVED, main, parser
from accel.measure import comparison
from accel.recipe import Recipe
from tests.tiny import TINY

RED = "a red circle moves left on a dark background"
BLUE = "a blue square stays still on a striped background"


class Worded(WanPipeline):  # type: ignore[misc]
    """The tiny Wan pipeline, whose prompts become embeddings without a text encoder."""

    def encode_prompt(self, prompt: str, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        words = torch.Generator().manual_seed(len(prompt))
        return torch.randn(1, 4, 24, generator=words), torch.zeros(1, 4, 24)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every model is the tiny pipeline; the names asked for are recorded."""
    names: list[str] = []

    def load(model: str, **_: Any) -> Any:
        names.append(model)
        return Worded(**TINY["wan"].build().components)

    def verify(frames: Any, prompt: str) -> Any:
        return SimpleNamespace(correct=True, matches={"colour": True})

    monkeypatch.setattr("accel.loading.load_pipeline", load)
    monkeypatch.setattr(pocket, "verify", verify, raising=False)
    monkeypatch.setattr(pocket, "prompts", lambda n, seed: [RED, BLUE][:n], raising=False)
    return names


def arguments(out: Path, *more: str) -> list[str]:
    return ["--size", "16", "--frames", "5", "--steps", "8", "--out", str(out), *more]


def test_demo_writes_page_data_and_videos_and_says_where(
    loaded: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--clips", "2", "--preset", "balanced", *arguments(tmp_path, "--steps", "2")]) == 0
    printed = capsys.readouterr().out
    assert loaded == ["pocket:video"]
    assert str(tmp_path / "page.html") in printed
    assert "balanced: " in printed
    names = {path.name for path in tmp_path.iterdir()}
    assert {"page.html", "comparison.json", "prompt-1-balanced.mp4", "prompt-2-balanced.mp4"} <= names
    data = json.loads((tmp_path / "comparison.json").read_text())
    assert data["settings"]["prompts"] == [RED, BLUE]
    assert data["rows"][0]["adherence"] == 1.0


def test_demo_takes_prompts_a_seed_and_steps(loaded: list[str], tmp_path: Path) -> None:
    given = ["--prompt", BLUE, "--prompt", RED, "--seed", "3", "--preset", "fast", "--fewer-steps", "2"]
    assert main(["demo", *given, *arguments(tmp_path, "--steps", "3")]) == 0
    data = json.loads((tmp_path / "comparison.json").read_text())
    assert (data["settings"]["prompts"], data["settings"]["seeds"]) == ([BLUE, RED], [3])
    assert [row["label"] for row in data["rows"]] == ["unaccelerated", "fast", "2 steps"]


def test_calibrate_writes_what_it_recorded_and_prints_a_report(
    loaded: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.json"
    call = ["--size", "16", "--frames", "5", "--steps", "6", "--guidance", "2", "--out", str(out)]
    assert main(["calibrate", "--prompts", "2", *call]) == 0
    printed = capsys.readouterr().out
    assert loaded == ["pocket:video"]
    calibration = Calibration.load(out)
    assert str(calibration) in printed and str(out) in printed
    assert calibration.key.prompts == len(calibration.tables[0].runs) == 2
    assert (calibration.steps, calibration.key.guidance, calibration.key.arguments["height"]) == (6, 2.0, 16)

    (tmp_path / "prompts.txt").write_text("one prompt\n\nanother\nand a third\n")
    given = ["calibrate", "some/model", "--prompts", str(tmp_path / "prompts.txt"), "--layer-lags", "0", *call]
    assert main(given) == 0
    assert (loaded[-1], Calibration.load(out).key.prompts) == ("some/model", 3)
    assert "SmoothCache cannot be calibrated" in capsys.readouterr().out


def test_fit_writes_a_recipe_that_acts(loaded: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, call = tmp_path / "mine.json", ["--size", "16", "--frames", "5", "--steps", "12", "--guidance", "2"]
    assert main(["fit", "--prompts", "2", "--compute", "0.5", *call, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert loaded == ["pocket:video"] and str(out) in printed and "2 prompts in 12 steps" in printed
    given = ["compare", "pocket:video", "--prompts", RED, "--recipes", str(out), *call, "--out", str(tmp_path / "out")]
    assert main([*given, "--fewer-steps"]) == 0
    told = json.loads((tmp_path / "out" / "comparison.json").read_text())["levers"]["mine"]
    assert "outputs are summed as was measured in 2 runs" in str(told)


@pytest.mark.part(1)
@pytest.mark.parametrize(
    "command", [["demo", "--clips", "1", "--preset"], ["compare", "some/model", "--prompts", RED, "--recipes"]]
)
def test_comparisons_go_by_what_calibrate_wrote(loaded: list[str], tmp_path: Path, command: list[str]) -> None:
    out, call = tmp_path / "out", ["--size", "16", "--frames", "1", "--steps", "18"]
    measured = str(tmp_path / "calibration.json")
    assert main(["calibrate", "--prompts", "1", *call, "--layer-lags", "0", "--out", measured]) == 0
    given = [*command, "balanced", "--calibration", measured, *call, "--out", str(out), "--fewer-steps"]
    assert main(given) == 0
    told = json.loads((out / "comparison.json").read_text())["levers"]["balanced"]
    assert "forecasts are corrected by this model's own outputs, measured over 18 steps" in told[0]["reason"]
    assert main([*given, "--calibration", "nowhere.json"]) == 2


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["some/model", "--prompts", "4"], "has no prompts of its own: give a file"),
        (["--prompts", "nowhere.txt"], "nowhere.txt cannot be read"),
        (["--prompts", "0"], "list of at least one prompt"),
        (["--prompts", "1", "--layer-lags", "-1"], "layer_lags must be a whole number from 0"),
    ],
)
def test_calibrate_says_what_is_wrong(
    loaded: list[str], capsys: pytest.CaptureFixture[str], given: list[str], sentence: str
) -> None:
    assert main(["calibrate", *given]) == 2
    assert sentence in capsys.readouterr().err


def test_compare_reads_recipe_files_and_call_arguments(loaded: list[str], tmp_path: Path) -> None:
    Recipe().save(tmp_path / "mine.json")
    given = ["--recipes", str(tmp_path / "mine.json"), "--prompts", "a", "--guidance", "2", "--fewer-steps"]
    assert main(["compare", "some/model", *given, *arguments(tmp_path / "out", "--steps", "2")]) == 0
    data = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert loaded == ["some/model"]
    assert [row["label"] for row in data["rows"]] == ["unaccelerated", "mine"]
    assert data["settings"]["call_arguments"]["guidance_scale"] == 2.0
    assert (data["settings"]["width"], data["settings"]["frames"]) == (16, 5)


def test_inspect_prints_the_anatomy(loaded: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "some/model"]) == 0
    assert "WanTransformer3DModel" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["inspect", "doctor"])
def test_inspect_says_what_will_engage_and_what_will_not(
    name: str, loaded: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accel.precision.automatic", lambda pipe: accel.Float32())
    assert main([name, "some/model"]) == 0
    told = capsys.readouterr().out
    assert "presets that promise something here: lossless, balanced, fast, turbo" in told
    assert re.search(r"^cache: .*\bEasyCache\b", told, re.MULTILINE)
    assert "not DeepCache: DeepCache needs the skip connections of a U-Net" in told
    assert re.search(r"^machine: cpu", told, re.MULTILINE)
    assert re.search(r"^what pays of precision here .*: Float32\(\)$", told, re.MULTILINE)


def test_env_names_the_machine_and_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (told["torch"], told["accel"]) == (torch.__version__, accel.__version__)
    assert told["ray"] == "not installed" or find_spec("ray")


def test_a_size_that_the_pipeline_changed_is_told(
    loaded: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["compare", "some/model", "--prompts", "a", "--recipes", "balanced", "--fewer-steps"]
    assert main([*given, "--size", "16", "--frames", "7", "--steps", "2", "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "The pipeline made 5 frames, not 7." in told
    assert "balanced: not accelerated: 0 of 4 calls predicted (" in told
    times = next(line.split() for line in told.splitlines() if line.startswith(" balanced "))
    assert times[2:4] == ["–", "–"]  # a ratio would be the noise of the machine
    assert "not accelerated: 0 of 4 calls predicted (" in (tmp_path / "page.html").read_text()
    check = ["inspect", "some/model", "--check", "--prompt", "a", "--size", "16", "--frames", "7", "--steps", "2"]
    assert main(check) == 0
    assert "The pipeline made 5 frames, not 7." in capsys.readouterr().out


def test_presets_lists_every_preset_with_its_promise(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("lossless", "balanced", "fast", "turbo"))
    assert "40 dB" in printed


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["compare", "some/model", "--recipes", "quick", "--prompts", "a"], "quick"),
        (["compare", "some/model", "--recipes", "missing.json", "--prompts", "a"], "missing.json"),
        (["compare", "some/model"], "which prompts?"),
        (["compare", "some/model", "--prompts", "a", "--repeats", "0"], "repeats must be"),
        (["demo", "--steps", "0"], "steps must be"),
        (["demo", "--frames", "-5"], "frames must be a whole number of at least 1"),
        (["demo", "--seed", "9" * 20], "a seed must be a whole number"),
        (["demo", "--prompt", "a corgi surfing"], "'a corgi surfing'"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(
    loaded: list[str], command: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1 and "Traceback" not in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            ["compare", "some/model", "--recipes", "quick", "--prompts", "a"],
            "There is no preset or recipe file 'quick'",
        ),
        (["compare", "some/model", "--recipes", "empty.json", "--prompts", "a"], "This recipe is empty"),
        (["inspect", "some/model", "--check", "quick", "--prompt", "a"], "There is no preset or recipe file 'quick'"),
        (["inspect", "some/model", "--steps", "8", "--seed", "1"], "--seed, --steps belong to a check: add --check."),
        (["inspect", "some/model", "--check"], "which prompt?"),
        (["compare", "some/model", "--prompts", "a", "--seeds", "1", "9" * 20], "a seed must be a whole number"),
        (["demo", "--seed", "9" * 20], "a seed must be a whole number"),
        (["tune", "some/model", "--min-psnr", "30", "--prompts", "words.txt", "--seed", "9" * 20], "a seed must be"),
        (["inspect", "some/model", "--check", "--prompt", "a", "--seed", "9" * 20], "a seed must be a whole number"),
        (["demo", "--out", "file"], "file is a file; choose a folder"),
        (["tune", "some/model", "--min-psnr", "30", "--prompts", "words.txt", "--out", "file/out"], "file is a file"),
        (["tune", "some/model", "--prompts", "words.txt"], "say either what quality is needed"),
        (["tune", "some/model", "--min-psnr", "30", "--prompts", "words.txt", "--levers", "speed"], "levers must be"),
        (["tune", "some/model", "--min-psnr", "30", "--prompts", "words.txt", "--minutes", "0"], "minutes must be"),
        (["calibrate", "some/model", "--prompts", "words.txt", "--out", "folder"], "folder is a folder"),
        (["fit", "some/model", "--prompts", "words.txt", "--out", "folder"], "folder is a folder"),
        (["fit", "some/model", "--prompts", "words.txt", "--compute", "2"], "must be a number from 0 to 1"),
        (["fit", "some/model", "--prompts", "3"], "has no prompts of its own"),
    ],
)
def test_what_can_be_known_before_a_model_loads_is_told_before(
    loaded: list[str],
    command: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name, text in (("file", ""), ("empty.json", "{}"), ("words.txt", "a prompt\n")):
        (tmp_path / name).write_text(text)
    assert main(command) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1
    assert loaded == []


def test_the_daily_commands_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = re.findall(r"^    (\w+) ", capsys.readouterr().out, re.MULTILINE)
    assert commands == ["demo", "app", "inspect", "compare", "tune", "render", "calibrate", "fit", "presets", "env"]


@pytest.mark.parametrize(
    "name", ["demo", "app", "inspect", "compare", "tune", "render", "calibrate", "fit", "presets", "env"]
)
def test_every_help_has_a_purpose_and_examples_that_can_be_read(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    told = capsys.readouterr().out
    assert re.search(r"^[A-Z].*\.$", told, re.MULTILINE), "a sentence"
    examples = re.findall(r"^  accel (.*)$", told, re.MULTILINE)
    assert examples
    for example in examples:
        assert parser().parse_args(shlex.split(example)).command


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert (stopped.value.code, capsys.readouterr().out) == (0, f"accel {accel.__version__}\n")


@pytest.mark.parametrize("name", MOVED)
def test_a_command_that_has_moved_says_what_it_is_now_called(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--traceback", name, "pocket:video", "--clips", "2"]) == 2
    message = capsys.readouterr().err
    assert message == f"accel: accel {name} is now python -m {MOVED[name]}, in a checkout of accel's repository.\n"
    assert find_spec(MOVED[name]) is not None


@pytest.mark.parametrize("command", [["demo", "--stepz", "3"], ["inspect"], ["demo", "--size", "large"], ["dance"], []])
def test_a_wrong_command_line_gets_the_usage_and_code_2(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 2
    assert "usage: accel" in capsys.readouterr().err


def test_a_folder_without_a_model_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "cannot be loaded" in message and "pocket:video" in message
    assert "Traceback" not in message


def test_an_unknown_dtype_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "some/model", "--dtype", "float33"]) == 2
    assert "'float33'" in capsys.readouterr().err


def test_ctrl_c_saves_what_was_complete(
    loaded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original, runs = comparison.Runner._sample, 0

    def interrupted(self: Any, *given: Any) -> Any:
        nonlocal runs
        runs += 1
        if runs == 4:  # the first run of the second round
            raise KeyboardInterrupt
        return original(self, *given)

    monkeypatch.setattr(comparison.Runner, "_sample", interrupted)
    assert main(["demo", *arguments(tmp_path, "--steps", "2")]) == 130
    assert f"the 3 runs that were complete are in {tmp_path / 'page.html'}" in capsys.readouterr().err
    assert (tmp_path / "page.html").exists()


def test_ctrl_c_while_loading_says_that_nothing_was_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(model: str, **_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("accel.loading.load_pipeline", stopped)
    assert main(["inspect", "some/model"]) == 130
    assert "nothing was saved" in capsys.readouterr().err
