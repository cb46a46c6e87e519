"""How points become curves, and curves a verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accel import OptimalSchedule, calibrate, pocket
from accel.anatomy import inspect
from benchmarks import frontier
from benchmarks.frontier import Curve, candidates, curves, save, verdict
from tests import shallow
from tests.measure.test_page import comparison


def test_a_curve_is_read_between_its_points():
    curve = Curve("x", ((1.5, 50.0), (2.5, 40.0), (4.0, 30.0)))
    assert curve.at(2.0) == pytest.approx(45.0)
    assert curve.at(1.2) == 50.0  # a setting that is faster than asked for counts with its own fidelity
    assert curve.at(4.0) == 30.0
    assert curve.at(4.1) is None  # beyond the fastest point nothing is known


def test_a_faster_and_better_point_counts_for_slower_speeds():
    assert Curve("x", ((1.5, 30.0), (3.0, 40.0))).at(2.0) == 40.0


def test_the_verdict_compares_our_best_with_the_best_rival_and_with_fewer_steps():
    found = {
        "mine": Curve("mine", ((2.0, 50.0), (3.0, 44.0))),
        "mine too": Curve("mine too", ((2.0, 45.0),)),
        "rival": Curve("rival", ((2.0, 40.0), (2.5, 38.0))),
        "fewer steps": Curve("fewer steps", ((2.0, 37.0), (3.0, 32.0))),
    }
    at_two, at_three, at_four = verdict(found, {"mine", "mine too"})
    assert (at_two["ours"], at_two["psnr"], at_two["rival_psnr"], at_two["fewer_steps_psnr"]) == (
        "mine",
        50.0,
        40.0,
        37.0,
    )
    assert (at_three["psnr"], at_three["rival"], at_three["fewer_steps_psnr"]) == (44.0, None, 32.0)
    assert at_four["ours"] is None


def test_candidates_are_every_method_at_every_speed():
    """Calibrated on one short run of the pocket model; thresholds are found by simulation."""
    pipe = shallow.load("video")
    pipe.set_progress_bar_config(disable=True)
    calibration = calibrate(pipe, pocket.prompts(1, 0), num_inference_steps=20, num_frames=1)
    found = dict(candidates(calibration, inspect(pipe)))
    assert len(found) == len({str(method) for method in found.values()})  # none stands twice under two names
    names = {label.split(":")[0] for label in found}
    assert {"OptimalSchedule", "StaticSchedule", "SeaCache", "MagCache", "FORA", "PAB"} <= names
    assert "FixedInterval, last output" in names
    assert found["SeaCache: 3x"].threshold > found["SeaCache: 1.5x"].threshold
    assert found["OptimalSchedule: 4x"] == OptimalSchedule(0.25)


def test_save_writes_table_data_and_picture(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="the picture needs the bench extra")
    measured = comparison()
    lines = save(measured, tmp_path)
    assert len(lines) == 3
    data = json.loads((tmp_path / "frontier.json").read_text())
    assert set(data["curves"]) == set(curves(measured))
    assert "<svg" in (tmp_path / "frontier.svg").read_text()
    assert lines[0] in (tmp_path / "frontier.txt").read_text()


def test_the_command_calibrates_on_other_prompts_than_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {}

    def measure(pipe: Any, prompts: list[str], calibration: list[str], **options: Any) -> str:
        given.update(options, pipe=pipe, prompts=prompts, calibration=calibration)
        return "the table"

    monkeypatch.setattr("accel.loading.load_pipeline", lambda model, **_: model)
    monkeypatch.setattr(pocket, "prompts", lambda n, seed: [f"prompt {index}" for index in range(n)])
    monkeypatch.setattr(frontier, "measure", measure)
    monkeypatch.setattr(frontier, "save", lambda result, out: ["the verdict"])
    assert frontier.main(["--clips", "1", "--steps", "8", "--frames", "5", "--out", str(tmp_path)]) == 0
    assert (given["pipe"], given["steps"], given["call_arguments"]) == ("pocket:video", 8, {"num_frames": 5})
    assert (given["prompts"], given["calibration"]) == (["prompt 6"], [f"prompt {index}" for index in range(6)])
    printed = capsys.readouterr().out
    assert "the table" in printed and "the verdict" in printed and str(tmp_path) in printed
