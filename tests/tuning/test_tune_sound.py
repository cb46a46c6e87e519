"""`accel.tune` by the SNR of a sound, where there is no PSNR."""

from __future__ import annotations

from pathlib import Path

import pytest

import accel
from accel.measure.sound_metrics import snr
from accel.tuning import Bound, GoalNotMet
from accel.tuning.clip_split import PromptSeed
from accel.tuning.evidence import sentence
from accel.tuning.goal import goal_of
from accel.tuning.trials import TrialRunner
from benchmarks.judges.roster import SOUNDS

STEPS = 16


@pytest.mark.slow
def test_a_recipe_is_found_by_snr(tmp_path: Path) -> None:
    recipe = accel.tune(
        SOUNDS.load(), SOUNDS.prompts[:2], min_snr=10.0, steps=STEPS, minutes=15.0, levers=("cache",), out=tmp_path,
        progress=False,
    )  # fmt: skip
    proof = recipe.evidence
    assert proof["met"] and proof["leading"] == "snr" and proof["quality"]["snr"]["worst"] > 9.0
    assert "SNR at least 10" in sentence(proof) and "PSNR" not in sentence(proof)
    assert "SNR" in (tmp_path / "evidence.html").read_text()


def test_an_unaccelerated_sound_is_made_once(tmp_path: Path) -> None:
    shots = [PromptSeed(SOUNDS.prompts[0], 3)]
    made = TrialRunner(SOUNDS.load(), shots, 4, {}, {"snr": snr}, tmp_path, {}).reference(0)
    second = TrialRunner(SOUNDS.load(), shots, 4, {}, {"snr": snr}, tmp_path, {})
    assert second.reference(0).digest == made.digest and not second.asked and second.wall == second.seconds
    trial = second.trial(accel.Recipe(cache=accel.FixedInterval(2)), 0)
    assert trial.values == {"snr": 100.0}, "too few steps to skip any"


def test_a_bound_of_pictures_is_refused_before_the_search(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="StableAudioPipeline makes sound, which has no PSNR; give min_snr"):
        accel.tune(SOUNDS.load(), SOUNDS.prompts[:2], min_psnr=30.0, steps=STEPS, minutes=1, progress=False)


def test_bounds_on_sound_are_checked() -> None:
    goal = goal_of(None, None, None, (), None, 0.95, 20.0)
    assert str(goal) == "SNR at least 20" and isinstance(goal.bounds[0], Bound)
    with pytest.raises(ValueError, match="min_snr must be"):
        goal_of(None, None, None, (), None, 0.95, 1000.0)
    assert issubclass(GoalNotMet, ValueError)
