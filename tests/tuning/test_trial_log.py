"""What a few measured clips let one expect of others."""

from __future__ import annotations

from statistics import stdev

import pytest

from accel.tuning.space import Candidate, Structure
from accel.tuning.trial_log import PRIOR_CLIPS, TrialLog, TrialResult

CACHE = Candidate(Structure("planned"), 0.4)
OTHER = Candidate(Structure("SeaCache"), 0.4)
MEASURED = [30.0, 33.0, 36.0]


@pytest.fixture
def standings() -> TrialLog:
    found = TrialLog(shots=3)
    for shot, psnr in enumerate(MEASURED):
        found.add(CACHE, shot, TrialResult({"psnr": psnr}, 0.5, 0.4))
    return found


def test_a_candidate_is_complete_once_it_was_run_on_every_clip(standings: TrialLog) -> None:
    standings.add(OTHER, 1, TrialResult({"psnr": 20.0}, 0.5, 0.5))
    assert standings.complete(CACHE) and not standings.complete(OTHER)
    assert standings.open_shots(OTHER) == [0, 2]
    assert standings.computed(CACHE) == pytest.approx(0.4)
    assert standings.computed(Candidate(Structure("EasyCache"), 0.4)) is None


def test_harder_clips_are_found_out_by_verifying(standings: TrialLog) -> None:
    assert standings.harder("psnr") == 0.0
    standings.verified[CACHE] = {"psnr": [29.0, 31.0]}  # 3 dB below, and half of that is believed
    assert standings.harder("psnr") == pytest.approx(1.5)
    standings.verified[OTHER] = {"psnr": [10.0]}  # not run on all clips, so nothing to compare with
    assert standings.harder("psnr") == pytest.approx(1.5)
    assert standings.harder("ssim") == 0.0


def test_scatter_belongs_to_a_structure(standings: TrialLog) -> None:
    own = standings.scatter("psnr", CACHE.structure)
    assert own == pytest.approx(stdev(MEASURED))
    standings.verified[CACHE] = {"psnr": [20.0, 40.0, 30.0, 30.0]}
    assert standings.scatter("psnr", CACHE.structure) > own
    assert standings.scatter("psnr", OTHER.structure) == 0.0
    assert standings.scatter("psnr", OTHER.structure, prior=2.0) == pytest.approx(2.0)


def test_few_clips_are_drawn_towards_what_is_usual(standings: TrialLog) -> None:
    square = (2 * stdev(MEASURED) ** 2 + PRIOR_CLIPS * 1.0) / (2 + PRIOR_CLIPS)
    assert standings.scatter("psnr", CACHE.structure, prior=1.0) == pytest.approx(square**0.5)
