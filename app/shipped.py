"""The comparison that is on the page before anything has run: made once, by `python -m benchmarks.shipped_pair`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from accel.app.pair import Pair, Side
from accel.app.settings import StudioSettings
from accel.app.timed_run import kept_side
from accel.measure.metrics import Clip
from accel.measure.output import PipelineOutput

FOLDER = Path(__file__).parent / "example"
MODEL = "pocket:video"
_NOTE = "An example that was made before, on another machine. Generate makes one of your own."
_SIDES = ("baseline", "accelerated")
_OF_SIDE = ("seconds", "calls", "timeline", "report", "levers")
_OF_PAIR = ("key", "metrics", "psnr_per_frame", "worst_frame", "baseline_when", "fps", "when")


def shipped_pair(clips: Path) -> Pair:
    """The pair, its clips as files in this folder."""
    data = json.loads((FOLDER / "pair.json").read_text(encoding="utf-8"))
    settings = StudioSettings.from_dict(data["settings"])
    wanted = {"baseline": settings.unaccelerated, "accelerated": settings}
    sides: dict[str, Any] = {
        name: kept_side(PipelineOutput(_read(FOLDER / f"{name}.webp")), each.job(data["fps"]), clips, data[name])
        for name, each in wanted.items()
    }
    known = {name: data[name] for name in _OF_PAIR} | {"psnr_per_frame": tuple(data["psnr_per_frame"])}
    return Pair(settings=settings, baseline_reused=False, timing_note="", notes=(_NOTE,), **known, **sides)


def ship(pair: Pair, folder: Path = FOLDER) -> None:
    """Writes a pair to where `shipped_pair` reads it."""
    folder.mkdir(exist_ok=True)
    data: dict[str, Any] = {name: getattr(pair, name) for name in _OF_PAIR} | {"settings": pair.settings.to_dict()}
    for name in _SIDES:
        side: Side = getattr(pair, name)
        data[name] = {field: getattr(side, field) for field in _OF_SIDE}
        strip = side.frames.reshape(-1, *side.frames.shape[2:])  # the frames below each other
        Image.fromarray(strip).save(folder / f"{name}.webp", lossless=True, method=6)
    (folder / "pair.json").write_text(json.dumps(data, separators=(",", ":")) + "\n", encoding="utf-8")


def _read(path: Path) -> Clip:
    strip = np.asarray(Image.open(path).convert("RGB"), np.float32) / np.float32(255.0)
    return strip.reshape(-1, strip.shape[1], strip.shape[1], 3)  # the example is square
