"""How the benchmark reads what was measured: who keeps a quality at what speed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from accel.measure.results import Comparison
from benchmarks.frontier import Curve
from benchmarks.tuning import Bench, fastest, save, single_levers
from tests.measure.rows import row, sample


def bench() -> Bench:
    """Ours keeps 30 dB up to 4x; the rival up to 2.5x on average, and scatters."""
    settings = {"pipeline": "P", "steps": 50, "width": 64, "height": 64, "frames": 17, "guidance": 6.0}
    clips: dict[str, tuple[str, float, list[float]]] = {
        "unaccelerated": ("baseline", 1.0, []),
        "tuned: 30 dB": ("recipe", 4.0, [33.0, 33.0, 33.0]),
        "tuned: 40 dB": ("recipe", 2.0, [45.0, 45.0, 45.0]),
        "theirs: slow": ("other", 2.0, [30.0, 32.0, 34.0]),
        "theirs: fast": ("other", 3.0, [26.0, 28.0, 30.0]),
        "25 steps": ("fewer_steps", 2.0, [20.0, 20.0, 20.0]),
    }
    rows: list[Any] = [row(label, kind, speed, values) for label, (kind, speed, values) in clips.items()]
    samples: list[Any] = [sample(label, value) for label, (_, _, values) in clips.items() for value in values]
    comparison = Comparison(rows=rows, settings=settings, environment={}, samples=samples)
    return Bench(comparison, {}, {"2x": "no time"})


@pytest.mark.parametrize(("limit", "speed"), [(50.0, None), (40.0, 1.0), (35.0, 1.5), (30.0, 2.0), (10.0, 3.0)])
def test_between_settings_a_straight_line_counts(limit: float, speed: float | None) -> None:
    assert fastest(Curve("any", ((1.0, 40.0), (2.0, 30.0), (3.0, 20.0))), limit) == speed


def test_a_setting_beyond_a_dip_counts_with_its_own_speed() -> None:
    assert fastest(Curve("any", ((1.0, 40.0), (2.0, 20.0), (3.0, 35.0))), 30.0) == 3.0


def test_everyone_is_judged_on_the_mean_and_on_nearly_all_prompts() -> None:
    standings = {standing.series: standing for standing in bench().standings(30.0)}
    assert standings["tuned"].mean == pytest.approx(4.0)
    assert standings["tuned"].promised == pytest.approx(4.0)
    assert standings["theirs"].mean == pytest.approx(2.5)
    assert standings["theirs"].promised is None, "scattered as its clips are, it can promise 26 dB"
    assert standings["fewer steps"].mean is None


def test_the_verdict_names_the_best_of_both_sides() -> None:
    promised, mean = bench().verdict(30.0).splitlines()
    assert promised == "30 dB on 95 % of prompts: tuned 4.00x, fewer steps 0.00x."
    assert mean.startswith("30 dB on average: tuned 4.00x, best rival theirs 2.50x (1.60 times as fast)")


def test_everything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "table", lambda self: "the table")
    monkeypatch.setattr("benchmarks.tuning.render_page", lambda comparison: "the page")
    monkeypatch.setattr(Comparison, "to_dict", lambda self: {"rows": []})
    lines = save(bench(), tmp_path, [30.0])
    assert lines[-1] == "Tuning for 2x: no time"
    assert "tuned: 30 dB" in (tmp_path / "bench.svg").read_text()
    assert (tmp_path / "bench.txt").read_text().startswith("the table")
    assert (tmp_path / "page.html").read_text() == "the page"
    assert json.loads((tmp_path / "bench.json").read_text())["not_met"] == {"2x": "no time"}


def test_a_lever_that_cannot_be_set_so_is_left_out_of_the_sweep() -> None:
    def refuse(*_: object) -> None:
        raise ValueError("nothing was recorded")

    found = dict(single_levers(SimpleNamespace(schedule=refuse, threshold=refuse)))  # type: ignore[arg-type]
    assert "planned cache: 0.5" in found and "calibrated cache: 0.5" not in found
    assert any(label.startswith("guidance") for label in found) and any(label.startswith("sampler") for label in found)
