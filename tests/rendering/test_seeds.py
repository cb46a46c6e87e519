"""Manifests of drafts and of the best of many seeds, and rendering those that were chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import accel
from accel.cli import main
from accel.measure.media import to_pixels
from accel.rendering import plan_for, render
from accel.rendering.encoding import settings_of
from accel.rendering.manifest import ManifestError
from tests import shallow
from tests.tiny import TINY

PROMPT = "a red circle moves left on a dark background"
SMALL = {"prompt": PROMPT, "steps": 12, "width": 32, "height": 32, "frames": 5, "seed": 3}
CALL = {"num_inference_steps": 12, "width": 32, "height": 32, "num_frames": 5, "output_type": "np"}


@pytest.fixture(scope="module")
def pipe() -> Any:
    return shallow.load("video")


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.mp4"))


def test_a_draft_is_cheap_and_the_chosen_one_is_the_plain_file(pipe: Any, tmp_path: Path) -> None:
    drafts = render(pipe, [SMALL | {"draft": True, "repeat": 2}], tmp_path / "drafts", progress_bar=False)
    assert drafts.complete
    first, second = files(tmp_path / "drafts")
    assert settings_of(first)["draft"] == 0.25 and settings_of(second)["seed"] == 4
    render(pipe, [second], tmp_path / "chosen", overrides={"draft": False}, progress_bar=False)
    render(pipe, [SMALL | {"seed": 4}], tmp_path / "plain", progress_bar=False)
    (chosen,), (plain,) = files(tmp_path / "chosen"), files(tmp_path / "plain")
    assert chosen.read_bytes() == plain.read_bytes() != second.read_bytes()
    assert "draft" not in settings_of(chosen)


def test_the_ledger_tells_what_a_draft_cost(pipe: Any, tmp_path: Path) -> None:
    render(pipe, [SMALL | {"draft": 0.3}], tmp_path, progress_bar=False)
    assert "a draft, for 0." in (tmp_path / "ledger.jsonl").read_text()


def test_the_best_of_several_seeds_is_bit_for_bit_that_seed(pipe: Any, tmp_path: Path) -> None:
    asked: list[str] = []

    def brightest(frames: Any, prompt: str) -> float:
        asked.append(prompt)
        return float(frames.mean())

    plain = SMALL | {"steps": 8, "frames": 1}
    render(pipe, [plain | {"best_of": 3}], tmp_path / "best", verifier=brightest, progress_bar=False, embed=False)
    ledger = (tmp_path / "best" / "ledger.jsonl").read_text()
    seed = int(ledger.partition("best: seed ")[2].split()[0])
    assert set(asked) == {PROMPT} and seed in (3, 4, 5)
    render(pipe, [plain | {"seed": seed}], tmp_path / "plain", progress_bar=False, embed=False)
    (best,), (alone,) = ((tmp_path / folder).glob("*.png") for folder in ("best", "plain"))
    assert best.read_bytes() == alone.read_bytes()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"draft": 2}, "draft must be true, or the share of a run from 0 to 1, not 2"),
        ({"best_of": 1}, "best_of must be a whole number from 2 to 10000, not 1"),
        ({"draft": True, "best_of": 4}, "draft and best_of are both given; keep one of them"),
        ({"prompt": None, "draft": True, "arguments": {"strength": 1}}, "draft and best_of need a prompt"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_rendered(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ManifestError, match=sentence):
        plan_for("pocket:video", [SMALL | fields])


def test_a_model_that_nobody_judges_needs_a_verifier() -> None:
    wan = TINY["wan"].build()
    with pytest.raises(ManifestError, match="best_of needs a judge: give --verifier module:function"):
        plan_for(wan, [{"prompt": "a corgi", "best_of": 4}])
    assert plan_for(wan, [{"prompt": "a corgi", "best_of": 4}], verifier=len).jobs[0].best_of == 4


def test_the_command_takes_files_that_were_rendered_and_a_function(
    pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    render("pocket:few", [SMALL | {"steps": 4, "draft": 0.5, "repeat": 2}], tmp_path / "drafts", progress_bar=False)
    drafts = list(map(str, files(tmp_path / "drafts")))
    assert main(["render", *drafts, "--set", "draft=false", "--dry-run"]) == 0
    assert "2" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    (tmp_path / "myjudge.py").write_text("def score(frames, prompt):\n    return float(frames.mean())\n")
    assert main(["render", drafts[0], "--set", "draft=false", "--set", "best_of=2", "--verifier", "myjudge:score",
                 "--dry-run"]) == 0  # fmt: skip
    assert main(["render", drafts[0], "--verifier", "myjudge:gone"]) == 2
    assert "cannot be imported" in capsys.readouterr().err


def test_a_draft_is_what_python_gives(pipe: Any, tmp_path: Path) -> None:
    render(pipe, [SMALL | {"draft": True, "frames": 1}], tmp_path, progress_bar=False)
    from PIL import Image

    made = accel.draft(pipe, PROMPT, seed=3, **CALL | {"num_frames": 1})
    (picture,) = tmp_path.glob("*.png")
    assert np.array_equal(np.asarray(Image.open(picture)), to_pixels(made.frames)[0])
