from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import av
import numpy as np
import pytest

from accel.measure.measurements import BASELINE, Quality, Sample
from accel.measure.page import DIFFERENCE_GAIN, render_page
from accel.measure.results import Comparison
from accel.measure.rows import ResultRow

STEPS = 10
PROMPT = 'a <b>"red"</b> circle & </script><script>alert(1)</script>'


def row(label: str, kind: Any, speedup: float, psnr: float | None, **changes: Any) -> ResultRow:
    made = ResultRow(
        label=label, kind=kind, steps=STEPS, seconds=4 / speedup, seconds_range=(3 / speedup, 5 / speedup),
        before=0.2, denoise=3.6 / speedup, after=0.2, speedup=speedup, speedup_range=(speedup, speedup),
        denoise_speedup=speedup, cpu_speedup=speedup, psnr=psnr, psnr_worst=psnr, ssim=psnr and 0.9,
        flicker_difference=psnr and 0.001, frame_difference_psnr=psnr,
        adherence=0.75, attributes={"colour": 0.75}, computed=6, predicted=4,
        dropped=0, extra_bytes=0, peak_bytes=None, runs=2,
    )  # fmt: skip
    return replace(made, **changes)


def calls(streams: tuple[str, ...] = ("cond", "uncond")) -> list[dict[str, Any]]:
    return [
        {
            "run": 1, "step": step, "position": step, "sigma": 1 - step / STEPS, "stream": stream,
            "denoiser": "transformer", "action": "predicted" if step % 2 else "computed",
            "reason": "change 0.03 below 0.05", "seconds": 0.012,
        }
        for step in range(STEPS)
        for stream in streams
    ]  # fmt: skip


def comparison(frames: int = 5, size: int = 64) -> Comparison:
    rows = [
        row(BASELINE, "baseline", 1.0, None),
        row("balanced", "recipe", 2.0, 41.25),
        row("5 steps", "fewer_steps", 1.98, 30.5, steps=5, equal_time_to=("balanced",)),
    ]
    quality = Quality(41.25, 0.9, 0.001, 40.0, False, {"colour": False, "shape": True})
    samples = [Sample("balanced", 0, 0, 0, 0, 2.0, 2.0, 0.2, 1.6, 0.2, 6, 4, 0, 0, None, quality)]
    picture = np.zeros((frames, size, size, 3), np.uint8)
    return Comparison(
        rows=rows,
        settings={
            "pipeline": "WanPipeline", "steps": STEPS, "guidance": 5.0, "frames": frames, "height": size,
            "width": size, "fps": 8.0, "prompts": [PROMPT], "seeds": [0], "repeats": 2, "call_arguments": {},
            "command": "accel demo",
        },
        environment={"device_name": "a processor", "dtype": "float32", "repeatable": True},
        timelines={"balanced": calls()},
        levers={
            "balanced": [
                {"lever": "cache", "method": "EasyCache()", "engaged": True, "reason": "fits", "extra_bytes": 5}
            ]
        },
        recipes={"balanced": {"schema": 1, "cache": {"method": "EasyCache", "threshold": 0.05}}},
        samples=samples,
        clips={
            (BASELINE, 0): picture,
            ("balanced", 0): picture + np.uint8(10),
            ("5 steps", 0): picture + np.uint8(20),
        },
    )  # fmt: skip


