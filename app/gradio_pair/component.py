"""The component: what a program gives it, and what its page is told."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import gradio as gr
import numpy as np

from accel.app.gradio_pair.sheets import FrameSheets, write_sheets
from accel.measure.media import Pixels
from accel.measure.metrics import to_frames
from accel.rendering.inputs import load_video

_FOLDER = Path(__file__).parent


class GradioPair(gr.HTML):  # type: ignore[misc]
    """Two clips frame by frame under one transport: side by side, under a slider, flipped, or their difference.

    The browser draws both from sheets of frames onto canvases, so they cannot run apart, every frame can be shown at
    once, and the difference is exact. Keys: space, the arrows, Home and End for frames, 1 to 4 for the views, F to
    flip, W for the worst frame.

    Args:
        value: a pair of clips of one size and length, or None for an empty stage. Each is the file of a video, an
            array or tensor (frames, height, width, 3) of uint8 or of floats in [0, 1], a list of PIL images, or what a
            pipeline returned. As an output of an event it takes the same. A dict is passed to the page as it is.
        names: what the clips are called.
        fps: frames per second of playback.
        empty: what stands on the empty stage.
        arguments: those of every gradio component, such as elem_id.

    The sheets are written when the value is set. Above 24 million pixels a clip is sent as WebP of quality 92, and
    differences then hold its errors too. Not for clips of different sizes.
    """

    def __init__(
        self,
        value: Any = None,
        *,
        names: tuple[str, str] = ("before", "after"),
        fps: float = 8.0,
        empty: str = "",
        **arguments: Any,
    ) -> None:
        self.names, self.fps = names, fps
        super().__init__(
            value,
            html_template=_read("viewer.html"),
            css_template=_read("viewer.css"),
            js_on_load=_read("viewer.js"),
            apply_default_css=False,
            empty=empty,
            **arguments,
        )

    def postprocess(self, value: Any) -> dict[str, Any] | None:
        """What the page draws. Raises ValueError for two clips that cannot be compared."""
        if value is None or isinstance(value, dict):
            return value
        first, second = map(_pixels, value)
        if first.shape != second.shape:
            raise ValueError(f"The clips must have one shape, not {first.shape[:3]} and {second.shape[:3]}.")
        folder = Path(mkdtemp(dir=self._cache()))
        sheets = [write_sheets(clip, folder) for clip in (first, second)]
        self.temp_files |= {str(path) for each in sheets for path in each.files}  # gradio serves these, and no others
        return page_value(sheets, first.shape, self.names, self.fps) | {"worst": worst_frame(first, second)}

    def _cache(self) -> Path:
        folder = Path(self.GRADIO_CACHE).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def api_info(self) -> dict[str, Any]:
        return {"type": "object"}


def page_value(sheets: list[FrameSheets], shape: tuple[int, ...], names: tuple[str, str], fps: float) -> dict[str, Any]:
    """What the viewer needs to draw clips of this shape (frames, height, width, ...) from their sheets."""
    frames, height, width = shape[:3]
    return {
        "names": list(names),
        "frames": frames,
        "width": width,
        "height": height,
        "fps": fps,
        "columns": sheets[0].columns,
        "rows": sheets[0].rows,
        "exact": sheets[0].exact,
        "sheets": [[url(path) for path in each.files] for each in sheets],
        "sounds": [],
        "worst": None,
        "curve": "",
        "downloads": [],
    }


def worst_frame(first: Pixels, second: Pixels) -> int:
    """Where the two differ most, by mean square."""
    errors = [float(np.square(a.astype(np.float32) - b).mean()) for a, b in zip(first, second, strict=True)]
    return int(np.argmax(errors))


def url(path: Path) -> str:
    """Where the server gives this file; relative, so that it also works behind a proxy with a path of its own."""
    return f"gradio_api/file={path}"


def _pixels(clip: Any) -> Pixels:
    if isinstance(clip, str | Path):
        clip = load_video(str(clip))
    return np.asarray((to_frames(clip) * 255).round(), np.uint8)


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
