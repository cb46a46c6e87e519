"""The pair of clips as a component of somebody's own page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gradio", reason="the component needs gradio")
import gradio as gr
from fastapi.testclient import TestClient
from PIL import Image

from accel.app.gradio_pair import GradioPair
from accel.measure.media import save_clip


def clip(seed: int, frames: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 16, 24, 3)).astype(np.uint8)


def test_the_page_can_fetch_every_frame_exactly() -> None:
    before, after = clip(0), clip(0)
    after[3] = 255 - after[3]
    with gr.Blocks() as page:
        pair = GradioPair((before, after), names=("one", "other"), fps=4.0)
    value = pair.value
    assert (value["names"], value["frames"], value["width"], value["height"]) == (["one", "other"], 5, 24, 16)
    assert (value["worst"], value["fps"], value["exact"]) == (3, 4.0, True)
    client = TestClient(gr.routes.App.create_app(page))
    for made, [url] in zip((before, after), value["sheets"], strict=True):
        answer = client.get(url)
        assert answer.status_code == 200
        assert np.array_equal(frames_of(Path(url.removeprefix("gradio_api/file=")), value), made)


def frames_of(sheet: Path, value: dict[str, int]) -> np.ndarray:
    picture = np.asarray(Image.open(sheet))
    columns, height, width = value["columns"], value["height"], value["width"]
    places = [(at // columns * height, at % columns * width) for at in range(value["frames"])]
    return np.stack([picture[top : top + height, left : left + width] for top, left in places])


def test_it_takes_floats_and_files(tmp_path: Path) -> None:
    exact = clip(1)
    video = save_clip(tmp_path / "clip", exact, 8.0)
    value = GradioPair().postprocess((exact / np.float32(255), video))
    assert value is not None and value["frames"] == 5
    left, right = (frames_of(Path(urls[0].removeprefix("gradio_api/file=")), value) for urls in value["sheets"])
    assert np.array_equal(left, exact) and left.shape == right.shape


def test_an_empty_stage_and_clips_that_do_not_fit() -> None:
    assert GradioPair(empty="Nothing yet").value is None
    with pytest.raises(ValueError, match=r"The clips must have one shape, not \(5, 16, 24\) and \(4, 16, 24\)"):
        GradioPair((clip(0), clip(1, frames=4)))