class Elements(HTMLParser):
    """All elements with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str, name: str) -> list[dict[str, str | None]]:
        return [given for found, given in self.found if found == tag and name in (given.get("class") or "").split()]


def players(html: str) -> Any:
    return json.loads(re.search(r"^const players = (.*);$", html, re.MULTILINE).group(1))  # type: ignore[union-attr]


def test_the_page_loads_nothing_from_anywhere() -> None:
    html = render_page(comparison())
    given = [value for _, found in Elements(html).found for name, value in found.items() if name in ("src", "href")]
    assert given == []
    assert not re.search(r"https?://", html)


def test_the_headline_has_speed_quality_and_the_fewer_steps() -> None:
    text = re.sub(r"<[^>]+>|\s+", " ", render_page(comparison()))
    for part in ("2.00×", "41.2 dB", "same time, 5 steps", "30.5 dB", "75 %"):
        assert part in text


def test_every_row_is_in_the_table() -> None:
    rows = Elements(render_page(comparison()))
    assert [len(rows.of("tr", kind)) for kind in ("baseline", "recipe", "fewer_steps")] == [3, 3, 3]


def test_the_strip_has_a_cell_for_every_call_with_its_reason() -> None:
    elements = Elements(render_page(comparison()))
    tips = [given["data-tip"] for _, given in elements.found if "sigma" in (given.get("data-tip") or "")]
    assert len(tips) == 2 * STEPS
    assert tips[1] == "step 2 of 10, sigma 0.9\npredicted, 12.0 ms\nchange 0.03 below 0.05"


def test_a_stream_that_is_not_called_in_a_step_leaves_a_gap() -> None:
    made = comparison()
    made.timelines["balanced"] = [c for c in calls() if c["stream"] == "cond" or c["step"] < 6]
    assert len(Elements(render_page(made)).of("i", "none")) == 4


def test_prompts_cannot_break_out_of_the_page() -> None:
    html = render_page(comparison())
    assert '<b>"red"' not in html
    assert html.count("</script>") == 1
    assert players(html)[0]["prompt"] == PROMPT


def test_the_video_holds_every_clip_and_its_difference_in_step() -> None:
    player = players(render_page(comparison()))[0]
    assert player["labels"] == [BASELINE, "balanced", "5 steps"]
    with av.open(io.BytesIO(base64.b64decode(player["video"]))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 5
    tile = 2 * 64  # doubled for the sake of the halved colour resolution
    levels = [frames[0][index // 3 * tile + tile // 2, index % 3 * tile + tile // 2].mean() for index in range(6)]
    expected = [0, 10, 20, 0, 10 * DIFFERENCE_GAIN, 20 * DIFFERENCE_GAIN]
    np.testing.assert_allclose(levels, expected, atol=4)


def test_images_get_a_still_and_no_transport() -> None:
    html = render_page(comparison(frames=1))
    assert "video" not in players(html)[0]
    assert Elements(html).of("div", "transport") == []


def test_without_a_video_encoder_the_page_has_stills(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> bytes:
        raise RuntimeError

    monkeypatch.setattr("accel.measure.page.encode_mp4", missing)
    player = players(render_page(comparison()))[0]
    assert "video" not in player
    assert base64.b64decode(player["still"]).startswith(b"\x89PNG")


def test_each_clip_shows_its_own_figures() -> None:
    assert players(render_page(comparison()))[0]["captions"]["balanced"] == "2.00 s · 41.2 dB · wrong: colour"


def test_large_videos_are_scaled_down_for_the_page() -> None:
    made = comparison(frames=2, size=600)
    with av.open(io.BytesIO(base64.b64decode(players(render_page(made))[0]["video"]))) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (3 * 512, 2 * 512)


def test_the_page_of_an_interrupted_comparison_has_no_fewer_steps() -> None:
    made = comparison()
    made.rows.pop()
    del made.clips["5 steps", 0]
    assert "same time, " not in render_page(made)


def test_a_long_list_of_recipes_keeps_the_page_readable() -> None:
    made = comparison()
    for index in range(20):
        label = f"recipe {index}"
        made.rows.append(row(label, "recipe", 2.0 + index / 10, 40.0 - index))
        made.timelines[label] = calls()
        made.clips[label, 0] = made.clips[BASELINE, 0]
    html = render_page(made)
    assert html.count('class="big"') == 8
    assert len(players(html)[0]["labels"]) == 1 + 8
    assert len(Elements(html).of("tr", "recipe")) == 3 * 21
    assert html.count("<details") == html.count("</details>")


def test_what_was_not_accelerated_has_no_ratio_anywhere() -> None:
    """It would be the noise of the machine."""
    found = comparison()
    base, fast, fewer = found.rows
    why = "10 steps are no more than the 16 that are computed at least"
    found.rows = [base, replace(fast, speedup=1.37, denoise_speedup=1.37, cpu_speedup=1.37, idle=why), fewer]
    page = render_page(found)
    assert "1.37" not in page and f"not accelerated: {why}" in page
    assert '<circle class="recipe"' not in page and '<circle class="fewer_steps"' in page
    assert "1.37" not in str(found) and f"balanced: not accelerated: {why}." in str(found)
