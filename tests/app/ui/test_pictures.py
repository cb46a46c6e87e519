"""What is drawn of a pair: the strip of steps, the curve, the bars, the numbers, the sheets of frames."""

from __future__ import annotations

import gc
import random
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from accel.app.gradio_pair.sheets import tiling
from accel.app.pair import Cost, Side, Update
from accel.app.sweep import PRESET, STEPS
from accel.app.ui.curve import curve_svg
from accel.app.ui.figures import cost_html, decibels, fidelity_words, headline_html, metrics_html, moment, seconds
from accel.app.ui.pair_view import details_html
from accel.app.ui.plot import CALLS, SEARCH, add_pair, plot_html
from accel.app.ui.progress import problem_html, progress_html, progress_text, steady
from accel.app.ui.sheets import sheets_of
from accel.app.ui.strip import strip_html
from accel.app.ui.timing import times_html
from accel.app.ui.viewer import blind_value, pair_value
from accel.measure.pareto import FEWER_STEPS
from accel.reasons import Code
from tests.app.pairs import call, pair, side


def text(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def cells(html: str, stream: str) -> list[str]:
    """The actions in the row of this stream; "" for a step without a call."""
    row = html.split(f'<span class="name">{stream}</span>')[1].split("</div>")[0]
    return [found or "" for found in re.findall(r'<i(?: class="(\w+)")?', row)]


def test_strip_has_a_row_for_each_stream_and_a_cell_for_each_step(tmp_path: Path) -> None:
    calls = [call(0), call(0, "uncond"), call(1, action="predicted"), call(1, "uncond", "dropped"), call(2)]
    html = strip_html(replace(side(tmp_path), calls=calls), "fast")
    assert cells(html, "cond") == ["computed", "predicted", "computed"]
    assert cells(html, "uncond") == ["computed", "dropped"]
    assert "3 computed, 1 predicted, 1 dropped of 5 denoiser calls" in text(html)


def test_a_stream_that_begins_late_stays_under_its_steps(tmp_path: Path) -> None:
    html = strip_html(replace(side(tmp_path), calls=[call(0), call(1), call(1, "uncond")]), "fast")
    assert cells(html, "uncond") == ["", "computed"]


def test_every_cell_says_why(tmp_path: Path) -> None:
    html = strip_html(replace(side(tmp_path), calls=[call(3, reason="change < 0.1"), call(4)]), "fast")
    assert 'title="step 4, noise level 0.7\ncomputed: change &lt; 0.1\n250 ms"' in html


def test_levers_that_do_not_engage_are_named(tmp_path: Path) -> None:
    lever = {"lever": "cache", "method": "TeaCache", "engaged": False, "reason": "no table", "extra_bytes": 2**21}
    html = strip_html(replace(side(tmp_path), levers=[lever]), "fast")
    assert "cache TeaCache: not engaged , no table; 2.0 MiB extra" in text(html)


def test_what_a_lever_spared_is_told(tmp_path: Path) -> None:
    lever = {"lever": "cache", "method": "FORA", "engaged": True, "reason": "30 of 50 calls predicted"}
    html = strip_html(replace(side(tmp_path), levers=[lever | {"spared": 30.0, "spared_seconds": 12.3}]), "fast")
    assert "30 of 50 calls predicted; spared 30 evaluations (about 12.30 s)" in text(html)


def test_curve_marks_the_worst_frame() -> None:
    root = ElementTree.fromstring(curve_svg((33.0, 32.0, 28.5, 31.0, 100.0), 2))
    heights = [float(place.split(",")[1]) for place in root.find("polyline").get("points").split()]  # type: ignore[union-attr]
    worst = root.find("circle")
    assert worst is not None
    assert float(worst.get("cy", "0")) == pytest.approx(max(heights))
    assert heights[4] == min(heights)  # identical, though its 100 dB does not stretch the axis
    assert heights[4] < heights[0] < heights[1] < heights[3] < heights[2]
    assert "worst: frame 3, 28.5 dB" in "".join(root.itertext())


def test_one_frame_has_no_curve() -> None:
    assert curve_svg((30.0,), 0) == ""


def test_bars_have_the_lengths_of_their_times(tmp_path: Path) -> None:
    html = times_html(pair(tmp_path), "fast")
    widths = [float(width) for width in re.findall(r"width:([\d.]+)%", html)]
    assert widths == pytest.approx([2, 96, 2, 2, 36, 2])
    assert "5.00 s" in text(html) and "2.00 s" in text(html)


def test_headline_and_table(tmp_path: Path) -> None:
    shown = pair(tmp_path)
    head = text(headline_html(shown))
    assert "2.50× faster" in head and "31.3 dB" in head and "5.00 s → 2.00 s" in head
    assert "the first kept from" in head and "At another pace." in head
    table = text(metrics_html(shown))
    assert "worst frame 3 (28.5 dB)" in table and "SSIM 0.9512" in table and "baseline's +0.0021" in table


def test_slower_is_said() -> None:
    slow = pair(Path("/tmp"), metrics={"psnr": 100.0, "ssim": None, "speedup": 0.8})
    assert "0.80× the speed: slower identical" in text(headline_html(slow))


def test_no_ratio_where_nothing_was_accelerated(tmp_path: Path) -> None:
    lever = {"lever": "cache", "method": "X", "engaged": False, "reason": "0 of 2 calls predicted"}
    short = {**call(1, reason="12 steps are no more than 18"), "code": Code.SHORT_RUN}
    shown = pair(tmp_path)
    idle = replace(shown, accelerated=replace(shown.accelerated, levers=[lever], calls=[call(0), short]))
    head = text(headline_html(idle))
    assert "2.50×" not in head and "1× not accelerated" in head
    assert "Not accelerated: 12 steps are no more than 18." in head
    other = replace(shown, accelerated=replace(shown.accelerated, levers=[lever]))
    assert "Not accelerated: 0 of 2 calls predicted." in text(headline_html(other))


def test_what_the_pipeline_did_otherwise_is_told(tmp_path: Path) -> None:
    changed = pair(tmp_path, notes=("The pipeline made 5 frames, not 7.",))
    assert "The pipeline made 5 frames, not 7." in text(headline_html(changed))


@pytest.mark.parametrize(
    ("value", "words"), [(None, "–"), (0.4, "0.40 s"), (12.34, "12.3 s"), (200.0, "3 min 20 s")], ids=str
)
def test_seconds_for_people(value: float | None, words: str) -> None:
    assert seconds(value) == words


@pytest.mark.parametrize(("value", "words"), [(None, "–"), (float("nan"), "–"), (float("inf"), "identical")], ids=str)
def test_decibels_for_people(value: float | None, words: str) -> None:
    assert decibels(value) == words


@pytest.mark.parametrize(
    ("psnr", "words"),
    [
        (41.0, ": nothing to see"),
        (31.0, ": seen side by side only"),
        (25.0, ": details differ"),
        (20.0, ": another take"),
    ],
)
def test_what_a_decibel_is_worth(psnr: float | None, words: str) -> None:
    assert fidelity_words(psnr) == f"fidelity (PSNR){words}"


def test_cost_says_what_is_known() -> None:
    unknown = Cost(None, None, None, None, "estimated", False)
    assert "unknown" in text(cost_html(unknown))
    cached = Cost(4.0, 1.5, 0.4, 2**21, "measured", True, 1000.0)
    assert (
        text(cost_html(cached)) == f"accelerated measured 1.50 s , unaccelerated kept from {moment(1000.0)} , "
        "40 % of the denoiser's work, 2 MiB at the peak"
    )


def test_what_a_user_typed_is_no_markup(tmp_path: Path) -> None:
    shown = pair(tmp_path, label="<script>x</script>")
    html = details_html(shown) + headline_html(shown) + problem_html("<img src=x>")
    assert "<script>" not in html and "<img" not in html
    assert "the report &amp; more" in html


def test_sheets_hold_every_frame_exactly(tmp_path: Path) -> None:
    clip = side(tmp_path)
    sheets = sheets_of(clip)
    assert (sheets.columns, sheets.rows, sheets.exact) == (3, 2, True)
    sheet = np.asarray(Image.open(sheets.files[0]))
    for number, frame in enumerate(clip.frames):
        top, left = 6 * (number // 3), 8 * (number % 3)
        assert np.array_equal(sheet[top : top + 6, left : left + 8], frame)


@pytest.mark.usefixtures("quick_collection")
def test_sheets_are_written_once_and_go_with_the_clip(tmp_path: Path) -> None:
    clip = side(tmp_path)
    files = sheets_of(clip).files
    assert sheets_of(clip).files == files and all(path.exists() for path in files)
    del clip
    gc.collect()
    assert not any(path.exists() for path in files)


@pytest.mark.parametrize(
    ("frames", "height", "width"), [(1, 64, 64), (17, 64, 64), (81, 480, 832), (257, 2048, 2048), (3, 5000, 16)]
)
def test_no_sheet_is_larger_than_browsers_can_draw(frames: int, height: int, width: int) -> None:
    columns, rows = tiling(frames, height, width)
    assert columns * width <= 4096 and (rows * height <= 4096 or rows == 1)
    assert columns * rows >= min(frames, 1)


def test_large_clips_are_several_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accel.app.gradio_pair.sheets._MOST", 16)
    clip = side(tmp_path, frames=7)
    sheets = sheets_of(clip)
    assert (sheets.columns, sheets.rows, len(sheets.files)) == (2, 2, 2)
    last = np.asarray(Image.open(sheets.files[1]))
    assert np.array_equal(last[6:12, :8], clip.frames[6])


def test_viewer_gets_both_clips_and_where_they_differ_most(tmp_path: Path) -> None:
    value = pair_value(pair(tmp_path))
    assert (value["frames"], value["height"], value["width"], value["worst"]) == (5, 6, 8, 2)
    assert value["names"] == ["unaccelerated", "fast"]
    assert [len(urls) for urls in value["sheets"]] == [1, 1]
    assert all(url.startswith("gradio_api/file=") for urls in value["sheets"] for url in urls)


def test_a_blind_pair_does_not_tell_which_is_which(tmp_path: Path) -> None:
    shown = pair(tmp_path)
    places = {False: shown.baseline, True: shown.accelerated}
    seen = set()
    for seed in range(12):
        value, swapped = blind_value(shown, random.Random(seed))
        seen.add(swapped)
        assert value["names"] == ["A", "B"]
        assert (value["worst"], value["curve"], value["downloads"]) == (None, "", [])
        assert value["sheets"][0] == [f"gradio_api/file={path}" for path in sheets_of(places[swapped]).files]
        assert "fast" not in str(value) and "accelerated" not in str(value)
    assert seen == {False, True}


def test_plot_keeps_what_was_turned_apart(tmp_path: Path) -> None:
    plotted = add_pair([], [pair(tmp_path, key="one", label="preset fast")], PRESET)
    plotted = add_pair(plotted, [pair(tmp_path, key="two", label="steps 9")], STEPS)
    plotted = add_pair(plotted, [pair(tmp_path, key="three", label="compute 0.3")], "cache.compute")
    plotted = add_pair(plotted, [pair(tmp_path, key="one")], SEARCH)  # the same settings, measured again
    assert [key for key, *_ in plotted] == ["two", "three", "one"]
    assert [point.series for _, point, _ in plotted] == [FEWER_STEPS, "OptimalSchedule: compute", "found by the search"]
    assert plot_html(plotted).count('data-index="') == 2 * 3  # for wide and for narrow pages


def test_the_plot_may_stand_over_calls(tmp_path: Path) -> None:
    shown = pair(tmp_path)
    fewer = replace(shown, accelerated=replace(shown.accelerated, calls=[call(0), call(1, action="predicted")]))
    plotted = add_pair([], [fewer], PRESET)
    assert "2.50×, 31.26" in plot_html(plotted) and "speed-up</text>" in plot_html(plotted)
    assert "2.00×, 31.26" in plot_html(plotted, CALLS) and "times fewer denoiser calls</text>" in plot_html(
        plotted, CALLS
    )


def test_progress_of_a_sweep_is_that_of_all_its_points() -> None:
    update = Update("accelerated", 5, 20, number=3, of=4)
    assert progress_text(update) == "Accelerated, point 3 of 4: step 5 of 20"
    assert re.findall(r"width:([\d.]+)%", progress_html(update)) == ["100.0", "25.0", "56.2"]


def test_screen_readers_hear_a_quarter_at_a_time() -> None:
    heard = {re.findall('data-said="([^"]*)"', progress_html(Update("baseline", step, 40)))[0] for step in range(41)}
    assert len(heard) == 5 and "Unaccelerated: 75 %" in heard


def test_a_search_says_what_it_tries() -> None:
    update = Update("accelerated", seconds_left=42.0, note="trying Radial()")
    assert progress_text(update) == "Searching, about 42.0 s left: trying Radial()"
    assert 'data-said="Searching: trying Radial()"' in progress_html(update)


def test_progress_in_words() -> None:
    assert progress_text(Update("waiting", position=1)) == "Waiting: 1 request is before yours."
    assert (
        progress_text(Update("baseline", 3, 20, seconds_left=4.5)) == "Unaccelerated: step 3 of 20, about 4.50 s left"
    )
    widths = re.findall(r"width:([\d.]+)%", progress_html(Update("accelerated", 5, 20)))
    assert widths == ["100.0", "25.0"]
    assert progress_html(Update("done")) == ""


def test_a_page_is_not_flooded_and_keeps_the_last_preview() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    closed = []

    def updates():  # type: ignore[no-untyped-def]
        try:
            yield Update("baseline", 0, 500, preview=picture)
            yield from (Update("baseline", step, 500) for step in range(1, 500))
            yield Update("accelerated", 0, 500)
            yield Update("done")
        finally:
            closed.append(True)

    shown = list(steady(updates()))
    assert len(shown) < 20
    assert [update.stage for update in (shown[0], *shown[-2:])] == ["baseline", "accelerated", "done"]
    assert all(update.preview is picture for update in shown)
    assert closed == [True]


def test_side_counts_what_was_computed(tmp_path: Path) -> None:
    clip: Side = replace(side(tmp_path), calls=[call(0), call(1, action="predicted"), call(2)])
    assert clip.computed == 2
