"""What a comparison says beside fidelity: intervals, measures without a reference, and what contradicts what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import accel
from accel import pocket
from accel.measure.contradictions import contradictions
from accel.measure.intervals import of_share
from accel.measure.page import render_page
from accel.measure.results import Comparison
from accel.measure.rows import ResultRow
from accel.measure.tables import as_text, phases_table
from tests import shallow
from tests.measure.rows import row


@pytest.fixture(scope="module")
def measured() -> Comparison:
    """Two seeds of a short clip."""
    pipe = shallow.load("video")
    call = {"num_frames": 5, "height": 32, "width": 32}
    return accel.compare(
        pipe, [("skipping", accel.FixedInterval(3, min_steps=1))], pocket.prompts(1, 1), (0, 1), steps=6,
        call_arguments=call, verify=pocket.verify, fewer_steps=False, flops=True, progress=False,
    )  # fmt: skip


def test_every_row_has_its_measures(measured: Comparison) -> None:
    plain, skipping = measured.rows
    for found in (plain, skipping):
        assert found.flicker is not None and found.warping_error is not None and found.diversity is not None
        assert found.flicker > found.warping_error > 0.0, "what movement explains is taken off"
        assert 0.0 < found.diversity < 1.0
        assert found.adherence is not None and found.adherence_range == of_share(round(2 * found.adherence), 2)
    assert skipping.speedup_interval is not None and skipping.speedup_interval.low <= skipping.speedup_interval.high
    assert skipping.psnr_interval is not None and skipping.psnr is not None
    assert skipping.psnr_interval.low <= skipping.psnr <= skipping.psnr_interval.high


def test_operations_are_those_of_the_steps_that_are_computed(measured: Comparison) -> None:
    plain, skipping = measured.rows
    assert plain.teraflops and skipping.teraflops
    share = skipping.computed / plain.computed
    assert skipping.teraflops / plain.teraflops == pytest.approx(share, rel=0.1)


def test_the_tables_show_them(measured: Comparison) -> None:
    text = str(measured)
    page = render_page(measured)
    for title in ("warping error", "diversity", "prompt %", "TFLOP"):
        assert title in text and f"<th>{title}</th>" in page
    assert ("joules" in text) is bool(measured.environment["energy"])
    assert ("Energy was not measured" in text.replace("\n", " ")) is not measured.environment["energy"]


def test_seconds_by_phase_add_up_and_say_what_was_saved() -> None:
    base = replace(row("unaccelerated", "baseline", 0.1, []), seconds=10.0, before=1.0, denoise=6.5, after=2.0)
    fast = replace(row("fast", "recipe", 0.2, [30.0]), seconds=5.0, before=1.0, denoise=1.5, after=2.25)
    levers = {"fast": [{"lever": "cache", "engaged": True}, {"lever": "attention", "engaged": False}]}
    table = as_text(phases_table(Comparison([base, fast], {}, {}, levers=levers)))
    assert base.phases == {"text": 1.0, "denoiser": 6.5, "decoder": 2.0, "rest": 0.5}
    lines = [line.split("  ") for line in table.splitlines()]
    cells = {line[0].strip(): [cell.strip() for cell in line[1:] if cell.strip()] for line in lines if line[0].strip()}
    assert cells["unaccelerated"] == ["1.00", "6.50", "2.00", "0.50"]
    assert cells["fast"] == ["1.00 (+0.00)", "1.50 (-5.00)", "2.25 (+0.25)", "0.25 (-0.25)", "cache"]


def compared(**changes: Any) -> list[str]:
    base = {
        "adherence": 0.75,
        "adherence_range": of_share(75, 100),
        "flicker": 0.1,
        "warping_error": 0.02,
        "diversity": 0.3,
    }
    plain = replace(row("unaccelerated", "baseline", 1.0, []), **base)
    other: ResultRow = replace(row("turbo", "recipe", 5.0, [18.0]), **{**base, **changes})
    return contradictions(Comparison(rows=[plain, other], settings={}, environment={}))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "PSNR says another clip (18.0 dB), but 75% [66, 82] of the clips match their prompt"),
        (
            {"psnr": 35.0, "adherence": 0.4, "adherence_range": of_share(40, 100)},
            "PSNR says the same clip (35.0 dB), but 40%",
        ),
        (
            {"psnr": 25.0, "flicker": 0.05, "warping_error": 0.03},
            "less changes from frame to frame (flicker 0.0500 beside",
        ),
        ({"psnr": 25.0, "adherence": 0.9, "diversity": 0.2}, "but seeds differ less (diversity 0.200 beside 0.300)"),
    ],
)
def test_numbers_that_contradict_each_other_stand_side_by_side(changes: dict[str, Any], sentence: str) -> None:
    (said,) = compared(**changes)
    assert said.startswith("turbo: ") and sentence in said


def test_numbers_that_agree_need_no_word() -> None:
    assert compared(psnr=25.0) == []
    assert compared(psnr=35.0, flicker=0.09, warping_error=0.0205) == []
