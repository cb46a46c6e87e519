"""The viewer with sounds, in a real browser without a server: three of them in step, one of them heard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gradio", reason="the app needs gradio")
pytest.importorskip("playwright", reason="browser tests need playwright")
from PIL import Image

from accel.app import gradio_pair
from accel.measure.sound import Sound, encode_wav, spectrogram
from tests.app.chromium import chromium, needs_chromium

pytestmark = needs_chromium
VIEWER = Path(gradio_pair.__file__).parent
PAGE = """<!doctype html><meta charset="utf-8"><style>%s</style><div id="root">%s</div>
<script>
const element = document.getElementById("root"), props = { value: %s }, watch = () => {};
(() => { %s; window.viewed = state; })();
</script>"""
NAMES = ("unaccelerated", "balanced", "difference")


def written(folder: Path) -> dict[str, Any]:
    """Three seconds of tones, as `pair_value` tells of them."""
    time = np.arange(3 * 8000) / 8000
    sounds, sheets = [], []
    for number, name in enumerate(NAMES):
        tone = Sound((np.sin(2 * np.pi * 440 * (number + 1) * time) / (number + 1)).astype(np.float32)[:, None], 8000)
        (folder / f"{name}.wav").write_bytes(encode_wav(tone))
        Image.fromarray(spectrogram(tone)).save(folder / f"{name}.png")
        sounds.append(f"{name}.wav")
        sheets.append([f"{name}.png"])
    height, width = spectrogram(tone).shape[:2]
    return {
        "names": list(NAMES[:2]), "frames": 1, "width": width, "height": height, "fps": 8.0, "columns": 1, "rows": 1,
        "exact": True, "sheets": sheets, "sounds": sounds, "worst": None, "curve": "", "downloads": [],
    }  # fmt: skip


def test_sounds_are_in_step_and_one_is_heard(tmp_path: Path) -> None:
    value = json.dumps(written(tmp_path))
    page_file = tmp_path / "page.html"
    sheet, template, script = ((VIEWER / f"viewer.{kind}").read_text() for kind in ("css", "html", "js"))
    page_file.write_text(PAGE % (sheet, template.replace("{{empty}}", ""), value, script))
    with chromium("--autoplay-policy=no-user-gesture-required") as browser:
        page = browser.new_page()
        page.goto(page_file.as_uri())
        page.wait_for_function("viewed.sounds.every((sound) => sound.duration > 2.9) && viewed.rate < 400", polling=100)
        assert page.locator(".frame").inner_text() == "0.00 s"
        page.locator(".scrubber").fill("200")
        assert page.locator(".frame").inner_text() in ("1.50 s", "1.51 s")
        page.locator("[data-action=play]").click()
        page.wait_for_function("viewed.sounds.every((sound) => sound.currentTime > 1.6)", polling=50)
        page.locator("[data-hear='2']").click()
        muted, times = page.evaluate("[viewed.sounds.map((s) => s.muted), viewed.sounds.map((s) => s.currentTime)]")
        assert muted == [True, True, False] and max(times) - min(times) < 0.25
        page.locator("[data-action=play]").click()
        assert page.evaluate("viewed.sounds.every((sound) => sound.paused)")
        page.locator("[data-mode=difference]").click()
        assert page.locator("figure[data-pane='0'] figcaption").inner_text() == "the difference, as a sound"
