import json

import numpy as np
import pytest
from PIL import Image

from accel import pocket
from accel.pocket.scenes import Caption, render, sample_scene
from benchmarks.pocket import evaluate


def drawn(caption: str, seed: int, size: tuple[int, int, int] = (64, 64, 17)) -> np.ndarray:
    return render(sample_scene(np.random.default_rng(seed), Caption.parse(caption)), *size)


class Painter:
    """Stands in for the pipeline: draws the caption, from another scene at 25 steps than at 50."""

    def set_progress_bar_config(self, disable: bool) -> None:
        self.silent = disable

    def __call__(self, prompt, *, height, width, num_frames, generator, num_inference_steps=50, guidance_scale=6.0):
        assert len(generator) == len(prompt)
        seeds = [one.initial_seed() + num_inference_steps for one in generator]
        self.frames = [drawn(text, seed, (height, width, num_frames)) for text, seed in zip(prompt, seeds, strict=True)]
        return self


def test_adherence_is_the_share_of_matches():
    captions = pocket.prompts(4, 1)
    clips = [drawn(caption, i) for i, caption in enumerate(captions)]
    assert set(evaluate.adherence(clips, captions).values()) == {1.0}
    recoloured = [np.ascontiguousarray(clips[0][..., [1, 2, 0]]), *clips[1:]]
    shares = evaluate.adherence(recoloured, captions)
    assert shares == {"colour": 0.75, "shape": 1.0, "motion": 1.0, "background": 1.0, "correct": 0.75}


def test_noise_does_not_depend_on_the_batch():
    captions = pocket.prompts(3, 0)
    whole = evaluate.generate(Painter(), captions, (64, 64, 5), 50, 5.0)
    parts = evaluate.generate(Painter(), captions, (64, 64, 5), 50, 5.0, batch=1)
    assert np.array_equal(whole, parts)


def test_the_report_and_the_sheet(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(evaluate, "load", lambda name: Painter())
    out, sheet = tmp_path / "evaluation.json", tmp_path / "sheet.png"
    evaluate.main(["--prompts", "3", "--guidance", "4", "5", "--no-larger", "--out", str(out), "--sheet", str(sheet)])
    report = json.loads(out.read_text())
    assert [result["guidance"] for result in report["results"]] == [4.0, 5.0]
    assert report["results"][0]["adherence"]["correct"] == 1.0
    assert 3 < report["results"][0]["psnr_25_against_50"]["mean"] < 20
    assert (
        report["command"] == "python -m benchmarks.pocket.evaluate --prompts 3 --seed 2024 --guidance 4 5 --no-larger"
    )
    assert Image.open(sheet).size == (2 * 6 * 64, 2 * 3 * 64)
    assert capsys.readouterr().out.count("psnr_25_against_50") == 2


def test_larger_sizes_are_measured_on_fewer_captions(monkeypatch, tmp_path):
    sizes = []
    monkeypatch.setattr(evaluate, "load", lambda name: Painter())
    monkeypatch.setattr(evaluate, "evaluate", lambda pipe, captions, size, *rest: sizes.append((size, len(captions))))
    evaluate.main(["--prompts", "16"])
    assert sizes == [((64, 64, 17), 16), ((96, 96, 17), 2), ((128, 128, 33), 1)]


def test_a_sibling_is_compared_with_the_teacher_from_the_same_noise(monkeypatch, tmp_path):
    loaded = []
    monkeypatch.setattr(evaluate, "load", lambda name: loaded.append(name) or Painter())
    out = tmp_path / "evaluation.json"
    evaluate.main(["--name", "few", "--prompts", "2", "--steps", "50", "1", "--no-larger", "--out", str(out)])
    assert loaded == ["few", "video"]
    report = json.loads(out.read_text())
    same, other = report["results"]
    assert same["psnr_against_the_teacher"]["mean"] > 90
    assert 3 < other["psnr_against_the_teacher"]["mean"] < 20
    assert report["teacher"]["adherence"]["correct"] == 1.0
    assert "psnr_0_against_1" not in other
    assert "--name few --prompts 2 --seed 2024 --guidance 6 --steps 50 1 --no-larger" in report["command"]


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="train one with"):
        evaluate.main(["--model", str(tmp_path / "nowhere")])
